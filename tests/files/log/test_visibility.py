"""What lists and figures say of streams with policies: the same as reading each of them."""

from __future__ import annotations

import sys

import pytest

from evlog import EventStore, Retention
from evlog.model.reports import StreamInfo
from tests.support.helpers import Clock, fill, new

SECOND = 1_000_000


def check_streams(store: EventStore) -> None:
    """Check that every stream's figures are those of a read."""
    for info in store.streams(include_deleted=True):
        versions = [event.version for event in store.read(info.stream)]
        assert info.events == len(versions)
        assert info.last_version == store.stream_version(info.stream)
        assert info.first_version == (versions[0] if versions else info.last_version + 1)


def test_what_is_hidden_does_not_count(store: EventStore, clock: Clock) -> None:
    for number in range(30):
        store.append(f"s-{number % 3}", [new(number)])
        clock.us += SECOND // 6
    check_streams(store)
    store.set_retention("s-0", max_count=3)
    store.set_retention("s-1", before=7)
    store.set_retention(category="s", max_age=2)
    assert [stream[1:4] for stream in store.streams()] == [(3, 8, 10), (4, 7, 10), (4, 7, 10)]
    check_streams(store)
    clock.us += 9 * SECOND
    check_streams(store)
    assert [stream[1:4] for stream in store.streams()] == [(0, 11, 10)] * 3


def test_streams_tell_what_is_kept_of_them(store: EventStore) -> None:
    fill(store, 3)
    store.set_retention("s-1", max_count=3)
    last = list(store.read("s-1"))[-1].time_us
    assert [stream.retention for stream in store.streams()] == [None, Retention(max_count=3), None]
    assert list(store.streams(prefix="s-1")) == [StreamInfo("s-1", 1, 1, 1, last, Retention(max_count=3))]
    store.set_retention("s-1", clear=True)
    assert [stream.retention for stream in store.streams()] == [None, None, None]


def test_deleted_streams_are_listed_when_asked_for(store: EventStore) -> None:
    fill(store, 6)
    store.delete_stream("s-1")
    store.delete_stream("s-2", tombstone=True)
    assert [info.stream for info in store.streams()] == ["s-0"]
    every = list(store.streams(include_deleted=True))
    assert [stream[:4] for stream in every] == [("s-0", 2, 1, 2), ("s-1", 0, 3, 2), ("s-2", 0, 3, 2)]
    assert [stream.retention and stream.retention.tombstone for stream in every] == [None, False, True]
    store.append("s-1", [new(1)])
    assert [stream[:4] for stream in store.streams()] == [("s-0", 2, 1, 2), ("s-1", 1, 3, 3)]


def test_figures_count_policies_and_deletions_apart(store: EventStore) -> None:
    fill(store, 9)
    before = store.info()
    assert (before.events, before.streams, before.policies, before.deleted_streams) == (9, 3, 0, 0)
    store.set_retention("s-0", max_count=1)
    store.set_retention("later", max_count=1)
    store.set_retention(category="s", max_age=1000)
    store.delete_stream("s-1")
    store.delete_stream("s-2", tombstone=True)
    store.set_retention("cleared", max_count=1)
    store.set_retention("cleared", clear=True)
    info = store.info()
    assert (info.events, info.streams, info.policies, info.deleted_streams) == (9, 1, 3, 2)
    assert info.last_position == store.head == 16


def test_streams_that_share_a_hash_are_counted_apart(
    store: EventStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("evlog.") and hasattr(module, "hash_stream"):
            monkeypatch.setattr(module, "hash_stream", lambda _: 7)
    fill(store, 12)
    clock.us += 5 * SECOND
    store.append("s-1", [new(1)])
    store.append("s-2", [new(1), new(2)])
    store.set_retention(category="s", max_age=1)
    assert [stream[1:4] for stream in store.streams()] == [(0, 5, 4), (1, 5, 5), (2, 5, 6)]
    check_streams(store)
