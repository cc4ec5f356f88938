"""What is DynamoDB's own: limits, the address, refusals of the service, the lease, what a mirror leaves."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import EventStore, IfNone, NewEvent
from evlog.engines.digest import LogDigest
from evlog.engines.dynamodb import compaction, table
from evlog.engines.dynamodb.client import Address, Client, Refused
from evlog.engines.dynamodb.core import Core
from evlog.engines.dynamodb.engine import DynamodbEngine
from evlog.engines.dynamodb.items import LOG_KEY, STAGED, encode_log, event_key, id_key
from evlog.model.appends import AppendRequest
from evlog.model.filters import LogSelection
from evlog.model.history import Standing
from evlog.model.redaction import encode_redaction
from evlog.model.retention import REDACTIONS_STREAM
from evlog.testing.base import LONG_SECONDS, in_threads, new, numbers
from evlog.transfer import promote
from evlog.transfer.pieces import read_pieces
from tests.cli.conftest import run_process
from tests.support.ministack import Ministack
from tests.support.refusing import refusing


@pytest.fixture
def store(dynamodb_url: Callable[[], str]) -> Any:
    with evlog.open(dynamodb_url(), create=True) as opened:
        yield opened


def client_of(store: EventStore) -> Client:
    assert isinstance(store.engine, DynamodbEngine)
    return store.engine._client


def core_of(store: EventStore) -> Core:
    assert isinstance(store.engine, DynamodbEngine)
    return store.engine._core


def everything(store: EventStore) -> list[evlog.Event]:
    return list(store.engine.read_all(LogSelection()))


def all_items(store: EventStore) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client_of(store).call("scan")["Items"]
    return items


# --- limits


def test_what_is_over_a_limit_is_refused_before_anything_is_written(store: EventStore) -> None:
    before = all_items(store)
    tags = ["a", "b", "c"]
    text = {"content_type": "text"}
    refused: list[tuple[list[NewEvent], type[Exception]]] = [
        ([new(number) for number in range(50)], evlog.TooManyEvents),
        ([new(number, tags=tags) for number in range(20)], evlog.TooManyEvents),
        ([NewEvent("T", "x" * 390_001, **text)], evlog.EventTooLarge),  # type: ignore[arg-type]
        ([NewEvent("T", "x" * 380_000, **text) for _ in range(11)], evlog.AppendTooLarge),  # type: ignore[arg-type]
    ]
    for events, error in refused:
        with pytest.raises(error) as caught:
            store.append("a", events)
        assert caught.value.exit_code == 2  # type: ignore[attr-defined]
    with pytest.raises(evlog.TooManyEvents):
        store.append_many([(f"s-{number}", [new(number)]) for number in range(34)])
    assert all_items(store) == before
    assert store.append("a", [new(number) for number in range(49)]).last_version == 49
    assert store.append_many([(f"s-{n}", [new(n)]) for n in range(33)])[-1].last_position == 82
    largest = NewEvent("T", "é" * 194_000, tags=["t" * 255] * 1, content_type="text")
    store.append("b" * 255, [largest])
    (event,) = store.read("b" * 255)
    assert event.json() == largest.data
    assert store.verify().ok


def test_lines_are_cut_to_what_a_transaction_takes(
    dynamodb_url: Callable[[], str],
) -> None:
    url = dynamodb_url()
    lines = "".join(f'{{"stream":"a","type":"T","data":{n},"tags":["n:{n}"]}}\n' for n in range(60))
    done = run_process("append", "-s", url, "--lines", stdin=lines.encode())
    assert done.code == 0, done.err
    assert done.line["appended"] == 60
    with evlog.open(url) as store:
        assert numbers(store.read("a")) == list(range(60))
        assert numbers(store.read_all(tags=["n:7"])) == [7]
    refused = run_process("append", "-s", url, "--lines", "--atomic", stdin=lines.encode())
    assert refused.code == 2
    assert "60 events" in refused.err


# --- the address and the service's refusals


@pytest.mark.parametrize(
    "url",
    [
        "dynamodb://eu-central-1",
        "dynamodb://eu-central-1/x",
        "dynamodb://EU/table",
        "dynamodb://eu-central-1/table/more",
        "dynamodb://eu-central-1/table?schema=x",
        "dynamodb://eu-central-1/table?endpoint=x",
        "dynamodb://[/table",
    ],
)
def test_a_url_that_names_no_table_is_refused(url: str) -> None:
    with pytest.raises(evlog.InvalidArgument):
        evlog.open(url)


def test_no_secret_of_an_endpoint_is_shown() -> None:
    address = Address(
        "dynamodb://key:secret@eu-central-1/table?endpoint=http://u:secret@127.0.0.1:1&profile=p"
    )
    assert address.text == "dynamodb://eu-central-1/table?endpoint=http://127.0.0.1:1&profile=p"
    assert address.endpoint == "http://127.0.0.1:1"  # botocore shows it in messages


def test_what_is_not_there_has_its_exit_code(dynamodb_server: Ministack, tmp_path: Any) -> None:
    with pytest.raises(evlog.StoreNotFound, match="no store at") as missing:
        evlog.open(dynamodb_server.url("no-such-table"))
    assert missing.value.exit_code == 5
    server = Ministack(tmp_path)  # never started
    with pytest.raises(evlog.StoreUnreachable) as unreachable:
        evlog.open(server.url("table"), create=True)
    assert unreachable.value.exit_code == 12
    with pytest.raises(evlog.InvalidArgument, match="nobody"):
        evlog.open(dynamodb_server.url("table") + "&profile=nobody")


OWN = [("PK", "S", "HASH"), ("SK", "S", "RANGE")]
OWN_INDEX = [("log", "S", "HASH"), ("position", "N", "RANGE")]


@pytest.mark.parametrize(
    ("keys", "index", "projection"),
    [
        ([("id", "S", "HASH")], [], ""),
        (OWN, [], ""),
        (OWN, OWN_INDEX, "KEYS_ONLY"),
        (OWN, [("log", "S", "HASH"), ("position", "S", "RANGE")], "ALL"),
        (OWN, [("log", "S", "HASH")], "ALL"),
    ],
)
def test_a_table_of_somebody_else_is_left_alone(
    dynamodb_url: Callable[[], str],
    keys: list[tuple[str, str, str]],
    index: list[tuple[str, str, str]],
    projection: str,
) -> None:
    def schema(keys: list[tuple[str, str, str]]) -> list[dict[str, str]]:
        return [{"AttributeName": name, "KeyType": kind} for name, _, kind in keys]

    url = dynamodb_url()
    client = Client(Address(url))
    indexes = {
        "IndexName": "by_position",
        "KeySchema": schema(index),
        "Projection": {"ProjectionType": projection},
    }
    client.call(
        "create_table",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[
            {"AttributeName": name, "AttributeType": type} for name, type, _ in (*keys, *index)
        ],
        KeySchema=schema(keys),
        **({"GlobalSecondaryIndexes": [indexes]} if index else {}),  # type: ignore[arg-type]
    )
    with pytest.raises(evlog.ServerUnsuitable) as caught:
        evlog.open(url, create=True)
    assert caught.value.exit_code == 10
    assert client.call("scan")["Count"] == 0
    client.close()


def test_a_store_that_a_newer_evlog_has_changed_meanwhile_is_left_alone(store: EventStore) -> None:
    """A writer replaces the item of the log: what the newer one has added would be lost."""
    store.append("a", [NewEvent("T")])
    with store.subscribe(after=0) as run:
        assert run.next_event(LONG_SECONDS) is not None
        values = {":f": {"N": "2"}, ":one": {"N": "1"}}
        after = client_of(store).update(
            LOG_KEY, "SET #f = :f, added = :f ADD revision :one", None, values, {"#f": "format"}
        )
        uses: list[Callable[[], object]] = [
            lambda: store.append("a", [NewEvent("T")]),
            lambda: store.append("a", [NewEvent("T")], 1),
            lambda: store.set_retention("a", max_count=1),
            store.compact,
            lambda: list(store.read("a")),
            lambda: run.next_event(LONG_SECONDS),
        ]
        for use in uses:
            with pytest.raises(evlog.UnsupportedFormat):
                use()
    assert client_of(store).get(LOG_KEY) == after


@pytest.mark.parametrize("name", ["position", "store_id", "format"])
def test_a_log_that_another_program_has_changed_is_damaged(store: EventStore, name: str) -> None:
    store.append("a", [NewEvent("T")])
    client = client_of(store)
    item = client.get(LOG_KEY)
    assert item is not None
    client.put({key: value for key, value in item.items() if key != name})
    uses: list[Callable[[], object]] = [
        lambda: store.head,
        lambda: list(store.read_all()),
        store.info,
        store.verify,
        store.compact,
        lambda: store.subscription("n"),
        lambda: next(store.subscribe(after=0, follow=False)),
    ]
    for use in uses:
        with pytest.raises(evlog.CorruptionError, match="item LOG HEAD") as caught:
            use()
        assert caught.value.exit_code == 4


def test_a_store_whose_id_another_program_has_changed_is_damaged(store: EventStore) -> None:
    client = client_of(store)
    item = client.get(LOG_KEY)
    assert item is not None
    client.put(item | {"store_id": {"S": "x"}})
    with pytest.raises(evlog.CorruptionError, match="store_id"):
        evlog.open(store.path)


def test_an_item_of_somebody_else_is_not_taken_for_the_log(store: EventStore) -> None:
    client_of(store).put({"PK": {"S": "LOG"}, "SK": {"S": "HEAD"}})
    with pytest.raises(evlog.ServerUnsuitable):
        evlog.open(store.path)


@pytest.mark.parametrize(
    ("code", "error", "exit_code"),
    [
        ("AccessDeniedException", evlog.StoreAccessDenied, 1),
        ("ExpiredTokenException", evlog.StoreAccessDenied, 1),
        ("ThrottlingException", evlog.StoreThrottled, 6),
        ("ProvisionedThroughputExceededException", evlog.StoreThrottled, 6),
        ("InternalServerError", evlog.StoreUnreachable, 12),
        ("SomethingNew", evlog.EngineError, 1),
    ],
)
def test_a_refusal_of_the_service_is_one_of_evlogs_errors(
    code: str, error: type[evlog.EvlogError], exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.engines.dynamodb.client._ATTEMPTS", 1)
    monkeypatch.setattr(os, "environ", os.environ | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    with refusing(code) as port, pytest.raises(error) as caught:
        evlog.open(f"dynamodb://eu-central-1/table?endpoint=http://127.0.0.1:{port}&timeout=0.1")
    assert caught.value.exit_code == exit_code
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("dynamodb_server")
@pytest.mark.parametrize("create", [True, False])
def test_another_server_at_the_endpoint_is_not_taken_for_an_empty_table(create: bool) -> None:
    with refusing("", page=b"<html>Welcome</html>") as port, pytest.raises(evlog.StoreUnreachable) as caught:
        evlog.open(f"dynamodb://eu-central-1/table?endpoint=http://127.0.0.1:{port}", create=create)
    assert "what answers there is not DynamoDB" in str(caught.value)


def test_without_credentials_access_is_denied(
    dynamodb_server: Ministack, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(evlog.StoreAccessDenied) as caught:
        evlog.open(dynamodb_server.url("table"))
    assert caught.value.exit_code == 1


# --- writers among others


def test_a_writer_that_was_beaten_takes_the_lease_and_leaves_it(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(store)
    transact, seen = client.transact, []

    def beaten(actions: Any) -> None:
        seen.append(bool(core_of(store).state().owner))
        if len(seen) < 4:
            raise Refused(["ConditionalCheckFailed"])
        transact(actions)

    monkeypatch.setattr(client, "transact", beaten)
    assert store.append("a", [new(1)]).first_position == 1
    assert seen == [False, False, True, True]
    assert not core_of(store).state().owner


def test_a_lease_of_a_killed_writer_ends_by_itself(
    store: EventStore,
) -> None:
    with evlog.open(store.path, lock_timeout=0.1) as limited:
        client = client_of(store)
        store.append("a", [new(0)])

        def lease(seconds: float) -> None:
            state = core_of(store).state()
            until_us = int((time.time() + seconds) * 1_000_000)
            leased = state._replace(revision=state.revision + 1, owner="killed", until_us=until_us)
            client.put(encode_log(leased))

        lease(1000)
        with pytest.raises(evlog.LockTimeout) as caught:
            limited.append("a", [new(1)])
        assert caught.value.exit_code == 6
        lease(0.1)
        assert store.append("a", [new(1)]).first_version == 2
        lease(-1)
        assert store.append("a", [new(1)], 2).first_version == 3
        with pytest.raises(evlog.WrongExpectedVersion):
            store.append("a", [new(1)], 2)
        assert not core_of(store).state().owner


def test_a_lease_of_a_writer_whose_clock_is_ahead_ends_by_the_clock_of_one_that_waits(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.engines.dynamodb.core._LEASE_US", 200_000)
    state = core_of(store).state()
    until_us = int((time.time() + 3600) * 1_000_000)
    leased = state._replace(revision=state.revision + 1, owner="killed", until_us=until_us)
    client_of(store).put(encode_log(leased))
    with evlog.open(store.path, lock_timeout=LONG_SECONDS) as waiting:
        assert waiting.append("a", [new(0)]).first_version == 1
    assert not core_of(store).state().owner


def test_what_another_writer_did_is_seen_by_one_that_remembers(
    store: EventStore, dynamodb_url: Callable[[], str]
) -> None:
    del dynamodb_url
    with evlog.open(store.path) as other:
        store.append("a", [new(0, id=UUID(int=1))])
        other.append("a", [new(1)])
        with pytest.raises(evlog.WrongExpectedVersion):
            store.append("a", [new(2)], 1)
        store.append("c", [new(4)])  # from here on it remembers the log
        other.append("b", [new(3, tags=["x"])])
        with pytest.raises(evlog.ConditionFailed):
            store.append("a", [new(2)], conditions=IfNone("tag=x"))
        assert other.append("a", [new(0, id=UUID(int=1))]).duplicate
        assert sorted(event.position for name in "abc" for event in store.read(name)) == [1, 2, 3, 4]
        other.set_retention("a", max_count=1)
        other.delete_stream("a", tombstone=True)
        with pytest.raises(evlog.StreamTombstoned):
            store.append("a", [new(2)])


def test_threads_of_one_store_and_a_forked_child_append(store: EventStore) -> None:
    in_threads([lambda: [store.append("a", [new(n)]) for n in range(5)]] * 4)
    child = os.fork()
    if not child:
        try:
            os._exit(0 if store.append("a", [new(9)]).last_version == 21 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.append("a", [new(9)]).last_version == 22


# --- what is in the table


def test_a_redaction_leaves_nothing_in_the_table(store: EventStore) -> None:
    secret = "frieda@example.org"
    event = NewEvent("T", {"mail": secret}, metadata={"by": secret}, tags=[secret, "other"])
    store.append("a", [event, new(1, tags=[secret])])
    assert secret in repr(all_items(store))
    store.redact(1, 2, reason="r")
    items = repr(all_items(store))
    assert secret not in items
    assert "TAG#" not in items
    assert store.verify().ok


def test_a_redaction_during_a_compaction_leaves_nothing_in_the_table(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "frieda@example.org"
    store.append("a", [new(0, tags=[secret]), new(1)])
    store.set_retention("a", max_count=1)
    (event,) = (event for event in everything(store) if event.position == 1)
    erase = compaction.erase

    def erase_before(core: Core) -> None:
        erase(core)
        monkeypatch.setattr(compaction, "erase", erase)
        store.engine.append(AppendRequest.own(REDACTIONS_STREAM, encode_redaction([event], "r")))

    monkeypatch.setattr(compaction, "erase", erase_before)
    store.compact()
    erase(core_of(store))  # as the process does that has redacted it
    items = repr(all_items(store))
    assert "TAG#" not in items
    assert store.verify().ok


def test_a_table_that_the_service_does_not_show_at_once_is_waited_for(
    dynamodb_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    describe, url = table._describe, dynamodb_url()

    def late(client: Client) -> Any:
        monkeypatch.setattr(table, "_describe", describe)
        raise evlog.StoreNotFound(url)

    monkeypatch.setattr(table, "_describe", late)
    with evlog.open(url, create=True) as created:
        assert created.created


def test_a_redaction_during_verify_is_not_damage(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append("a", [new(number) for number in range(5)])
    add = LogDigest.add

    def redact(digest: LogDigest, event: evlog.Event) -> None:
        add(digest, event)
        if event.position == 3:
            store.redact(2, 5, reason="r")

    with monkeypatch.context() as patch:
        patch.setattr(LogDigest, "add", redact)
        assert store.verify().findings == ()
    assert store.verify().findings == ()


def test_verify_finds_what_was_changed_by_other_tools(store: EventStore) -> None:
    store.append("a", [new(n) for n in range(4)])
    client = client_of(store)
    ids = [event.id_bytes for event in store.read("a")]
    pin = store.verify().digest
    assert pin is not None
    item = client.get(event_key("a", 2))
    assert item is not None
    client.put(item | {"data": {"S": "7"}})
    client.delete(id_key(ids[2]))
    report = store.verify(against=pin)
    assert {(each.kind, each.position) for each in report.findings} == {
        ("content", 2),
        ("id", 3),
        ("against", 4),
    }
    client.put(item)
    client.delete(event_key("a", 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evlog.engines.dynamodb.reading._HOLE_SECONDS", 0.1)
        assert "position" in {each.kind for each in store.verify().findings}
        with pytest.raises(evlog.StoreUnreachable, match="index"):
            list(store.read_all())


# --- mirrors


@pytest.fixture
def source(tmp_path: Any) -> Any:
    """A directory with an append that is larger than a transaction."""
    with evlog.open(tmp_path / "source", create=True) as opened:
        opened.append("a", [new(n, id=UUID(int=n + 1), tags=["t"]) for n in range(120)])
        opened.append_many([(f"s-{n}", [new(n)]) for n in range(60)])
        yield opened


def test_an_append_of_any_size_is_mirrored_there_and_back(
    source: EventStore, store: EventStore, tmp_path: Any
) -> None:
    evlog.mirror(source, store)
    assert everything(store) == everything(source)
    assert {frame for frame, _ in store.engine.read_frames(0, 120)} == {1}
    with evlog.open(tmp_path / "back", create=True) as back:
        evlog.mirror(store, back)
        assert everything(back) == everything(source)
        assert back.verify().digest == source.verify().digest == store.verify().digest


@pytest.mark.parametrize("is_promoted", [True, False])
@pytest.mark.parametrize("transactions", [1, 2, 4, 6])
def test_a_mirror_that_was_killed_leaves_nothing_that_counts(
    source: EventStore,
    store: EventStore,
    monkeypatch: pytest.MonkeyPatch,
    transactions: int,
    is_promoted: bool,
) -> None:
    engine = store.engine
    id = source.engine.store_id
    assert engine.change_standing(Standing(), Standing(mirror_of=id))
    source.append("a", [new(200)])
    client = client_of(store)
    transact, calls = client.transact, []

    def killed(actions: Any) -> None:
        calls.append(len(actions))
        if len(calls) > transactions:
            raise KeyboardInterrupt
        transact(actions)

    monkeypatch.setattr(client, "transact", killed)
    with pytest.raises(KeyboardInterrupt):
        evlog.mirror(source, store)
    monkeypatch.setattr(client, "transact", transact)
    assert (store.head, everything(store), list(store.streams())) == (0, [], [])
    assert store.stream_version("a") == 0
    assert store.engine.find_ids([UUID(int=1).bytes]) == {}
    if is_promoted:
        promote(store)
        assert len(all_items(store)) == 1  # the log
        for number in range(3):
            store.append("a", [new(number, id=UUID(int=number + 1))], number)
        assert list(store.read_all(tags=["t"])) == []
        store.append("b", [new(4)], conditions=IfNone("tag=t"))
        assert store.stream_version("s-1") == 0
    else:
        evlog.mirror(source, store)
        assert everything(store) == everything(source)
    assert store.verify().ok


def mirror_to(store: EventStore, source: EventStore, to: int) -> None:
    for piece in read_pieces(source.engine, store.head, to):
        store.engine.append_history(piece)


@contextmanager
def before_call(store: EventStore, number: int, do: Callable[[], None]) -> Iterator[list[str]]:
    """Do something before the call to the service that has a number, and give the calls inside the block."""
    client, calls = client_of(store), list[str]()
    call = client._batch

    def counted(operation: str, **arguments: Any) -> Any:
        calls.append(operation)
        if len(calls) == number:
            do()
        return call(operation, **arguments)

    client._batch = counted  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        client._batch = call  # type: ignore[method-assign]


@pytest.mark.parametrize("is_promoted", [True, False])
def test_a_mirror_that_was_suspended_changes_nothing_of_one_that_went_on(
    dynamodb_url: Callable[[], str], tmp_path: Any, is_promoted: bool
) -> None:
    with evlog.open(tmp_path / "source", create=True) as source:
        source.append("a", [new(number, tags=["t"]) for number in range(5)])
        for call in itertools.count(1):
            url = dynamodb_url()
            with evlog.open(url, create=True) as store, evlog.open(url) as other:
                assert store.engine.change_standing(Standing(), Standing(mirror_of=source.engine.store_id))

                def go_on(other: EventStore = other) -> None:
                    mirror_to(other, source, 3)
                    mirror_to(other, source, 5)
                    if is_promoted:
                        promote(other)
                        other.append("a", [new(number) for number in range(5, 8)])

                with before_call(store, call, go_on) as calls, contextlib.suppress(evlog.MirrorConflict):
                    mirror_to(store, source, 4)
                if len(calls) < call:
                    break
                assert numbers(other.read("a")) == list(range(8 if is_promoted else 5)), call
                assert other.verify().ok
                assert STAGED not in repr(all_items(other))
        assert call > 6


def test_a_piece_of_which_another_mirror_has_removed_a_part_is_not_committed(
    dynamodb_url: Callable[[], str], tmp_path: Any
) -> None:
    """One mirror is suspended before any of its calls, and another one is killed before any of its own."""
    with evlog.open(tmp_path / "source", create=True) as source:
        source.append("a", [new(number, tags=["t"]) for number in range(5)])
        for call, other_call in itertools.product(range(3, 12, 2), range(2, 14, 2)):
            url = dynamodb_url()
            with evlog.open(url, create=True) as store, evlog.open(url) as other:
                assert store.engine.change_standing(Standing(), Standing(mirror_of=source.engine.store_id))

                def kill() -> None:
                    raise KeyboardInterrupt

                def go_on(other: EventStore = other, other_call: int = other_call) -> None:
                    with before_call(other, other_call, kill), contextlib.suppress(KeyboardInterrupt):
                        mirror_to(other, source, 4)

                with before_call(store, call, go_on), contextlib.suppress(evlog.MirrorConflict):
                    mirror_to(store, source, 4)
                assert numbers(store.read_all()) == list(range(5))[: store.head], (call, other_call)
                mirror_to(other, source, 5)
                assert everything(other) == everything(source)
                assert other.verify().ok


def test_nothing_of_a_piece_is_seen_before_all_of_it(
    source: EventStore, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    evlog.mirror(source, store)
    source.append("a", [new(n, tags=["t"]) for n in range(3)])
    source.append("new", [new(0)])
    client = client_of(store)
    transact = client.transact
    looked: list[bool] = []

    def look(actions: Any) -> None:
        transact(actions)
        if len(actions) > 10:
            before = everything(source)[:180]
            looked.append(everything(store) == before)
            looked.append(list(store.read("a")) == before[:120])
            looked.append(len(list(store.read_all(tags=["t"]))) == 120)
            looked.append(store.stream_version("new") == 0)
            looked.append(store.stream_version("a") == 120)
            looked.append(store.has_stream("new") is False)

    monkeypatch.setattr(client, "transact", look)
    evlog.mirror(source, store)
    assert looked == [True] * 6
    assert everything(store) == everything(source)
    assert STAGED not in repr(all_items(store))
