"""Connections that are cut between request and answer, and an index that is late."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError

import evlog
from evlog import EventStore
from evlog.engines.dynamodb.engine import DynamodbEngine
from evlog.testing.base import LONG_SECONDS, new, numbers
from tests.support.late_index import LateIndex, late_index
from tests.support.ministack import Ministack
from tests.support.tcp_proxy import ANSWER, REQUEST, proxying


@pytest.mark.parametrize("what", [REQUEST, ANSWER])
@pytest.mark.parametrize("attempts", [1, 4])
@pytest.mark.parametrize("is_given", [True, False])
def test_an_append_whose_connection_is_cut_is_stored_once(
    dynamodb_server: Ministack,
    dynamodb_url: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    attempts: int,
    is_given: bool,
) -> None:
    """With one attempt of botocore's the ids decide, else the service's token does."""
    monkeypatch.setattr("evlog.engines.dynamodb.client._ATTEMPTS", attempts)
    url = dynamodb_url()
    with proxying(dynamodb_server.port) as proxy:
        here = url.replace(str(dynamodb_server.port), str(proxy.port))
        with evlog.open(here, create=True) as store:
            store.append("a", [new(0)])
            for number in range(1, 4):
                proxy.cut(what)
                id = UUID(int=number) if is_given else None
                result = store.append("a", [new(number, id=id)], number)
                assert (result.first_version, result.first_position) == (number + 1, number + 1)
                assert not result.duplicate or (is_given and what == ANSWER and attempts == 1)
            assert proxy.cuts == 3
            assert [event.version for event in store.read("a")] == [1, 2, 3, 4]
            assert store.verify().ok


@pytest.mark.parametrize("what", [REQUEST, ANSWER])
@pytest.mark.parametrize("passing", [0, 2])
def test_other_changes_are_made_once_when_a_connection_is_cut(
    dynamodb_server: Ministack, dynamodb_url: Callable[[], str], what: str, passing: int
) -> None:
    url = dynamodb_url()
    with proxying(dynamodb_server.port) as proxy:
        here = url.replace(str(dynamodb_server.port), str(proxy.port))
        with evlog.open(here, create=True) as store:
            store.append("a", [new(number) for number in range(4)])
            changes: list[Callable[[], object]] = [
                lambda: store.set_retention("a", max_count=2),
                lambda: store.delete_stream("a", expected=4),
                store.compact,
                lambda: store.append("a", [new(4)], 0),
                lambda: store.redact(store.head, reason="r"),
                lambda: store.consume("n", lambda _: None, follow=False),
            ]
            for change in changes:
                proxy.cut(what, passing)
                change()
            proxy.cut("nothing")
            assert [event.version for event in store.read("a")] == [5]
            assert len(store.redactions()) == 1
            assert [event.version for event in store.read("$$a")] == [2]
            assert store.subscription("n").position == store.head
            assert store.verify().ok


def test_a_service_that_stays_away_leaves_the_outcome_unknown(
    dynamodb_server: Ministack, dynamodb_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.engines.dynamodb.client._ATTEMPTS", 1)
    url = dynamodb_url() + "&timeout=0.3"
    with proxying(dynamodb_server.port) as proxy:
        store = evlog.open(url.replace(str(dynamodb_server.port), str(proxy.port)), create=True)
        store.append("a", [new(0)])
    with pytest.raises(evlog.AppendUnknown) as unknown:
        store.append("a", [new(1)])
    assert unknown.value.exit_code == 12
    with pytest.raises(evlog.StoreUnreachable):
        store.append("a", [new(1)])  # what it remembered is gone: the first call only reads
    store.close()


DONE, LOST = "done and not answered", "neither done nor answered"
IN_PROGRESS, THROTTLED, DENIED = (
    "TransactionInProgressException",
    "ThrottlingException",
    "AccessDeniedException",
)


@contextmanager
def answering(
    store: EventStore, *answers: str, to: str = "TransactWriteItems", all_calls: str = ""
) -> Iterator[list[str]]:
    """Give the attempts of an operation these answers: lost ones, or refusals of the service; then its own.

    Args:
        all_calls: once these were given, the answer to every other call, too.
    """
    assert isinstance(store.engine, DynamodbEngine)
    session = store.engine._client._opened()._endpoint.http_session
    send, left = session.send, list(answers)

    def scripted(request: Any) -> Any:
        if left and request.headers["X-Amz-Target"].endswith(to.encode()):
            answer = left.pop(0)
        elif left or not all_calls:
            return send(request)
        else:
            answer = all_calls
        if answer == DONE:
            send(request)
        if answer in (DONE, LOST):
            raise ConnectionClosedError(endpoint_url=request.url)
        response = AWSResponse(request.url, 400, {"Content-Type": "application/x-amz-json-1.0"}, None)
        code, _, reason = answer.partition(" of an item: ")
        reasons = [{"Code": "None"}, {"Code": reason or "ValidationError", "Message": "no"}]
        refusal = {"__type": f"x#{code}", "message": "no", "CancellationReasons": reasons}
        response._content = json.dumps(refusal).encode()
        return response

    session.send = scripted
    try:
        yield left
    finally:
        session.send = send


@pytest.mark.parametrize("is_given", [True, False])
@pytest.mark.parametrize(
    "answers",
    [
        [DONE, IN_PROGRESS, IN_PROGRESS],
        [DONE, THROTTLED, THROTTLED],
        [LOST, THROTTLED, THROTTLED],
        [LOST, IN_PROGRESS, IN_PROGRESS],
        [THROTTLED, DONE],
        [DONE, LOST, LOST],
    ],
    ids=" ".join,
)
def test_an_attempt_that_was_not_answered_counts_after_a_refusal_of_the_next_one(
    dynamodb_url: Callable[[], str], no_pauses: None, answers: list[str], is_given: bool
) -> None:
    with evlog.open(dynamodb_url(), create=True, lock_timeout=LONG_SECONDS) as store:
        store.append("a", [new(0)])
        with answering(store, *answers) as left:
            result = store.append("a", [new(1, id=UUID(int=1) if is_given else None)], 1)
            assert not left
        assert (result.first_version, result.first_position) == (2, 2)
        assert numbers(store.read("a")) == [0, 1]
        assert store.verify().ok


@pytest.mark.parametrize("reason", ["ThrottlingError", "ProvisionedThroughputExceeded"])
def test_a_transaction_of_which_an_item_is_throttled_is_sent_again(
    dynamodb_url: Callable[[], str], reason: str
) -> None:
    with evlog.open(dynamodb_url(), create=True) as store:
        store.append("a", [new(0)])
        with answering(store, *[f"TransactionCanceledException of an item: {reason}"] * 3) as left:
            assert store.append("a", [new(1)], 1).first_version == 2
            assert not left


@pytest.mark.parametrize("operation", ["GetItem", "Query"])
def test_a_follower_waits_while_the_service_is_throttled(
    dynamodb_url: Callable[[], str], no_pauses: None, operation: str
) -> None:
    with evlog.open(dynamodb_url(), create=True) as store, store.subscribe() as run:
        store.append("a", [new(0)])
        with answering(store, *[THROTTLED] * 10, to=operation) as left:
            event = run.next_event(LONG_SECONDS)
            assert event is not None
            assert not left


@pytest.mark.parametrize("answer", [THROTTLED, DENIED, "ResourceNotFoundException", "SomethingNew"])
@pytest.mark.parametrize("first", [DONE, LOST])
def test_an_error_after_an_attempt_that_was_not_answered_leaves_the_outcome_unknown(
    dynamodb_url: Callable[[], str],
    no_pauses: None,
    first: str,
    answer: str,
) -> None:
    with evlog.open(dynamodb_url() + "&timeout=0.3", create=True) as store:
        store.append("a", [new(0)])
        with answering(store, first, all_calls=answer), pytest.raises(evlog.AppendUnknown) as unknown:
            store.append("a", [new(1)], 1)
        assert unknown.value.exit_code == 12
        assert "\n" not in str(unknown.value)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (THROTTLED, evlog.StoreThrottled),
        (DENIED, evlog.StoreAccessDenied),
        ("TransactionCanceledException", evlog.EngineError),  # for a reason that no other try removes
    ],
)
def test_an_append_of_which_every_attempt_was_refused_is_not_done(
    dynamodb_url: Callable[[], str],
    no_pauses: None,
    answer: str,
    error: type[evlog.EvlogError],
) -> None:
    with evlog.open(dynamodb_url() + "&timeout=0.3", create=True) as store:
        store.append("a", [new(0)])
        with answering(store, answer, all_calls=answer), pytest.raises(error):
            store.append("a", [new(1)], 1)


def test_a_record_that_no_service_took_was_not_replaced_by_another_run(
    dynamodb_url: Callable[[], str], no_pauses: None
) -> None:
    with evlog.open(dynamodb_url() + "&timeout=0.3", create=True) as store:
        store.append("a", [new(0), new(1)])
        with (
            answering(store, *[LOST] * 1000, to="PutItem"),
            pytest.raises(evlog.StoreUnreachable),
            store.subscribe("n", after=0),
        ):
            pass
        with store.subscribe("n", after=0) as run:
            assert run.next_event(LONG_SECONDS) is not None
            run.acknowledge()
            with answering(store, *[LOST] * 1000, to="PutItem"), pytest.raises(evlog.StoreUnreachable):
                run.save()
            assert run.next_event(LONG_SECONDS) is not None
            run.acknowledge()
            run.save()
        assert store.subscription("n").position == 2


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have botocore try again at once."""
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)


