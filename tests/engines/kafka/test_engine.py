"""What the suite for all engines does not ask: the records that others read, the local index, refusals."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from uuid import UUID

import confluent_kafka
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import evlog
from evlog import NewEvent
from evlog.engines.kafka import records
from evlog.engines.kafka.address import Address
from evlog.engines.kafka.client import Client
from evlog.engines.kafka.engine import KafkaEngine
from evlog.engines.kafka.index import Place, index_path, save_place
from evlog.engines.kafka.records import encode_event
from evlog.engines.kafka.writing import Decision
from evlog.files.engine import DirectoryEngine
from evlog.model.history import Standing
from evlog.testing.base import in_threads
from evlog.testing.mirroring import everything
from evlog.transfer import fork, promote
from tests.support import kafka
from tests.support.programs import let_go, run_python, start_python

LONG_SECONDS = 120.0


def topic_of(url: str) -> str:
    return Address(url).topic


def server_of(url: str) -> str:
    return str(Address(url).settings["bootstrap.servers"])


def read_topic(url: str, partitions: int = 1) -> list[Any]:
    """Return everything in a topic, as a consumer reads it that knows nothing of evlog."""
    consumer = Consumer(
        {
            "bootstrap.servers": server_of(url),
            "group.id": "another program",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic_of(url), number, 0) for number in range(partitions)])
    found, ended = [], 0
    while ended < partitions:
        message = consumer.poll(LONG_SECONDS)
        assert message is not None
        if message.error() is None:
            found.append(message)
        else:
            assert message.error().code() == -191, message.error()
            ended += 1
    consumer.close()
    return found


def make_topic(url: str, partitions: int = 1, **settings: str) -> None:
    admin = AdminClient({"bootstrap.servers": server_of(url)})
    config = {name.replace("_", "."): value for name, value in settings.items()}
    new = NewTopic(topic_of(url), partitions, 1, config=config)
    admin.create_topics([new])[topic_of(url)].result(LONG_SECONDS)


@contextmanager
def on_another_machine(url: str, folder: Path) -> Iterator[evlog.EventStore]:
    """Open a store as on another machine: with a local index of its own, and turns with no other writer."""
    with kafka.indexes_in(folder):
        store = evlog.open(url)
    with store:
        yield store


FOREVER: dict[str, Any] = {"retention_ms": "-1", "retention_bytes": "-1"}


# --- what others read


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_plain_consumer_reads_keys_headers_and_payloads(
    kafka_url: Callable[[], str], tmp_path: Path, partitions: int
) -> None:
    url = kafka_url()
    make_topic(url, partitions, **FOREVER)
    with evlog.open(tmp_path / "source", create=True) as source:
        source.append_many(
            [
                ("order-1", [NewEvent("Paid", {"a": 1}, id=UUID(int=1), tags=["x:1"], metadata={"by": "é"})]),
                ("order-2", [NewEvent("Text", "line\n", id=UUID(int=2), content_type="text")]),
            ]
        )
        source.append("ü", [NewEvent("Bytes", b"\0\xff", id=UUID(int=3), content_type="binary")])
        source.append("ü", [NewEvent("Empty", b"", id=UUID(int=4), content_type="binary")])
        with evlog.open(url) as topic:
            assert evlog.mirror(source, topic).events == 4
        events = everything(source)
    messages = [message for message in read_topic(url, partitions) if message.key() is not None]
    messages.sort(key=lambda message: int(dict(message.headers())["Evlog-Position"]))
    assert [message.key().decode() for message in messages] == ["order-1", "order-2", "ü", "ü"]
    assert [message.value() for message in messages] == [b'{"a":1}', b"line\n", b"\0\xff", b""]
    assert [message.timestamp()[1] for message in messages] == [event.time_us // 1000 for event in events]
    headers = [{name: value.decode() for name, value in message.headers()} for message in messages]
    first = headers[0]
    assert json.loads(first.pop("Evlog-Metadata")) == {"$tags": ["x:1"], "by": "é"}
    assert first == {
        "Evlog-Position": "1",
        "Evlog-Version": "1",
        "Evlog-Stream": "order-1",
        "Evlog-Type": "Paid",
        "Evlog-Id": str(UUID(int=1)),
        "Evlog-Time": str(events[0].time_us),
        "Evlog-Frame": "1",
        "Evlog-Frame-Last": "2",
        "Evlog-Content-Type": "json",
    }
    assert [each["Evlog-Content-Type"] for each in headers] == ["json", "text", "binary", "binary"]
    assert [each["Evlog-Frame-Last"] for each in headers] == ["2", "2", "3", "4"]
    assert "Evlog-Metadata" not in headers[1]
    by_stream: dict[bytes, set[int]] = {}
    for message in messages:
        by_stream.setdefault(message.key(), set()).add(message.partition())
    assert all(len(found) == 1 for found in by_stream.values())


def test_records_of_other_programs_mean_nothing(kafka_url: Callable[[], str]) -> None:
    url = kafka_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 1)])
        producer = Producer({"bootstrap.servers": server_of(url)})
        producer.produce(topic_of(url), b"x", b"a")
        producer.produce(topic_of(url), None, None)
        assert producer.flush(LONG_SECONDS) == 0
        assert store.append("a", [NewEvent("T", 2)], 1).first_position == 2
        assert store.verify().ok


# --- many partitions


def test_many_partitions_take_a_mirror_exactly_once_and_nothing_else(
    kafka_url: Callable[[], str], tmp_path: Path
) -> None:
    url = kafka_url() + "?partitions=3"
    with evlog.open(tmp_path / "source", create=True) as source:
        for number in range(30):
            source.append(f"s-{number % 7}", [NewEvent("T", number)])
        source.consume("n", lambda _: None, follow=False)
        source.delete_stream("s-6")
        source.compact()
        with evlog.open(url, create=True) as topic:
            assert evlog.mirror(source, topic).position == source.head
            assert evlog.mirror(source, topic).events == 0
            for refused in (
                lambda: topic.append("a", [NewEvent("T", 1)]),
                lambda: list(topic.read("s-1")),
                lambda: list(topic.read_all()),
                topic.verify,
                topic.subscribe,
            ):
                with pytest.raises((evlog.Unsupported, evlog.StoreIsMirror)):
                    refused()
        source.append("s-1", [NewEvent("T", 30)])
        with evlog.open(url) as topic:
            assert evlog.mirror(source, topic).events == 1
            assert topic.head == source.head
            assert topic.engine.checkpoint_names() == ["n"]
        events = everything(source)
        with evlog.open(url) as topic:
            with pytest.raises(evlog.Unsupported, match="only takes a mirror; use a topic of one partition"):
                evlog.mirror(source, topic, cutover=True)
            with pytest.raises(evlog.Unsupported, match="only takes a mirror"):
                promote(topic)
            assert topic.standing.mirror_of == str(source.id)
        assert source.standing == Standing()
        with evlog.open(kafka_url() + "?partitions=3", create=True) as topic:
            for copy in (lambda: fork(source, topic), lambda: evlog.mirror(source, topic, merge=True)):
                with pytest.raises(evlog.Unsupported, match="only takes a mirror"):
                    copy()
            assert topic.standing == Standing()
            assert topic.head == 0
    found = {int(dict(m.headers())["Evlog-Position"]): m.value() for m in read_topic(url, 3)}
    assert found == {event.position: event.data for event in events}
    with evlog.open(tmp_path / "other", create=True) as other:
        other.append("a", [NewEvent("T", 1)])
        with evlog.open(url) as topic, pytest.raises(evlog.MirrorConflict):
            evlog.mirror(other, topic)


def test_a_redaction_is_copied_into_many_partitions_only_where_its_events_had_no_content(
    kafka_url: Callable[[], str], tmp_path: Path
) -> None:
    url = kafka_url() + "?partitions=3"
    with evlog.open(tmp_path / "source", create=True) as source, evlog.open(url, create=True) as topic:
        for number in range(5):
            source.append("s", [NewEvent("T", f"secret {number}")])
        source.redact(2, reason="r")
        with evlog.Mirror(source, topic, piece_events=1) as mirror:
            assert mirror.copy().position == 6
        source.redact(3, reason="r")
        source.append("s", [NewEvent("T", 6)])
        with pytest.raises(evlog.Unsupported, match=r"redaction at position 7 .* copy into a new store"):
            evlog.mirror(source, topic)
        assert topic.head == 6
    assert not any(b"secret 1" in (message.value() or b"") for message in read_topic(url, 3))


# --- what is refused


@pytest.mark.parametrize(
    "settings",
    [
        {"retention_ms": "1000", "retention_bytes": "-1"},
        {"retention_ms": "-1", "retention_bytes": "1000000"},
        {**FOREVER, "cleanup_policy": "compact"},
        {**FOREVER, "unclean_leader_election_enable": "true"},
    ],
)
def test_a_topic_that_can_lose_records_is_refused(
    kafka_url: Callable[[], str], settings: dict[str, str]
) -> None:
    url = kafka_url()
    make_topic(url, 1, **settings)
    for create in (False, True):
        with pytest.raises(evlog.ServerUnsuitable):
            evlog.open(url, create=create)


@pytest.mark.parametrize(
    "url",
    [
        "kafka:///t",
        "kafka://h",
        "kafka://h/",
        "kafka://h/a/b",
        "kafka://h/..",
        "kafka://h/t?partitions=0",
        "kafka://h/t?partitions=x",
        "kafka://h/t?acks=1",
        "kafka://h/t?transactional.id=x",
        "kafka://h/t?config=/does/not/exist",
        "kafka://[h/t",
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str) -> None:
    with pytest.raises(evlog.InvalidArgument):
        evlog.open(url)


def test_a_setting_that_the_client_does_not_know_is_refused(kafka_url: Callable[[], str]) -> None:
    with pytest.raises(evlog.InvalidArgument, match=r"no\.such\.setting"):
        evlog.open(kafka_url() + "?no.such.setting=1")


def test_no_secret_of_a_url_is_shown(tmp_path: Path) -> None:
    settings = tmp_path / "client.properties"
    settings.write_text("# ours\nsasl.mechanism = SCRAM-SHA-256\n\nsasl.password=hidden\n")
    address = Address(f"kafka://me:hunter2@h1,h2:9/t?ssl.key.password=abc&client.id=x&config={settings}")
    assert address.text == f"kafka://me@h1,h2:9/t?ssl.key.password=***&client.id=x&config={settings}"
    assert address.settings["sasl.username"] == "me"
    assert address.settings["sasl.password"] == "hunter2"
    assert address.settings["sasl.mechanism"] == "SCRAM-SHA-256"
    assert address.settings["bootstrap.servers"] == "h1,h2:9"


@pytest.mark.parametrize("setting", ["oauth_cb=x", "logger=x", "default.topic.config=x", "batch.size=9"])
def test_a_setting_that_is_evlog_s_own_is_refused(setting: str) -> None:
    with pytest.raises(evlog.InvalidArgument, match="leave it out"):
        Address(f"kafka://h/t?{setting}")


def test_a_wrong_password_is_named_as_the_reason(kafka_server: kafka.KafkaServer) -> None:
    where = f"127.0.0.1:{kafka_server.password_port}/x?security.protocol=SASL_PLAINTEXT"
    with pytest.raises(evlog.StoreNotFound):
        evlog.open(f"kafka://me:right@{where}")
    with pytest.raises(evlog.StoreAccessDenied, match="Invalid username or password") as caught:
        evlog.open(f"kafka://me:nonsense@{where}")
    assert "nonsense" not in str(caught.value)


def test_a_batch_is_within_the_limit_of_the_topic(kafka_url: Callable[[], str]) -> None:
    url = kafka_url()
    make_topic(url, **FOREVER, max_message_bytes="50000")
    with evlog.open(url) as store:
        largest = store.capabilities.max_event_bytes
        store.append("a", [NewEvent("T", b"x" * 5000, content_type="binary")] * 100)
        store.append("a", [NewEvent("T", b"x" * largest, content_type="binary")] * 3)
        assert store.head == 103


def test_a_broker_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(evlog.StoreUnreachable):
        evlog.open("kafka://127.0.0.1:9/t")


def test_a_missing_topic_is_not_found(kafka_url: Callable[[], str]) -> None:
    with pytest.raises(evlog.StoreNotFound):
        evlog.open(kafka_url())


def test_an_event_over_the_limit_is_refused_before_anything_is_written(kafka_url: Callable[[], str]) -> None:
    with evlog.open(kafka_url(), create=True) as store:
        most = store.capabilities.max_event_bytes
        name = "n" * 255
        store.append(name, [NewEvent("t" * 255, b"x" * most, content_type="binary")])
        with pytest.raises(evlog.EventTooLarge):
            store.append("a", [NewEvent("T", 1), NewEvent("T", b"x" * (most + 1), content_type="binary")])
        assert store.head == 1


# --- the local index


def test_a_lost_or_foreign_index_is_built_again(kafka_url: Callable[[], str]) -> None:
    url = kafka_url()
    with evlog.open(url, create=True) as store:
        for number in range(20):
            store.append(f"s-{number % 3}", [NewEvent("T", number, id=UUID(int=number + 1))])
        store.consume("n", lambda _: None, follow=False)
        before, id = everything(store), store.engine.store_id
    shutil.rmtree(index_path(id))
    with evlog.open(url) as store:
        assert everything(store) == before
        assert store.append("s-0", [NewEvent("T", 0, id=UUID(int=1))]).duplicate
        assert store.append("s-0", [NewEvent("T", 20)], 7).first_position == 21
        assert [info.name for info in store.subscriptions()] == ["n"]
    other = kafka_url()
    with evlog.open(other, create=True) as store:
        for number in range(30):
            store.append("other", [NewEvent("T", number)])
        other_id = store.engine.store_id
    # An index that has another history than the topic, as where brokers have lost records.
    shutil.rmtree(index_path(other_id))
    shutil.copytree(index_path(id), index_path(other_id))
    with evlog.open(other) as store:
        assert {event.stream for event in everything(store)} == {"other"}
        assert store.verify().ok


def test_a_damaged_index_is_built_again(kafka_url: Callable[[], str]) -> None:
    url = kafka_url()
    with evlog.open(url, create=True) as store:
        for data in ("secret", "other"):
            store.append("a", [NewEvent("T", data)])
        id, before = store.engine.store_id, everything(store)
    (log,) = Path(index_path(id)).glob("segments/*.log")
    log.write_bytes(log.read_bytes().replace(b"secret", b"sEcret"))
    with evlog.open(url) as store:
        assert everything(store) == before
        assert store.verify().ok


@pytest.mark.parametrize(("offset", "known"), [(4, 1), (4, 3), (0, 3), (1_000_000, 3)])
def test_a_place_that_is_not_the_index_s_or_the_topic_s_is_not_used(
    kafka_url: Callable[[], str], tmp_path: Path, offset: int, known: int
) -> None:
    """As after a power loss that took the end of the index, or brokers that have lost records."""
    url = kafka_url()
    with evlog.open(url, create=True) as store:
        path = index_path(store.engine.store_id)
        for number in range(3):
            store.append("a", [NewEvent("T", number)])
            assert store.head == number + 1
            if number + 1 == known:
                shutil.copytree(path, tmp_path / "copy")
        events = everything(store)
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "copy", path)
    index = DirectoryEngine(path)
    save_place(index, Place(offset, 3, events[2].id_bytes))  # each event is a transaction of two records
    index.close()
    mark = Path(path) / "snapshots" / "mark"
    mark.touch()
    with evlog.open(url) as store:
        assert everything(store) == events
        assert mark.exists() == (offset == 4)  # else the index is of another history, and is built again
        assert store.append("a", [NewEvent("T", 3)], 3).first_position == 4
        assert store.verify().ok


def test_a_standing_is_kept_where_its_record_is_not_read_again(
    kafka_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("evlog.engines.kafka.applying._SAVE_RECORDS", 1)
    url = kafka_url()
    with evlog.open(tmp_path / "source", create=True) as source:
        source.append("a", [NewEvent("T", 1)])
        source.append("a", [NewEvent("T", 2)])
        with evlog.open(url, create=True) as store, evlog.Mirror(source, store, piece_events=1) as mirror:
            mirror.copy()
            standing = store.standing
            assert standing.mirror_of == source.engine.store_id
    for _ in range(2):
        with evlog.open(url) as store:
            assert store.standing == standing
            with pytest.raises(evlog.StoreIsMirror):
                store.append("a", [NewEvent("T", 3)])


def test_a_record_by_key_is_replaced_only_where_it_was_read(kafka_url: Callable[[], str]) -> None:
    url = kafka_url()
    with evlog.open(url, create=True) as store, evlog.open(url) as other:
        assert isinstance(store.engine, KafkaEngine)
        assert isinstance(other.engine, KafkaEngine)
        one, two = store.engine._records, other.engine._records
        assert one.get(("k",)) is None
        first = one.put(("k",), b"1", None)
        assert first is not None
        assert two.put(("k",), b"2", None) is None
        second = two.put(("k",), b"2", first)
        assert second is not None
        assert one.put(("k",), b"3", first) is None
        assert not one.delete(("k",), first)
        assert one.get(("k",)) == (b"2", second)
        assert [key for key, _ in two.list(("k",))] == [("k",)]
        assert one.delete(("k",), second)
        assert two.get(("k",)) is None
        assert not two.delete(("k",), second)


def test_a_stalled_writer_does_not_take_the_revision_of_another_one_for_its_own(
    kafka_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would replace the lease of the run that has taken its name over."""
    url = kafka_url()
    with evlog.open(url, create=True) as store, evlog.open(url) as other:
        assert isinstance(store.engine, KafkaEngine)
        assert isinstance(other.engine, KafkaEngine)
        one, two = store.engine._records, other.engine._records
        write = one._writer.write

        def stall(decide: Any) -> Any:
            written = write(decide)
            there = two.get(("k",))
            assert there is not None
            assert two.put(("k",), b"2", there.revision) is not None
            assert one.get(("k",)) is not None  # its reader has the other record by now
            return written

        with monkeypatch.context() as patch:
            patch.setattr(one._writer, "write", stall)
            revision = one.put(("k",), b"1", None)
        assert revision is not None
        assert one.put(("k",), b"3", revision) is None
        found = one.get(("k",))
        assert found is not None
        assert found.value == b"2"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            KafkaException(KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)),
            evlog.StoreAccessDenied,
        ),
        (evlog.CorruptionError("topic", None, "a record makes no sense"), evlog.CorruptionError),
    ],
    ids=["denied", "damage"],
)
def test_an_append_that_is_refused_after_its_answer_was_lost_may_have_been_made(
    kafka_url: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    told: type[evlog.EvlogError],
) -> None:
    with evlog.open(kafka_url(), create=True) as store:
        assert isinstance(store.engine, KafkaEngine)
        store.append("a", [NewEvent("T", 0)])
        for writer in (store.engine._writer, store.engine._records._writer):
            send = writer._send

            def lost(*arguments: Any, send: Any = send) -> NoReturn:
                send(*arguments)
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

            def refused(_: float) -> NoReturn:
                raise error

            monkeypatch.setattr(writer, "_send", lost)
            if writer is store.engine._records._writer:
                writer._fence(LONG_SECONDS)
            monkeypatch.setattr(writer, "_fence", refused)
        with pytest.raises(evlog.AppendUnknown):
            store.append("a", [NewEvent("T", 1)])
        with pytest.raises(told):  # what is known not to be made has the error itself
            store.append("a", [NewEvent("T", 2)])
        store.engine._records.make_topic()
        with pytest.raises(evlog.StoreUnreachable):  # it is no append
            store.engine._records.put(("k",), b"1", None)
        assert [event.data for event in store.read("a")] == [b"0", b"1"]


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_writer_that_is_fenced_at_its_commit_finds_out_whether_it_was_made(
    kafka_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, is_committed: bool
) -> None:
    """The client sends a commit again whose answer was lost; another writer may have its turn by then."""
    with evlog.open(kafka_url(), create=True, lock_timeout=0) as store:
        store.append("a", [NewEvent("T", 0)])
        assert isinstance(store.engine, KafkaEngine)
        writer = store.engine._writer
        send = writer._send

        def fenced(*arguments: Any) -> NoReturn:
            monkeypatch.setattr(writer, "_send", send)
            if is_committed:
                send(*arguments)
            raise KafkaException(KafkaError(KafkaError._FENCED))

        monkeypatch.setattr(writer, "_send", fenced)
        if is_committed:
            assert store.append("a", [NewEvent("T", 1)]).last_version == 2
        else:
            with pytest.raises(evlog.LockTimeout):
                store.append("a", [NewEvent("T", 1)])
        assert len(list(store.read("a"))) == 1 + is_committed


