"""What only a store in NATS can get wrong: servers that refuse, limits, lost answers, foreign streams."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn
from uuid import UUID, uuid4

import pytest

import evlog
from evlog import NewEvent
from evlog.engines import keyed, waiting
from evlog.engines.nats import compaction, connections, history, session
from evlog.engines.nats.address import Address
from evlog.engines.nats.connections import Connections
from evlog.engines.nats.engine import NatsEngine
from evlog.engines.nats.jetstream import FORMAT, JetStream, Stored, publish_one
from evlog.engines.nats.layout import Subjects, encode_id, tail_place
from evlog.engines.nats.session import Lost
from evlog.errors import NotAStore, ServerUnsuitable, StoreAccessDenied, StoreNotFound, StoreUnreachable
from tests.support import nats
from tests.support.postgresql import scratch
from tests.support.programs import next_line, start_python
from tests.support.server import free_port
from tests.support.tcp_proxy import ANSWER, REQUEST, proxying

NewUrl = Callable[[], str]
LONG_SECONDS = 120.0


def engine_of(store: evlog.EventStore) -> NatsEngine:
    assert isinstance(store.engine, NatsEngine)
    return store.engine


def numbered(count: int, first: int = 1) -> list[NewEvent]:
    return [NewEvent("T", n, id=UUID(int=n)) for n in range(first, first + count)]


# --- addresses


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://h/n", [("h", 4222)]),
        ("nats://a:1,b,[::1]:3/n", [("a", 1), ("b", 4222), ("::1", 3)]),
    ],
)
def test_an_address_names_servers(url: str, servers: list[tuple[str, int]]) -> None:
    assert Address(url).servers == servers


@pytest.mark.parametrize(
    "url",
    [
        "nats://h",
        "nats://h/",
        "nats://h/a/b",
        "nats://h/a.b",
        "nats:///n",
        "nats://h:x/n",
        "nats://h/n?replicas=2",
        "nats://h/n?what=1",
        "nats://h/n?tls=maybe",
        "nats://h/n?timeout=0",
        "nats://h/n?timeout=x",
    ],
)
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(evlog.InvalidArgument, match=r"nats://|URL"):
        evlog.open(url, create=True)


@pytest.mark.parametrize(
    ("url", "shown", "user", "password", "token"),
    [
        ("nats://me:secret@h/n", "nats://me@h/n", "me", "secret", None),
        ("nats://me:se%40cret@h/n", "nats://me@h/n", "me", "se@cret", None),
        ("nats://secret@h/n", "nats://***@h/n", None, None, "secret"),
    ],
)
def test_secrets_are_not_shown(
    url: str, shown: str, user: str | None, password: str | None, token: str | None
) -> None:
    address = Address(url)
    assert (address.text, address.user, address.password, address.token) == (shown, user, password, token)


def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_USER", "me")
    monkeypatch.setenv("NATS_PASSWORD", "secret")
    assert (Address("nats://h/n").user, Address("nats://h/n").password) == ("me", "secret")
    assert Address("nats://other:x@h/n").user == "other"


# --- servers


def test_a_server_that_does_not_answer_is_unreachable() -> None:
    with pytest.raises(StoreUnreachable) as caught:
        evlog.open(f"nats://127.0.0.1:{free_port()}/n?timeout=0.1")
    assert caught.value.exit_code == 12


@pytest.mark.parametrize(
    ("options", "seconds", "seconds_to_open"), [("", 30, 3), ("?timeout=7", 7, 7), ("?timeout=60", 60, 60)]
)
def test_opening_waits_less_than_a_failover_unless_the_url_says_how_long(
    options: str, seconds: float, seconds_to_open: float
) -> None:
    address = Address("nats://h/n" + options)
    assert (address.timeout_seconds, address.open_timeout_seconds) == (seconds, seconds_to_open)


def test_opening_gives_up_after_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []

    def retry(_: Connections, __: object, timeout_seconds: float | None = None) -> object:
        asked.append(timeout_seconds)
        raise StoreUnreachable("nats://h/n", "refused")

    monkeypatch.setattr(Connections, "retry", retry)
    with pytest.raises(StoreUnreachable):
        evlog.open("nats://h/n")
    assert asked == [3.0]


def test_silent_servers_share_the_time_of_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    asked: list[tuple[str, float]] = []

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    def silent(_: Address, host: str, __: int, seconds: float) -> NoReturn:
        asked.append((host, seconds))
        wait(seconds)
        raise Lost(f"{host}: no answer in time")

    monkeypatch.setattr(connections, "Session", silent)
    for module in (connections, waiting):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now, sleep=wait))
    with pytest.raises(StoreUnreachable, match="a: no answer in time; b: no answer in time; c: no answer"):
        evlog.open("nats://a,b,c/n")
    assert asked[:3] == [("a", 1.0), ("b", 1.0), ("c", 1.0)]
    assert now < 1003.5


def test_a_silent_server_does_not_hide_one_that_answers(nats_url: NewUrl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, name = nats_url().removeprefix("nats://").split("/")
        url = f"nats://127.0.0.1:{silent.getsockname()[1]},{host}/{name}?timeout=4"
        with evlog.open(url, create=True) as store:
            assert store.head == 0


def test_a_store_that_is_not_there_is_not_found(nats_url: NewUrl) -> None:
    with pytest.raises(StoreNotFound):
        evlog.open(nats_url())


@pytest.fixture
def closed_server() -> Iterator[nats.Cluster]:
    """A server that asks for a password."""
    settings = "authorization { user: me, password: right }\nmax_payload: 65536"
    with scratch() as folder:
        cluster = nats.Cluster(folder, 1, settings)
        try:
            cluster.start(0)
            yield cluster
        finally:
            cluster.stop()


def test_a_password_is_needed_and_not_shown(closed_server: nats.Cluster) -> None:
    with evlog.open(closed_server.url("n", "me:right", timeout=60), create=True) as store:  # once it runs
        assert "right" not in f"{store.path} {store.info()} {store!r}"
        assert store.append("a", [NewEvent("T")]).first_position == 1
        with pytest.raises(evlog.EventTooLarge) as too_large:
            store.append("a", [NewEvent("T", b"x" * 65536, content_type="binary")])
        assert too_large.value.limit_bytes == store.capabilities.max_event_bytes < 65536
        store.append("a", [NewEvent("T", b"x" * too_large.value.limit_bytes, content_type="binary")])
    for user in ("me:wrong", "token", ""):
        with pytest.raises(StoreAccessDenied) as caught:
            evlog.open(closed_server.url("n", user))
        assert "wrong" not in str(caught.value)
        assert caught.value.exit_code == 1


@pytest.fixture(scope="module")
def limited_server() -> Iterator[nats.Cluster]:
    """A server with small limits, and a user `reader` that can make no consumers."""
    settings = """
        max_payload: 131072
        max_pending: 1048576
        no_auth_user: me
        authorization { users: [
            { user: me, password: right }
            { user: reader, password: right, permissions: { publish: { deny: "$JS.API.CONSUMER.>" } } }
        ] }
    """
    with scratch() as folder, nats.serving(folder, settings=settings) as cluster:
        yield cluster


def test_answers_that_a_server_ends_early_are_requested_to_their_end(limited_server: nats.Cluster) -> None:
    """A stream that is left out of an answer would begin at version 1 again."""
    names = [f"s-{number:02}" for number in range(30)]
    url = limited_server.url("large")
    with evlog.open(url, create=True) as store:
        for name in names:
            store.append(name, [NewEvent("T", b"x" * 100_000, content_type="binary")])
    with evlog.open(url) as store:
        assert [info.last_version for info in store.streams()] == [1] * len(names)
        results = store.append_many([(name, [NewEvent("T")]) for name in names])
        assert [result.last_version for result in results] == [2] * len(names)
        assert store.verify().ok


def test_questions_about_many_long_names_fit_into_a_payload(limited_server: nats.Cluster) -> None:
    names = [f"{number:03}" + "é" * 100 for number in range(400)]
    with evlog.open(limited_server.url("names", timeout=2), create=True) as store:
        store.append_many([(name, [NewEvent("T")]) for name in names])
        assert [info.stream for info in store.streams()] == names
        assert store.append_many([(name, [NewEvent("T")]) for name in names])[-1].last_version == 2


def test_a_user_without_the_right_to_follow_is_told_so(limited_server: nats.Cluster) -> None:
    evlog.open(limited_server.url("rights"), create=True).close()
    with evlog.open(limited_server.url("rights", "reader:right")) as store:
        assert store.info().events == 0
        with pytest.raises(StoreAccessDenied, match=r"CONSUMER\.CREATE"), store.subscribe() as feed:
            next(iter(feed))


def test_a_limit_of_the_stream_is_the_largest_event(limited_server: nats.Cluster) -> None:
    url = limited_server.url("limit")
    with evlog.open(url, create=True) as store:
        config = engine_of(store)._core.config | {"max_msg_size": 10_000}
    name, port = config["name"], limited_server.ports[0]
    assert limited_server.ask(port, f"$JS.API.STREAM.UPDATE.{name}", json.dumps(config).encode())
    with evlog.open(url) as store:
        with pytest.raises(evlog.EventTooLarge) as caught:
            store.append("a", [NewEvent("T", b"x" * 10_000, content_type="binary")])
        store.append("a", [NewEvent("T", b"x" * caught.value.limit_bytes, content_type="binary")])


def test_a_server_that_takes_no_data_is_not_waited_for_without_a_limit(
    limited_server: nats.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent is more than the buffers of the connection hold."""
    monkeypatch.setattr(session, "_SEND_SECONDS", 1)
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 1.0)
    events = [NewEvent("T", b"x" * 100_000, content_type="binary")] * 500
    with evlog.open(limited_server.url("slow", timeout=1), create=True) as store:
        store.append("a", [NewEvent("T")])
        with limited_server.suspended(0), pytest.raises(evlog.AppendUnknown) as caught:
            store.append("a", events)
        assert caught.value.exit_code == 12


