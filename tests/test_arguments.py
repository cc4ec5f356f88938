"""Whatever an argument is, a public method answers, or raises an EvlogError."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import (
    EventFilter,
    EventStore,
    EventTypes,
    Fold,
    IfNone,
    IfVersion,
    Mirror,
    NewEvent,
    NewEvents,
    Query,
)
from evlog.errors import EvlogError, InvalidArgument
from evlog.transfer import fork, mirror, plan_mirror, promote
from tests.support.helpers import small_store

WRONG: list[Any] = [
    *(None, True, -1, 10**30, 10**400, 1.5, math.nan, Decimal("NaN"), object(), int, lambda *_: None),
    *("", "x", "a\0b", "\ud800", "x" * 5000, b"x", UUID(int=7)),
    *([], [None], ["\ud800"], (), (1,), (1, 2, 3), {}, {1: 2}, {"a": object()}, iter([1])),
    *(
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        timedelta.max,
        NewEvent("T"),
        [NewEvent("T")],
    ),
]
"""What each argument is in turn; some of these are right for some of them."""

RIGHT: dict[str, Any] = {
    "about": "s-1",
    "apply": lambda state, _: state,
    "appends": [("s-1", [NewEvent("T")])],
    "data": [b"1"],
    "decide": lambda _: [],
    "event": 1,
    "events": [NewEvent("T")],
    "fold": lambda state, _: state,
    "handler": lambda _: None,
    "key": "k",
    "name": "n",
    "out": "other",
    "path": "none",
    "position": 1,
    "positions": [1],
    "query": "type=T",
    "reason": "r",
    "schema": {},
    "text": "type=T",
    "stream": "s-1",
    "streams": ["s-1"],
    "timeout": 0,
    "timeout_seconds": 0,
    "to": 1,
    "type": "T",
    "types": ["T"],
    "version": 1,
}
METHODS = [
    name
    for name, found in inspect.getmembers(EventStore, inspect.isfunction)
    if name[0] != "_" and name != "close"
]
FUNCTIONS = [
    evlog.exists,
    evlog.open,
    evlog.repair_store,
    evlog.verify_store,
    evlog.wait_for_store,
    evlog.backup_store,
    evlog.idempotency_id,
    evlog.salvage_store,
    EventFilter,
    EventTypes,
    Fold,
    IfNone,
    IfVersion,
    NewEvent,
    NewEvents,
    Query,
    Query.parse,
]
LONG: Any = (None, True, 10**30, 1.5)
LEFT_OUT: dict[str, Any] = {
    "timeout": LONG,
    "timeout_seconds": LONG,
    "progress": (int,),
}  # these wait, or are called
CALLED = {"apply", "decide", "fold", "handler"}  # what a function of the user raises is not evlog's


def calls(function: Callable[..., Any], **right: Any) -> Iterator[dict[str, Any]]:
    """Yield the arguments of calls, each with one that is wrong."""
    parameters = [
        found
        for found in inspect.signature(function).parameters.values()
        if found.kind not in (found.VAR_KEYWORD, found.VAR_POSITIONAL) and found.name != "self"
    ]
    right = RIGHT | right
    needed = {found.name: right[found.name] for found in parameters if found.default is found.empty}
    names = [found.name for found in parameters]
    ending = {name: 0 for name in ("timeout", "timeout_seconds") if name in names}
    for name in names:
        for value in WRONG:
            if name in CALLED and callable(value):
                continue
            if not any(value is other for other in LEFT_OUT.get(name, ())):
                yield needed | ending | {name: value}


def check(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    try:
        result = function(**arguments)
        if isinstance(result, Iterator):
            list(islice(result, 3))
    except EvlogError:
        pass
    except Exception as error:
        raise AssertionError(f"{function.__name__}({arguments!r:.200}) raised {error!r:.200}") from error


@pytest.mark.parametrize("name", METHODS)
def test_a_wrong_argument_of_a_method_is_refused(memory_path: Path, name: str) -> None:
    with small_store(memory_path / "store", sync="none") as store:
        store.append(
            "s-1", [NewEvent("T", {"a": 1}, tags=("a:b",)), NewEvent("U", b"x", content_type="binary")]
        )
        for arguments in calls(getattr(EventStore, name)):
            check(getattr(store, name), arguments)
        assert store.verify().ok


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_a_wrong_argument_of_a_function_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in calls(function):
        check(function, arguments)


@pytest.mark.parametrize("function", [fork, Mirror, mirror, plan_mirror, promote], ids=lambda it: it.__name__)
def test_a_wrong_argument_of_what_copies_a_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    with small_store("source") as source, small_store("destination") as destination:
        source.append("s-1", [NewEvent("T")])
        for arguments in calls(function, source=source, destination=destination, store=destination):
            check(function, arguments)


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800", b"store", 5, None], ids=repr)
@pytest.mark.parametrize(
    "function",
    [evlog.exists, evlog.wait_for_store, evlog.open, evlog.verify_store, evlog.repair_store],
    ids=lambda function: function.__name__,
)
def test_what_cannot_be_a_path_is_refused(function: Callable[..., Any], path: Any) -> None:
    with pytest.raises(InvalidArgument, match="invalid path"):
        function(path)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda store: store.append("s", None), "events is None; give a list"),
        (lambda store: store.append("s", [NewEvent("T")], conditions=5), "conditions is 5; give a list"),
        (lambda store: store.append_many(None), "appends is None; give a list"),
        (lambda store: store.read_all(types=5), "types is 5; give a list"),
        (lambda store: store.read_all(None), "invalid after None; use a whole number"),
        (lambda store: store.consume("n", None), "handler is None; give a function"),
        (lambda store: store.verify(progress=5), "progress is 5; give a function"),
        (lambda store: plan_mirror(store, 5), "destination is 5; give an open store"),  # type: ignore[arg-type]
    ],
)
def test_the_message_names_the_argument(
    memory_path: Path, use: Callable[[Any], object], message: str
) -> None:
    with small_store(memory_path / "store") as store, pytest.raises(InvalidArgument, match=message):
        use(store)


@pytest.mark.parametrize(
    "seconds",
    [-1, math.nan, Decimal("NaN"), Decimal("sNaN"), pytest.param(10**400, id="10**400"), "1"],
    ids=repr,
)
def test_what_cannot_be_a_duration_is_refused(memory_path: Path, seconds: Any) -> None:
    """A wait until NaN would never end."""
    with small_store(memory_path / "store") as store:
        uses: list[Callable[[], object]] = [
            lambda: evlog.open(store.path, lock_timeout=seconds),
            lambda: evlog.repair_store(store.path, lock_timeout=seconds),
            lambda: evlog.wait_for_store("missing", seconds),
            lambda: store.wait_for("n", 1, timeout=seconds),
            lambda: store.wait_for_subscription("n", 1, timeout=seconds),
            lambda: store.subscribe(timeout=seconds),
            lambda: store.subscribe(idle=seconds),
            lambda: store.consume("n", print, retry_delay=seconds),
        ]
        for use in uses:
            with pytest.raises(InvalidArgument, match="use seconds, 0 or more, or None"):
                use()


def test_numbers_and_lists_may_be_numpys(memory_path: Path) -> None:
    """Sums of its numbers can overflow, comparisons of its arrays are no bool, and msgspec takes neither."""
    np = pytest.importorskip("numpy")
    types, tags = np.array(["T", "U"]), np.array(["t", "u"])
    event = NewEvent("T", tags=tags)
    with small_store(memory_path / "store") as store:
        store.append("s", [event] * 300, expected=np.int64(0))
        store.append(
            "s", [event], np.uint16(300), conditions=[IfVersion("s", np.int64(300)), IfNone("tag=v")]
        )
        store.append("s", [event], conditions=IfNone(Query(types, tags), np.int64(301)))
        store.append_many(NewEvents("s", types, [b"1", b"2"], tags=np.array([["a", "b"], ["c", "d"]])))
        assert [each.version for each in store.read("s", np.uint8(255), np.uint16(256))] == [255, 256]
        after = store.read_all(np.uint8(255), types=types, tags=tags, limit=np.uint8(2))
        assert [each.position for each in after] == [256, 257]
        assert store.get(np.uint8(255)) == store.get(255)
        assert not list(store.read_all(types=types[:0]))
        for fold_again in (False, True):
            at = np.int64(9) if fold_again else None
            state = store.state(types=types, tags=tags, at=at, snapshot="s")
            assert (state.events, type(state.position)) == (9 if fold_again else 302, int)
        assert store.snapshot("s").selection == {"types": ["T", "U"], "tags": ["t", "u"]}
        assert store.wait_for("s", np.uint16(302), timeout=np.float32(1))
        zero: Any = Decimal(0)
        timeouts: list[Any] = [np.float32(60), Decimal(60)]
        for timeout in timeouts:
            run = store.subscribe("n", after=np.uint8(255), to=np.uint16(257), types=types, timeout=timeout)
            with run:
                run.consume(lambda _: 1 / 0, retries=np.int64(2), retry_delay=zero, on_failure="park")
        kept = store.set_retention("s", max_count=np.int64(300), max_age=np.int32(900), before=np.uint8(2))
        assert kept[:3] == (300, 900, 2)
        with store.subscribe("m", shard=(np.int64(1), np.int64(2)), follow=False) as run:
            assert run.name == "m#1/2"
        positions = [parked.position for parked in store.parked("n")]
        assert positions == [256, 257]
        assert store.replay_parked("n", lambda _: None, np.array(positions)).succeeded == 2