def test_records_after_that_of_a_newer_format_are_not_read(kafka_url: Callable[[], str]) -> None:
    url = kafka_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 0)])
        assert isinstance(store.engine, KafkaEngine)
        newer = records._encode_control("format", 2)
        store.engine._writer.write(lambda: Decision(None, [newer]))
        with pytest.raises(evlog.UnsupportedFormat):
            list(store.read("a"))
        with pytest.raises(evlog.UnsupportedFormat):
            store.append("a", [NewEvent("T", 1)])
    with evlog.open(url) as store, pytest.raises(evlog.UnsupportedFormat):
        list(store.read("a"))


def delete_topic(url: str) -> None:
    admin = AdminClient({"bootstrap.servers": server_of(url)})
    admin.delete_topics([topic_of(url)])[topic_of(url)].result(LONG_SECONDS)
    while topic_of(url) in admin.list_topics(timeout=LONG_SECONDS).topics:
        pass


@pytest.mark.parametrize("has_turn", [True, False])
def test_nothing_is_acknowledged_in_a_topic_that_was_made_again(
    kafka_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, has_turn: bool
) -> None:
    """Its first event would have a position as if those of the old topic were there."""
    monkeypatch.setattr("evlog.engines.kafka.client._REMADE_SECONDS", 0)
    url = kafka_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 1), NewEvent("T", 2), NewEvent("T", 3)])
        assert isinstance(store.engine, KafkaEngine)
        if not has_turn:
            store.engine._writer._drop()
        delete_topic(url)
        make_topic(url, **FOREVER)
        with pytest.raises(evlog.StoreReplaced) as caught:
            store.append("a", [NewEvent("T", 4)])
        assert caught.value.exit_code == 5
        with pytest.raises(evlog.StoreReplaced):
            list(store.read_all())
    with evlog.open(url) as store:
        assert store.append("a", [NewEvent("T", 1)]).first_position == 1
        assert store.verify().ok