def test_certificates_that_cannot_be_read_are_named(nats_url: NewUrl) -> None:
    with pytest.raises(evlog.InvalidArgument, match=r"/missing\.pem"):
        evlog.open(f"{nats_url()}?tls=yes&ca=/missing.pem")


def test_an_older_server_is_refused() -> None:
    """It only has to say that it is one: nothing else is asked of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b'INFO {"version":"2.14.9","jetstream":true}\r\nPONG\r\n')
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ServerUnsuitable, match=r"2\.14\.9") as caught:
            evlog.open(f"nats://127.0.0.1:{listener.getsockname()[1]}/n", create=True)
        thread.join()
    assert caught.value.exit_code == 10


def test_a_stream_of_another_program_is_not_a_store(nats_server: nats.Cluster) -> None:
    config = {"name": "evlog-foreign", "subjects": ["foreign.>"]}
    port = nats_server.ports[0]
    assert nats_server.ask(port, "$JS.API.STREAM.CREATE.evlog-foreign", json.dumps(config).encode())
    with pytest.raises(NotAStore):
        evlog.open(nats_server.url("foreign"), create=True)


def test_a_stream_that_forgets_events_is_refused(nats_server: nats.Cluster, nats_url: NewUrl) -> None:
    url = nats_url()
    with evlog.open(url, create=True) as store:
        config = engine_of(store)._core.config | {"max_age": 10**18}
    assert nats_server.ask(
        nats_server.ports[0], f"$JS.API.STREAM.UPDATE.{config['name']}", json.dumps(config).encode()
    )
    with pytest.raises(ServerUnsuitable, match="max_age"):
        evlog.open(url)


@pytest.mark.parametrize(
    ("format", "advice"),
    [("1", "export it"), ("", "export it"), ("one", "export it"), (str(FORMAT + 1), "install a newer evlog")],
)
def test_a_store_of_another_format_is_refused(
    nats_server: nats.Cluster, nats_url: NewUrl, format: str, advice: str
) -> None:
    """Stores of format 1 have other subjects: such a store would be read as an empty one."""
    url = nats_url()
    with evlog.open(url, create=True) as store:
        config = engine_of(store)._core.config
    config["metadata"]["evlog.format"] = format
    assert nats_server.ask(
        nats_server.ports[0], f"$JS.API.STREAM.UPDATE.{config['name']}", json.dumps(config).encode()
    )
    with pytest.raises(evlog.UnsupportedFormat, match=advice):
        evlog.open(url)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_stream_that_another_program_has_purged_is_damaged(
    nats_server: nats.Cluster, nats_url: NewUrl, kept: int
) -> None:
    url = nats_url()
    evlog.open(url, create=True).close()
    stream = f"evlog-{url.rpartition('/')[2]}"
    with evlog.open(url) as store, evlog.open(url) as other:
        store.append("a", [NewEvent("T", 1), NewEvent("T", 2)])
        assert nats_server.ask(nats_server.ports[0], f"$JS.API.STREAM.PURGE.{stream}", b'{"keep":%d}' % kept)
        for use in (
            other.info,
            other.verify,
            lambda: list(other.read_all()),
            lambda: other.append("a", [NewEvent("T", 3)]),
            lambda: other.stream_version("a"),
        ):
            with pytest.raises(evlog.CorruptionError, match="another program has removed") as caught:
                use()
            assert "salvage" not in str(caught.value)


@pytest.mark.parametrize("subject", ["foreign", "{id}.e.u.a.a", "{id}.e.u.b.b", "c"])
def test_a_message_of_another_program_at_the_end_is_damage(nats_url: NewUrl, subject: str) -> None:
    """It has no position: an append after it would begin at 1 again."""
    url = nats_url()
    with evlog.open(url, create=True) as store, store.subscribe(after=2) as run:
        store.append("a", [NewEvent("T", 1), NewEvent("T", 2)])
        name = f"evlog.{url.rpartition('/')[2]}.{subject.format(id=str(store.id)[-12:])}"
        publish_one(engine_of(store)._core.jetstream, name, b"x", b"")
        uses: list[Callable[[], object]] = [
            lambda: store.append("c", [NewEvent("T")]),
            lambda: store.append("a", [NewEvent("T")], expected=2),
            lambda: store.head,
            store.verify,
            store.subscriptions,
            lambda: run.next_event(LONG_SECONDS),
        ]
        for use in uses:
            with pytest.raises(evlog.CorruptionError, match=name):
                use()


def test_a_store_that_is_deleted_while_it_is_open_is_not_found(
    nats_server: nats.Cluster, nats_url: NewUrl
) -> None:
    url = nats_url()
    with pytest.raises(StoreNotFound, match="no store at"):
        evlog.open(url)
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T")])
        port = nats_server.ports[0]
        assert nats_server.ask(port, f"$JS.API.STREAM.DELETE.evlog-{url.rpartition('/')[2]}", b"")
        with pytest.raises(StoreNotFound, match="while it was open"):
            list(store.read_all())
        with pytest.raises(StoreNotFound):
            store.stream_version("a")


def test_a_record_is_not_put_into_a_bucket_that_was_deleted(
    nats_server: nats.Cluster, nats_url: NewUrl
) -> None:
    url = nats_url()
    with evlog.open(f"{url}?timeout=1", create=True) as store:
        assert isinstance(store.engine, NatsEngine)
        records = store.engine._core.records
        assert records.put(("snapshot", "s"), b"1", None)
        subject = f"$JS.API.STREAM.DELETE.KV_evlog-{url.rpartition('/')[2]}"
        assert nats_server.ask(nats_server.ports[0], subject, b"")
        with pytest.raises(StoreNotFound):
            records.put(("snapshot", "s"), b"2", None)


def test_a_store_that_is_deleted_during_a_read_is_not_found(
    nats_server: nats.Cluster, nats_url: NewUrl
) -> None:
    """No server answers the request for the next events."""
    url = nats_url()
    with evlog.open(url, create=True) as store:
        for _ in range(3):
            store.append("a", [NewEvent("T")] * 900)
        events = store.read_all()
        next(events)
        port = nats_server.ports[0]
        assert nats_server.ask(port, f"$JS.API.STREAM.DELETE.evlog-{url.rpartition('/')[2]}", b"")
        with pytest.raises(StoreNotFound):
            list(events)


def test_a_store_that_is_made_again_while_it_is_open_is_another_one(
    nats_server: nats.Cluster, nats_url: NewUrl
) -> None:
    url = nats_url()
    with evlog.open(url, create=True) as store, store.subscribe(idle=LONG_SECONDS) as feed:
        store.append("a", [NewEvent("T", 1), NewEvent("T", 2)])
        assert [next(iter(feed)).position for _ in range(2)] == [1, 2]
        port = nats_server.ports[0]
        assert nats_server.ask(port, f"$JS.API.STREAM.DELETE.evlog-{url.rpartition('/')[2]}", b"")
        with evlog.open(url, create=True) as other:
            other.append("b", [NewEvent("T", 3)])
        for use in (
            store.info,
            lambda: list(store.read_all()),
            lambda: store.append("a", [NewEvent("T", 3)]),
            lambda: next(iter(feed)),
        ):
            with pytest.raises(evlog.StoreReplaced):
                use()
        with evlog.open(url) as other:
            assert [event.stream for event in other.read_all()] == ["b"]


def test_a_writer_that_remembers_appends_nothing_to_a_stream_that_was_made_again(
    nats_server: nats.Cluster, nats_url: NewUrl
) -> None:
    """The other store has as many messages as the one that the writer knows."""
    url = nats_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", "old")])
        port = nats_server.ports[0]
        assert nats_server.ask(port, f"$JS.API.STREAM.DELETE.evlog-{url.rpartition('/')[2]}", b"")
        with evlog.open(url, create=True) as other:
            other.append("b", [NewEvent("T", "again")])
        with pytest.raises(evlog.StoreReplaced):
            store.append("a", [NewEvent("T", "lost")])
    with evlog.open(url) as store:
        assert [event.json() for event in store.read_all()] == ["again"]


def test_a_redaction_erases_nothing_in_a_stream_that_was_made_again(
    nats_server: nats.Cluster, nats_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = nats_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", "old")])
        _replace_before(monkeypatch, nats_server, url, "erase")
        with pytest.raises(evlog.StoreReplaced):
            store.redact(1, reason="r")
    with evlog.open(url) as store:
        assert [event.json() for event in store.read_all()] == ["again"]
        assert store.verify().ok


def test_a_compaction_removes_nothing_of_a_stream_that_was_made_again(
    nats_server: nats.Cluster, nats_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purge has no condition: it removes the messages of a subject below a sequence."""
    url = nats_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", "old"), NewEvent("T", "old")])
        store.set_retention("a", max_count=1)
        monkeypatch.setattr("evlog.engines.nats.core._FIRST_BITS", 0)  # the other store's sequences are lower
        _replace_before(monkeypatch, nats_server, url, "purge")
        with pytest.raises(evlog.StoreReplaced):
            store.compact()
    with evlog.open(url) as store:
        assert [event.json() for event in store.read_all()] == ["again"]
        assert store.verify().ok


