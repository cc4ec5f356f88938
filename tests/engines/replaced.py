"""A store that is dropped, and made again under its name, while a client has it open.

The client must notice: what it reads would be another store's, and what it writes would be lost there. A
server knows the store by its name, so each engine finds out by the store's id. One table for all engines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from uuid import UUID

import pytest

import evlog
from evlog import EventStore, NewEvent, Subscription
from evlog.engine import CheckpointStore
from evlog.testing.base import LONG_SECONDS

_AT_ONCE = 10  # uses of one store, each with a handle of its own
Use = Callable[[EventStore], object]
Drop = Callable[[str], None]
"""Drops the store with a URL from its server."""


def _run_through(run: Subscription) -> None:
    with run:
        for _ in run:
            pass


def _acquire(checkpoint: CheckpointStore) -> None:
    checkpoint.acquire()
    try:
        checkpoint.load()
    finally:
        checkpoint.release()


CHANGES: dict[str, Use] = {
    "append": lambda store: store.append("a-1", [NewEvent("T")]),
    "expected": lambda store: store.append("a-1", [NewEvent("T")], expected=3),
    "several streams": lambda store: store.append_many([("a-1", [NewEvent("T")]), ("a-2", [NewEvent("T")])]),
    "redact": lambda store: store.redact(2, reason="r"),
    "retain": lambda store: store.set_retention("a-1", max_count=2),
    "compact": lambda store: store.compact(force=True),
    "removals of a mirror": lambda store: store.engine.remove_history(str(UUID(int=1)), []),
}

USES: dict[str, Use] = {
    "head": lambda store: store.head,
    "read": lambda store: list(store.read("a-1")),
    "a stream that is not there": lambda store: list(store.read("a-9")),
    "backwards": lambda store: list(store.read("a-1", reverse=True)),
    "read_all": lambda store: list(store.read_all()),
    "after the end": lambda store: list(store.read_all(after=99)),
    "query": lambda store: list(store.query("type=T")),
    "get": lambda store: store.get(UUID(int=9)),
    "stream_version": lambda store: store.stream_version("a-1"),
    "streams": lambda store: list(store.streams()),
    "info": lambda store: store.info(),
    "verify": lambda store: store.verify(),
    "policies": lambda store: store.policies(),
    "standing": lambda store: store.standing,
    "state": lambda store: store.state("a-1", snapshot="s"),
    "snapshots": lambda store: store.snapshots(),
    "snapshot": lambda store: store.snapshot("s"),
    "delete_snapshot": lambda store: store.delete_snapshot("s"),
    "a new snapshot": lambda store: store.engine.snapshot("new", None).save(b"{}", None),
    "subscriptions": lambda store: store.subscriptions(),
    "subscription": lambda store: store.subscription("n"),
    "checkpoint": lambda store: store.engine.checkpoint("n").load(),
    "no checkpoint": lambda store: store.engine.checkpoint("new").load(),
    "names": lambda store: store.engine.checkpoint_names(),
    "acquire": lambda store: _acquire(store.engine.checkpoint("new")),
    "parked": lambda store: store.parked("n"),
    "parked events": lambda store: store.engine.checkpoint("n").parked(),
    "reset_subscription": lambda store: store.reset_subscription("n", 1),
    "delete_subscription": lambda store: store.delete_subscription("n"),
    "a named subscription": lambda store: _run_through(store.subscribe("n", follow=False)),
    "a new name": lambda store: _run_through(store.subscribe("new", follow=False)),
    "subscribe": lambda store: _run_through(store.subscribe(after=0, follow=False)),
    "history": lambda store: list(store.engine.read_frames(0, 99)),
    "removed history": lambda store: list(store.engine.read_removed(0, 99)),
}


def _fill(store: EventStore) -> None:
    """Append, and leave a checkpoint, a parked event and snapshots."""
    store.append("a-1", [NewEvent("T", id=UUID(int=number + 1)) for number in range(3)])
    _run_through(store.subscribe("n", follow=False, to=1))
    checkpoint = store.engine.checkpoint("n")
    checkpoint.acquire()
    checkpoint.park(next(store.read_all()), "E", 1)
    checkpoint.release()
    store.state("a-1", snapshot="s")
    store.state(snapshot="s")


def _found(store: EventStore) -> object:
    """Return all that there is."""
    records = [(name, store.engine.checkpoint(name).load()) for name in store.engine.checkpoint_names()]
    snapshots = [(*key, store.engine.snapshot(*key).load()) for key in store.engine.snapshot_names()]
    return list(store.read_all(include_system=True)), records, store.parked("n"), snapshots


def check_uses(new_url: Callable[[], str], drop: Drop, uses: dict[str, Use], *, is_used: bool) -> None:
    """Check that each use of a dropped store raises StoreReplaced, and that the other one stays as it is.

    Args:
        is_used: each handle was used so before, and something may be known or prepared.
    """
    names = list(uses)
    for at in range(0, len(names), _AT_ONCE):
        some = {name: uses[name] for name in names[at : at + _AT_ONCE]}
        _check_some(new_url(), drop, some, is_used=is_used)


def _check_some(url: str, drop: Drop, uses: dict[str, Use], *, is_used: bool) -> None:
    with contextlib.ExitStack() as opened:
        stores = {name: opened.enter_context(evlog.open(url, create=True)) for name in uses}
        _fill(next(iter(stores.values())))
        for name, store in stores.items():
            assert store.stream_version("a-1") >= 3
            if is_used:
                with contextlib.suppress(evlog.EvlogError):
                    uses[name](store)
        drop(url)
        with evlog.open(url, create=True) as other:
            assert other.engine.checkpoint_names() == []
            assert other.engine.snapshot_names() == []
            _fill(other)
            before = _found(other)
        found = {name: _error_of(uses[name], store) for name, store in stores.items()}
    wrong = {name: error for name, error in found.items() if not isinstance(error, evlog.StoreReplaced)}
    assert wrong == {}
    with evlog.open(url) as other:
        assert _found(other) == before
        assert other.verify().ok


def check_newer(url: str, raise_format: Drop) -> None:
    """Check that each use of an open store is refused once a newer evlog has raised the store's format."""
    with evlog.open(url, create=True) as store:
        _fill(store)
        raise_format(url)
        found = {name: _error_of(use, store) for name, use in (CHANGES | USES).items()}
    wrong = {name: error for name, error in found.items() if not isinstance(error, evlog.UnsupportedFormat)}
    assert wrong == {}


def _error_of(use: Use, store: EventStore) -> object:
    try:
        return f"no error: {use(store)!r}"
    except evlog.EvlogError as error:
        return error


def _follow_across(store: EventStore, url: str, drop: Drop, name: str | None) -> None:
    """Take an event, replace the store, and take events until one does not come."""
    with store.subscribe(name, after=None if name else 1) as run:
        assert run.next_event(LONG_SECONDS) is not None
        drop(url)
        with evlog.open(url, create=True) as other:
            _fill(other)
        while run.next_event(LONG_SECONDS) is not None:
            pass


def check_run(url: str, drop: Drop, name: str | None) -> None:
    """Check that a run ends where another store was made in its place, and saves nothing there."""
    with evlog.open(url, create=True) as store:
        _fill(store)
        with pytest.raises(evlog.StoreReplaced):
            _follow_across(store, url, drop, name)
    with evlog.open(url) as other:
        assert other.subscription("n").position == 1
        assert not other.subscription("n").running