def test_a_topic_without_its_beginning_is_damaged(kafka_url: Callable[[], str]) -> None:
    url = kafka_url()
    with evlog.open(url, create=True) as store:
        for number in range(3):
            store.append("a", [NewEvent("T", number)])
        path = index_path(store.engine.store_id)
    admin = AdminClient({"bootstrap.servers": server_of(url)})
    until = TopicPartition(topic_of(url), 0, 2)
    admin.delete_records([until])[until].result(LONG_SECONDS)
    with evlog.open(url) as store, pytest.raises(evlog.CorruptionError):
        assert store.head
    assert DirectoryEngine(path).head() == 3  # which may be all that is left of them
    shutil.rmtree(path)
    with evlog.open(url) as store, pytest.raises(evlog.CorruptionError):
        assert store.head


def test_verify_compares_the_topic_with_the_index(kafka_url: Callable[[], str]) -> None:
    urls = [kafka_url() for _ in range(2)]
    for number, url in enumerate(urls):
        with evlog.open(url, create=True) as store:
            store.append("a", [NewEvent("T", 0, id=UUID(int=1))])
            store.append("a", [NewEvent("T", number, id=UUID(int=2))])
    with evlog.open(urls[0]) as store, evlog.open(urls[1]) as other:
        assert store.verify().ok
        assert other.verify().ok
        assert isinstance(store.engine, KafkaEngine)
        assert isinstance(other.engine, KafkaEngine)
        store.engine._applying.index, other.engine._applying.index = (
            other.engine._applying.index,
            store.engine._applying.index,
        )
        for each in (store, other):
            (finding,) = each.verify().findings
            assert (finding.kind, finding.position) == ("record", 1)  # their times are not the same