def _replace_before(monkeypatch: pytest.MonkeyPatch, server: nats.Cluster, url: str, method: str) -> None:
    """Have another store with a stream `a` be made in the place of this one just before a request."""
    request = getattr(JetStream, method)

    def replace(*arguments: Any) -> Any:
        monkeypatch.setattr(JetStream, method, request)
        assert server.ask(server.ports[0], f"$JS.API.STREAM.DELETE.evlog-{url.rpartition('/')[2]}", b"")
        with evlog.open(url, create=True) as other:
            other.append("a", [NewEvent("T", "again")])
        return request(*arguments)

    monkeypatch.setattr(JetStream, method, replace)


# --- appends


@pytest.mark.parametrize("has_ids", [True, False])
def test_a_thousand_events_are_one_append_and_more_are_refused(nats_url: NewUrl, has_ids: bool) -> None:
    events = numbered(1001) if has_ids else [NewEvent("T", n) for n in range(1001)]
    with evlog.open(nats_url(), create=True) as store:
        with pytest.raises(evlog.TooManyEvents, match="1000"):
            store.append("a", events)
        assert store.head == 0
        made = store.append("a", events[:1000])
        assert (made.first_position, made.last_position) == (1, 1000)
        assert {frame for frame, _ in store.engine.read_frames(0, 1000)} == {1}
        assert store.engine.find_ids(made.id_bytes) == {id: n for n, id in enumerate(made.id_bytes, 1)}
        if has_ids:
            assert store.append("a", events[:1000]).duplicate
        assert store.verify().ok