def test_a_store_whose_creation_was_not_answered_was_created(
    dynamodb_server: Ministack, dynamodb_url: Callable[[], str]
) -> None:
    with proxying(dynamodb_server.port) as proxy:
        for passing in range(5):
            url = dynamodb_url().replace(str(dynamodb_server.port), str(proxy.port))
            proxy.cut(ANSWER, passing)
            with evlog.open(url, create=True) as store:
                assert store.engine.created
            proxy.cut("nothing")


@pytest.fixture
def late(dynamodb_server: Ministack) -> Iterator[LateIndex]:
    with late_index(dynamodb_server.port) as proxy:
        yield proxy


@pytest.fixture
def store(
    late: LateIndex, dynamodb_server: Ministack, dynamodb_url: Callable[[], str]
) -> Iterator[EventStore]:
    url = dynamodb_url().replace(str(dynamodb_server.port), str(late.port))
    with evlog.open(url, create=True) as opened:
        yield opened


def test_reads_wait_for_what_the_index_does_not_show_yet(late: LateIndex, store: EventStore) -> None:
    for number in range(20):
        store.append(f"s-{number % 3}", [new(number, "TU"[number % 2])])
    for hidden in ([7, 20], range(1, 21)):
        selections: list[tuple[dict[str, Any], list[int]]] = [
            ({}, list(range(20))),
            ({"reverse": True}, list(range(19, -1, -1))),
            ({"reverse": True, "limit": 1}, [19]),
            ({"category": "s"}, list(range(20))),
            ({"types": ["U"]}, list(range(1, 20, 2))),
            ({"stream": "s-1"}, list(range(1, 20, 3))),
        ]
        for options, expected in selections:
            late.hide(hidden, looks=2)
            stream = options.pop("stream", None)
            found = store.read(stream) if stream else store.read_all(**options)
            assert numbers(found) == expected
    store.set_retention("s-1", max_count=2)
    store.compact()
    late.hide([21, 22, 20, 3], looks=3)  # one of them is removed
    assert numbers(store.read_all()) == [n for n in range(20) if n % 3 != 1 or n > 15]
    assert late.looks_in_vain > 10


def test_a_follower_skips_nothing_while_the_index_is_late(late: LateIndex, store: EventStore) -> None:
    late.hide_at_random()
    seen: dict[str, list[int]] = {"all": [], "T": []}

    def follow(name: str, **options: object) -> None:
        with evlog.open(store.path) as own, own.subscribe(**options) as run:  # type: ignore[arg-type]
            while True:
                event = run.next_event(LONG_SECONDS)
                if event is None or event.stream == "end":
                    return
                seen[name].append(int(event.data))

    threads = [
        threading.Thread(target=follow, args=("all",)),
        threading.Thread(target=follow, args=("T",), kwargs={"types": ["T", "End"]}),
    ]
    for thread in threads:
        thread.start()
    for number in range(60):
        store.append("a", [new(number, "TU"[number % 2])])
    store.append("end", [new(0, "End")])
    for thread in threads:
        thread.join(LONG_SECONDS)
    assert seen == {"all": list(range(60)), "T": list(range(0, 60, 2))}
    assert late.looks_in_vain