def test_an_aborted_transaction_at_the_end_delays_nobody(kafka_url: Callable[[], str]) -> None:
    url = kafka_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 1)])
        producer = Producer(
            {"bootstrap.servers": server_of(url), "transactional.id": f"evlog.{topic_of(url)}"}
        )
        producer.list_topics(timeout=LONG_SECONDS)
        producer.init_transactions(LONG_SECONDS)
        producer.begin_transaction()
        _, value, headers, _, _ = encode_event(next(store.read("a")), 1, b"1")
        for position in (b"2", b"3"):
            changed = headers | {"Evlog-Position": position, "Evlog-Frame": b"2", "Evlog-Frame-Last": b"3"}
            producer.produce(topic_of(url), value, b"a", headers=changed)
        producer.flush(LONG_SECONDS)
        assert store.head == 1  # it is open
        producer.abort_transaction(LONG_SECONDS)
        assert store.head == 1
        assert store.append("a", [NewEvent("T", 2)], 1).first_position == 2
        assert store.verify().ok


def test_an_answer_without_an_offset_is_not_the_end_of_the_topic(
    kafka_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that starts gives one, without an error: what was committed would not be read before."""
    url = kafka_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 1)])
        assert isinstance(store.engine, KafkaEngine)
        client = store.engine._client
        admin, answers = client.admin, iter([-1001, -1001])

        def list_offsets(asked: Any, **settings: Any) -> Any:
            offset = next(answers, None)
            if offset is None:
                return admin.list_offsets(asked, **settings)
            done: Future[Any] = Future()
            done.set_result(SimpleNamespace(offset=offset))
            return dict.fromkeys(asked, done)

        others = {name: getattr(admin, name) for name in ("list_topics", "describe_topics")}
        monkeypatch.setattr(Client, "admin", SimpleNamespace(list_offsets=list_offsets, **others))
        assert client.end(topic_of(url), 60) == 2
        assert next(answers, None) is None


# --- turns


def test_two_writers_that_fence_each_other_lose_nothing(kafka_url: Callable[[], str], tmp_path: Path) -> None:
    url = kafka_url()

    def work(store: evlog.EventStore, me: int) -> None:
        for number in range(10):
            store.append(f"s-{me}", [NewEvent("T", number)], number)

    with evlog.open(url, create=True) as store, on_another_machine(url, tmp_path) as other:
        in_threads(partial(work, each, me) for me, each in enumerate((store, other)))
        assert everything(store) == everything(other)
        for me in range(2):
            assert [int(event.data) for event in store.read(f"s-{me}")] == list(range(10))
        assert [event.position for event in store.read_all()] == list(range(1, 21))


def test_of_two_writers_with_one_id_only_one_is_told_that_it_is_new(
    kafka_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also if the other one was faster after this one had sent its event."""
    url = kafka_url()
    claim = [NewEvent("Claimed", idempotency_key="job")]
    with evlog.open(url, create=True) as store, on_another_machine(url, tmp_path) as other:
        store.append("a", [NewEvent("T", 1)])
        assert isinstance(store.engine, KafkaEngine)
        send, others = store.engine._writer._send, []

        def send_late(records: Any, deadline: float) -> int:
            others.append(other.append("jobs", claim))
            return send(records, deadline)

        monkeypatch.setattr(store.engine._writer, "_send", send_late)
        result = store.append("jobs", claim)
        assert [each.duplicate for each in others] == [False]
        assert (result.duplicate, result.ids) == (True, others[0].ids)


def test_an_append_that_is_committed_but_cannot_be_read_is_made(
    kafka_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the local index is full: the event is committed, and must not be appended again."""
    url = kafka_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 1)])
        assert isinstance(store.engine, KafkaEngine)

        def fail(_: Any) -> NoReturn:
            raise evlog.StoreFull("index", "No space left on device")

        monkeypatch.setattr(store.engine._applying, "apply", fail)
        assert store.append("a", [NewEvent("T", 2)]).first_position == 2
        with pytest.raises(evlog.StoreFull):
            store.append("a", [NewEvent("T", 3)])
        with pytest.raises(evlog.StoreFull):
            list(store.read_all())
    with evlog.open(url) as store:
        assert [int(event.data) for event in store.read_all()] == [1, 2]


def apply_late(store: evlog.EventStore, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the reader of a store apply nothing until its method is called."""
    assert isinstance(store.engine, KafkaEngine)
    reader, applying, called = store.engine._reader, store.engine._applying, threading.Event()
    apply, call = applying.apply, getattr(reader, method)

    def applies(messages: Any) -> None:
        assert called.wait(LONG_SECONDS)
        apply(messages)

    def calls(*arguments: Any) -> None:
        called.set()
        call(*arguments)

    monkeypatch.setattr(applying, "apply", applies)
    monkeypatch.setattr(reader, method, calls)


def test_a_refusal_is_of_the_log_as_it_is_now(
    kafka_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A writer that does not know yet that it was fenced decides again before it refuses."""
    url = kafka_url()
    with evlog.open(url, create=True) as store, on_another_machine(url, tmp_path) as other:
        store.append("a", [NewEvent("T", 1)])
        apply_late(store, "catch_up", monkeypatch)
        other.append("a", [NewEvent("T", 2)], 1)
        assert store.append("a", [NewEvent("T", 3)], 2).first_position == 3


def test_a_fenced_writer_reads_to_the_end_before_it_decides_again(
    kafka_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = kafka_url()
    with evlog.open(url, create=True) as store, on_another_machine(url, tmp_path) as other:
        store.append("a", [NewEvent("T", 1)])
        apply_late(store, "wait_for", monkeypatch)
        other.append("a", [NewEvent("T", 2)], 1)
        with pytest.raises(evlog.WrongExpectedVersion):
            store.append("a", [NewEvent("T", 3)], 1)
        assert [event.version for event in other.read("a")] == [1, 2]


def test_a_suspended_writer_is_fenced(kafka_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.engines.kafka.writing._TURN_SECONDS", 0.1)
    url = kafka_url()
    with evlog.open(url, create=True) as store, evlog.open(url) as other:
        assert isinstance(store.engine, KafkaEngine)
        store.append("a", [NewEvent("T", 1)])
        assert store.engine._writer._take_turn()  # as if it was suspended in the middle of an append
        for version in range(1, 4):
            other.append("a", [NewEvent("T", 2)], version)
        store.engine._writer._turn.release()
        with pytest.raises(evlog.WrongExpectedVersion):
            store.append("a", [NewEvent("T", 3)], 1)
        assert store.append("a", [NewEvent("T", 3)], 4).first_position == 5


def test_a_killed_writer_delays_nobody(kafka_url: Callable[[], str]) -> None:
    url = kafka_url()
    program = """
import os, signal, sys, evlog
from confluent_kafka import Producer
with evlog.open(sys.argv[1], create=True) as store:
    store.append("a", [evlog.NewEvent("T", 1)])
    writer = store.engine._writer
    assert writer._take_turn()
    writer._producer.begin_transaction()
    writer._producer.produce(store.engine._client.address.topic, b"never", b"a")
    writer._producer.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    run_python("-c", program, url, code=-9)
    with evlog.open(url) as store:
        assert store.head == 1
        assert store.append("a", [NewEvent("T", 2)], 1).first_position == 2
        assert store.verify().ok
    assert [message.value() for message in read_topic(url)] == [b"1", b"2"]


def test_the_same_id_raced_by_processes_is_stored_once(kafka_url: Callable[[], str]) -> None:
    url = kafka_url()
    evlog.open(url, create=True).close()
    program = """
import sys, evlog
with evlog.open(sys.argv[1]) as store:
    sys.stdin.readline()
    for n in range(1, 6):
        print(store.append("a", [evlog.NewEvent("T", n, idempotency_key=str(n))]).first_position)
"""
    processes = [start_python("-c", program, url) for _ in range(3)]
    for process in processes:
        let_go(process)
    answers = {process.communicate(timeout=LONG_SECONDS)[0] for process in processes}
    assert answers == {"1\n2\n3\n4\n5\n"}


def test_a_forked_child_uses_the_store(kafka_url: Callable[[], str]) -> None:
    url = kafka_url()
    program = """
import os, sys, evlog
with evlog.open(sys.argv[1], create=True) as store:
    store.append("a", [evlog.NewEvent("T", 1)])
    pid = os.fork()
    if not pid:
        print(store.append("a", [evlog.NewEvent("T", 2)], 1).first_position, store.head, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    print(store.append("a", [evlog.NewEvent("T", 3)], 2).first_position, store.head)
"""
    assert run_python("-W", "ignore", "-c", program, url).stdout == "2 2\n3 3\n"


def test_the_client_is_new_enough() -> None:
    assert confluent_kafka.libversion()[1] >= 0x02060000