def test_metadata_that_does_not_fit_into_headers_is_refused(
    nats_url: NewUrl, tmp_path: os.PathLike[str]
) -> None:
    with evlog.open(nats_url(), create=True) as store, evlog.open(f"{tmp_path}/m", create=True) as source:
        for mark, most in (("x", 63_479), ("%", 21_159)):  # one byte, and three
            store.append("%" * 255, [NewEvent("%" * 255, 1, metadata={"a": mark * most})])
            with pytest.raises(evlog.InvalidEvent, match=r"metadata is 634\d\d bytes as a header"):
                store.append("a", [NewEvent("T", 1, metadata={"a": mark * (most + 1)})])
        with pytest.raises(evlog.EventTooLarge):
            store.append("a", [NewEvent("T", "x" * 1_000_000, metadata={"a": "%" * 20_000})])
        source.append("a", numbered(1))
        source.append("a", [NewEvent("T", 1, metadata={"a": "x" * 70_000})])
        with evlog.open(nats_url(), create=True) as copy:
            with pytest.raises(evlog.MirrorLimit, match="70008 bytes of metadata at position 2"):
                evlog.mirror(source, copy)
            assert copy.head == 0


def test_a_mirror_takes_larger_appends_in_steps(nats_url: NewUrl, tmp_path: os.PathLike[str]) -> None:
    with evlog.open(f"{tmp_path}/m", create=True) as source, evlog.open(nats_url(), create=True) as store:
        source.append("a", numbered(700))
        source.append("a", numbered(2500, 701))
        source.append("b", numbered(3, 3201))
        evlog.mirror(source, store)
        assert list(store.read_all()) == list(source.read_all())
        assert evlog.Mirror(source, store).check().ok
        ids = [UUID(int=n).bytes for n in range(1, 3204)]
        assert store.engine.find_ids(ids) == {id: n for n, id in enumerate(ids, 1)}
        assert store.verify().digest == source.verify().digest


def test_an_index_entry_whose_event_did_not_come_is_not_a_known_id(nats_url: NewUrl) -> None:
    """With many ids the index is stored first: a writer may die before it stores the events."""
    with evlog.open(nats_url(), create=True) as store:
        store.append("a", numbered(3, 10))
        core = engine_of(store)._core
        tail = core.reader.tail()
        for sequence in (tail.sequence + 2, 3, 10**6):
            message = encode_id(core.subjects, UUID(int=99).bytes, sequence, tail_place(tail))
            core.appender.publish_all([message], core.reader.tail().sequence)
            core.appender.forget()
            assert store.engine.find_ids([UUID(int=99).bytes]) == {}
        assert not store.append("b", numbered(1, 99)).duplicate
        assert store.append("b", numbered(1, 99)).duplicate


def test_ids_that_evlog_made_are_known(nats_url: NewUrl, tmp_path: os.PathLike[str]) -> None:
    """Without an index, also in a mirror and in a store where other messages come between."""
    with evlog.open(nats_url(), create=True) as store, evlog.open(f"{tmp_path}/m", create=True) as copy:
        made = []
        for number in range(5):
            made.append(store.append("a", [NewEvent("T", n) for n in range(3)]))
            store.append(
                "a", [*numbered(1, 10 * number + 1), NewEvent("T", 5), *numbered(1, 10 * number + 2)]
            )
        ids = [event.id for event in store.read_all()]
        assert store.engine.find_ids([id.bytes for id in ids]) == {id.bytes: n for n, id in enumerate(ids, 1)}
        with pytest.raises(evlog.IdConflict):
            store.append("b", [NewEvent("T", 0, id=made[0].ids[0])])
        assert store.append("a", [NewEvent("T", n, id=made[2].ids[n]) for n in range(3)]).duplicate
        evlog.mirror(store, copy)
        with evlog.open(nats_url(), create=True) as back:
            evlog.mirror(copy, back)
            assert back.engine.find_ids([id.bytes for id in ids]) == {
                id.bytes: n for n, id in enumerate(ids, 1)
            }


@pytest.mark.parametrize("what", [REQUEST, ANSWER])
def test_an_append_whose_connection_is_cut_is_stored_once(
    nats_server: nats.Cluster, nats_url: NewUrl, what: str
) -> None:
    name = nats_url().rpartition("/")[2]
    with proxying(nats_server.ports[0]) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}/{name}"
        with evlog.open(url, create=True) as store:
            for number in range(12):
                before = proxy.cuts
                proxy.cut(what, passing=number % 4)
                result = store.append("a", [NewEvent("T", number)] * (1 + number % 2))
                assert not result.duplicate
                while proxy.cuts == before:
                    store.stream_version("a")
            events = list(store.read("a"))
            assert [int(event.data) for event in events] == [n for n in range(12) for _ in range(1 + n % 2)]
            assert store.verify().ok


@pytest.mark.parametrize("count", [1, 600])
def test_ids_of_a_try_that_was_lost_are_known_where_others_were_faster(
    nats_url: NewUrl, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Their sequences are another event's then: only the index finds them."""
    url = nats_url()
    with evlog.open(url, create=True) as store, evlog.open(url) as other:
        jetstream = engine_of(store)._core.jetstream
        publish, tries = jetstream.publish, iter(("unsent", "unanswered"))

        def lose(*arguments: Any) -> int:
            match next(tries, None):
                case "unsent":
                    other.append("b", [NewEvent("T", 0)])
                    raise Lost("cut")
                case "unanswered":
                    publish(*arguments)
                    other.append("b", [NewEvent("T", 1)])
                    raise Lost("cut")
            return publish(*arguments)

        monkeypatch.setattr(jetstream, "publish", lose)
        result = store.append("a", [NewEvent("T", n) for n in range(count)])
        assert not result.duplicate
        assert [int(event.data) for event in other.read("a")] == list(range(count))
        assert len(other.engine.find_ids(result.id_bytes)) == count
        assert store.verify().ok


# --- removals


class Killed(BaseException):
    pass


def killed(*_: object) -> NoReturn:
    raise Killed


def test_a_compaction_that_was_killed_before_it_purged_goes_on(
    nats_url: NewUrl, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with evlog.open(nats_url(), create=True) as store, evlog.open(f"{tmp_path}/m", create=True) as copy:
        for number in range(6):
            store.append(f"s-{number % 2}", [NewEvent("T", number)])
        store.set_retention("s-1", max_count=1)
        jetstream = engine_of(store)._core.jetstream
        with monkeypatch.context() as patch:
            patch.setattr(jetstream, "purge", killed)
            with pytest.raises(Killed):
                store.compact()
        evlog.mirror(store, copy)
        for _ in range(2):
            assert [int(event.data) for event in store.read_all()] == [0, 2, 4, 5]
            assert [int(event.data) for event in store.read("s-1")] == [5]
            assert [(info.stream, info.events) for info in store.streams()] == [("s-0", 3), ("s-1", 1)]
            assert store.info().events == 4
            assert store.verify().ok
            assert store.verify(quick=True).ok
            evlog.mirror(store, copy)
            assert evlog.Mirror(store, copy).check().ok
            store.set_retention("s-1", clear=True)  # what is removed does not come back
        assert store.compact().events_removed == 3  # and the policy that was replaced
        assert store.engine.removals() == 3
        assert engine_of(store)._core.reader.state().control.purging == ()
        assert [int(event.data) for event in store.read_all()] == [0, 2, 4, 5]
        assert store.verify(quick=True).ok
        assert store.verify().ok
        evlog.mirror(store, copy)
        assert list(copy.read_all()) == list(store.read_all())
        assert copy.verify().ok


@pytest.mark.parametrize(("name", "visible"), [("publish", [0, 1, 2]), ("purge", [2])])
def test_what_can_be_seen_during_a_compaction_is_not_purged(
    nats_url: NewUrl, monkeypatch: pytest.MonkeyPatch, name: str, visible: list[int]
) -> None:
    """Another user takes the policy back before the removal is stored, or before the purge."""
    with evlog.open(nats_url(), create=True) as store, evlog.open(store.path) as other:
        store.append("s", [NewEvent("T", number) for number in range(3)])
        store.set_retention("s", max_count=1)
        jetstream, seen = engine_of(store)._core.jetstream, list[object]()
        call = getattr(jetstream, name)

        def clear(*given: Any) -> Any:
            monkeypatch.undo()
            other.set_retention("s", clear=True)
            seen.extend(event.json() for event in other.read("s"))
            return call(*given)

        monkeypatch.setattr(jetstream, name, clear)
        store.compact()
        assert seen == visible
        assert [event.json() for event in other.read("s")] == visible
        assert [event.json() for event in store.read_all()] == visible
        assert store.verify().ok


@pytest.mark.parametrize("is_first", [False, True], ids=["while it is erased", "before it is removed"])
def test_a_redacted_event_that_is_removed_meanwhile_does_not_come_back(
    nats_url: NewUrl, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    with evlog.open(nats_url(), create=True) as store, evlog.open(store.path) as other:
        store.append("s", [NewEvent("T", number, tags=["t"]) for number in range(3)])
        store.set_retention("s", before=3)
        remove, keep = history.remove_events, history._keep

        def redact(*given: Any, **more: Any) -> int:
            monkeypatch.undo()
            other.redact(2, reason="r")
            return remove(*given, **more)

        def compact(*given: Any) -> None:
            monkeypatch.undo()
            store.compact()
            keep(*given)

        if is_first:
            monkeypatch.setattr(compaction, "remove_events", redact)
            store.compact()
        else:
            monkeypatch.setattr(history, "_keep", compact)
            other.redact(2, reason="r")
        assert [event.position for event in store.read_all()] == [3]
        assert store.verify().ok
        removed = [each for each in store.engine.read_removed(0, 9) if each.stream == "s"]
        assert [(each.position, bool(each.digest)) for each in removed] == [(1, True), (2, False)]


def test_a_removal_whose_answer_is_lost_is_counted_once(
    nats_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with evlog.open(nats_url(), create=True) as store:
        for number in range(3):
            store.append("s", [NewEvent("T", number)])
        store.set_retention("s", max_count=1)
        jetstream = engine_of(store)._core.jetstream
        publish, lost = jetstream.publish, iter([True])

        def lose(*arguments: Any) -> int:
            sequence = publish(*arguments)
            if next(lost, False):
                raise Lost("cut")
            return sequence

        monkeypatch.setattr(jetstream, "publish", lose)
        store.compact()
        assert store.engine.removals() == 2
        assert store.verify().ok


def test_a_mirror_that_was_killed_before_it_purged_goes_on(
    nats_url: NewUrl, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with evlog.open(f"{tmp_path}/m", create=True) as source, evlog.open(nats_url(), create=True) as store:
        for number in range(6):
            source.append(f"s-{number % 2}", [NewEvent("T", number)])
        evlog.mirror(source, store)
        source.set_retention("s-1", max_count=1)
        source.compact(force=True)
        jetstream = engine_of(store)._core.jetstream
        with monkeypatch.context() as patch:
            patch.setattr(jetstream, "purge", killed)
            with pytest.raises(Killed):
                evlog.mirror(source, store)
        assert store.verify().ok
        evlog.mirror(source, store)
        assert [int(event.data) for event in store.read_all()] == [0, 2, 4, 5]
        assert store.engine.removals() == 2
        assert evlog.Mirror(source, store).check().ok
        assert store.verify().ok


APPEND_ALL = """
import sys, evlog
with evlog.open(sys.argv[1]) as store:
    for number in range(1, 41):
        result = store.append("a", [evlog.NewEvent("T", number, id=evlog.UUID(int=number))])
        print(result.first_position, int(result.duplicate), flush=True)
""".replace("evlog.UUID", "__import__('uuid').UUID")


def test_ids_that_eight_processes_race_for_are_stored_once(nats_url: NewUrl) -> None:
    url = nats_url()
    evlog.open(url, create=True).close()
    racers = [start_python("-c", APPEND_ALL, url) for _ in range(8)]
    outputs = [racer.communicate(timeout=LONG_SECONDS)[0].split("\n") for racer in racers]
    places = {tuple(line.split()[0] for line in lines if line) for lines in outputs}
    assert places == {tuple(str(number) for number in range(1, 41))}
    assert sum(line.endswith(" 0") for lines in outputs for line in lines) == 40


def test_a_child_of_a_fork_uses_the_store(nats_url: NewUrl) -> None:
    with evlog.open(nats_url(), create=True) as store:
        store.append("a", [NewEvent("T", 1)])
        pid = os.fork()
        if not pid:
            try:
                store.append("a", [NewEvent("T", 2)])
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        store.append("a", [NewEvent("T", 3)])
        assert [int(event.data) for event in store.read("a")] == [1, 2, 3]


def test_a_child_of_a_fork_leaves_connections_to_its_parent(nats_url: NewUrl) -> None:
    with evlog.open(nats_url(), create=True) as store:
        connections = engine_of(store)._core.connections
        session = connections.take()
        pid = os.fork()
        if not pid:
            connections.give_back(session)
            os._exit(7 if connections.take() is not session else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        connections.give_back(session)
        assert connections.take() is session
        connections.give_back(session)


def test_a_name_of_a_killed_run_is_free_after_its_lease(nats_url: NewUrl) -> None:
    url = nats_url()
    program = (
        "import sys, time, evlog\n"
        "from evlog.engines import keyed\n"
        f"keyed.LEASE_SECONDS = {keyed.LEASE_SECONDS}\n"
        "store = evlog.open(sys.argv[1])\n"
        "run = store.subscribe('n')\n"
        "print(run.next_event(60).position, flush=True)\n"
        "time.sleep(600)\n"
    )
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 1), NewEvent("T", 2)])
        with start_python("-c", program, url) as holder:
            assert next_line(holder) == "1\n"
            with pytest.raises(evlog.SubscriptionBusy):
                store.subscribe("n")
            holder.kill()
        with store.subscribe("n", follow=False) as run:
            assert [event.position for event in run] == [1, 2]


# --- reads


def test_another_client_reads_events_and_their_headers(nats_url: NewUrl) -> None:
    nats_py = pytest.importorskip("nats")
    import asyncio

    url = nats_url()
    with evlog.open(url, create=True) as store:
        store.append("order-1", [NewEvent("Paid", {"a": 1}, tags=["t"], id=UUID(int=7))])
        name, id = engine_of(store)._core.address.name, str(store.id)

    async def get() -> object:
        client = await nats_py.connect(url.rpartition("/")[0])
        try:
            return await client.jetstream().get_msg(
                f"evlog-{name}", subject=f"evlog.{name}.{id[-12:]}.e.u.order.order-1"
            )
        finally:
            await client.close()

    message = asyncio.run(get())
    headers = message.headers  # type: ignore[attr-defined]
    assert message.data == b'{"a":1}'  # type: ignore[attr-defined]
    assert {key: headers[f"Evlog-{key}"] for key in ("Type", "Stream", "Version", "Position", "Id")} == {
        "Type": "Paid",
        "Stream": "order-1",
        "Version": "1",
        "Position": "1",
        "Id": str(UUID(int=7)),
    }
    assert json.loads(headers["Evlog-Metadata"]) == {"$tags": ["t"]}


def test_reads_begin_and_end_anywhere_in_a_long_log(nats_url: NewUrl) -> None:
    """Sequences run ahead of positions, unevenly."""
    with evlog.open(nats_url(), create=True) as store:
        number = 0
        for batch in range(12):
            for stream in ("a", "b"):
                events = [NewEvent("T", number + n, id=uuid4() if batch % 3 else None) for n in range(150)]
                store.append(stream, events)
                number += 150
        with evlog.open(store.path) as other:
            for after in (0, 1, 149, 150, 151, 1777, 3000, 3450, 3599, 3600):
                got = [event.position for event in other.read_all(after=after, limit=5)]
                assert got == list(range(after + 1, min(3600, after + 5) + 1)), after
                got = [event.position for event in other.read_all(to=after, reverse=True, limit=5)]
                assert got == list(range(after, max(0, after - 5), -1)), after
            for version in (1, 2, 700, 1799, 1800):
                (event,) = other.read("a", version, version)
                assert event.version == version
                got = [each.version for each in other.read("b", to_version=version, reverse=True, limit=3)]
                assert got == list(range(version, max(0, version - 3), -1))
            middle = next(other.read_all(after=1799, limit=1))
            assert next(other.read_all(since=middle.time)).time == middle.time
            assert len(list(other.read_all())) == 3600


@pytest.mark.parametrize("reverse", [False, True])
def test_a_read_that_has_begun_misses_no_event_that_is_erased_meanwhile(
    nats_url: NewUrl, reverse: bool
) -> None:
    with evlog.open(nats_url(), create=True) as store, evlog.open(store.path) as other:
        for number in range(6):
            store.append("ab"[number % 2], [NewEvent("T", number)])
        begun = [store.read_all(reverse=reverse), store.read("b", reverse=reverse), store.read_all(to=4)]
        other.redact(2, 4, 6, reason="r")
        log, stream, part = ([(event.position, event.redacted) for event in found] for found in begun)
        assert sorted(log) == [(n, n % 2 == 0) for n in range(1, 7)]
        assert sorted(stream) == [(2, True), (4, True), (6, True)]
        assert part == [(1, False), (2, True), (3, False), (4, True)]


def test_subjects_of_two_stores_do_not_meet(nats_server: nats.Cluster) -> None:
    with (
        evlog.open(nats_server.url("near"), create=True) as one,
        evlog.open(nats_server.url("near-2"), create=True) as other,
    ):
        one.append("a", [NewEvent("T", 1)])
        other.append("a", [NewEvent("T", 2)])
        assert [int(event.data) for event in one.read_all()] == [1]
        assert one.id != other.id
        assert not Subjects("near-2", str(one.id)).prefix.startswith(Subjects("near", "").all[:-1])


def test_streams_that_change_while_they_are_listed_are_listed_as_they_are(
    nats_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.engines.nats.reading._LISTED", 2)
    look = JetStream.last_of_each
    with evlog.open(url := nats_url(), create=True) as store, evlog.open(url) as other:
        for stream in ("a-1", "a-2", "a-3", "a-4"):
            store.append(stream, [NewEvent("T"), NewEvent("T")])

        def change(jetstream: JetStream, subjects: Sequence[str]) -> dict[str, Stored]:
            monkeypatch.setattr(JetStream, "last_of_each", look)
            other.append("a-1", [NewEvent("T")])
            other.append("a-3", [NewEvent("T")])
            other.set_retention("a-4", before=3)
            other.compact(force=True)
            return look(jetstream, subjects)

        monkeypatch.setattr(JetStream, "last_of_each", change)
        found = [
            (info.stream, info.events, info.first_version, info.last_version) for info in store.streams()
        ]
        assert found == [("a-1", 3, 1, 3), ("a-2", 2, 1, 2), ("a-3", 3, 1, 3), ("a-4", 0, 3, 2)]
