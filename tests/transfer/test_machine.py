"""A source changes at random, with policies, deletions and compactions; its mirror copies from time to time.

After each copy the mirror equals the source.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import evlog
from evlog import EventStore, EvlogError, NewEvent
from evlog.testing.mirroring import everything
from tests.support.helpers import small_store

streams = st.sampled_from(["a", "a-1", "a-2", "b-1"])
ids = st.one_of(st.none(), st.integers(1, 30).map(lambda number: UUID(int=number)))
events = st.builds(NewEvent, st.sampled_from(["T", "U"]), st.integers(0, 1), id=ids)
batches = st.lists(events, min_size=1, max_size=5)


class Mirroring(RuleBasedStateMachine):
    """A source, a mirror of it in a directory, and one of that mirror, in memory or in a directory."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="evlog-mirror-")
        self.source = small_store(f"{self.folder}/source")
        self.mirror = small_store(f"{self.folder}/mirror")
        self.second = small_store(f"{self.folder}/second", segment_events=30)
        self.mirrored = False

    def teardown(self) -> None:
        for store in (self.source, self.mirror, self.second):
            store.close()
        shutil.rmtree(self.folder)

    @rule(stream=streams, batch=batches)
    def append(self, stream: str, batch: list[NewEvent]) -> None:
        self.try_to(lambda: self.source.append(stream, batch))

    @rule(parts=st.lists(st.tuples(streams, batches), min_size=2, max_size=3))
    def append_many(self, parts: Any) -> None:
        self.try_to(lambda: self.source.append_many(parts))

    @rule(stream=streams, most=st.integers(1, 4))
    def keep(self, stream: str, most: int) -> None:
        self.try_to(lambda: self.source.set_retention(stream, max_count=most))

    @rule(most=st.integers(1, 4))
    def keep_category(self, most: int) -> None:
        self.source.set_retention(category="a", max_count=most, max_age=timedelta(days=9))

    @rule(stream=streams, tombstone=st.sampled_from([False, False, True]))
    def delete(self, stream: str, tombstone: bool) -> None:
        self.try_to(lambda: self.source.delete_stream(stream, tombstone=tombstone))

    @rule()
    def compact(self) -> None:
        self.source.compact(force=True)

    @rule(bad=st.integers(0, 1))
    def consume(self, bad: int) -> None:
        def handle(event: evlog.Event) -> None:
            if event.data == b"%d" % bad:
                raise ValueError

        self.source.consume("n", handle, follow=False, retries=0, on_failure="park")

    @rule(size=st.integers(1, 9))
    def bring_up_to_date(self, size: int) -> None:
        self.bring(self.source, self.mirror, size)
        self.mirrored = True

    @precondition(lambda self: self.mirrored)
    @rule(size=st.integers(1, 9))
    def bring_on(self, size: int) -> None:
        self.bring(self.mirror, self.second, size)

    def bring(self, source: EventStore, mirror: EventStore, size: int) -> None:
        with evlog.Mirror(source, mirror, piece_events=size) as run:
            done = run.copy()
        assert (done.position, done.lost) == (source.head, 0)
        assert mirror.head == source.head
        assert everything(mirror) == everything(source)
        assert [*mirror.engine.read_removed(0, mirror.head)] == [*source.engine.read_removed(0, source.head)]
        found = evlog.Mirror(source, mirror).check()
        assert found.ok, found.difference
        assert found.removed_since == 0
        names = [info.stream for info in source.streams(include_deleted=True, include_system=True)]
        assert [mirror.stream_version(name) for name in names] == [
            source.stream_version(name) for name in names
        ]
        assert mirror.policies() == source.policies()
        for name in names:
            assert list(mirror.read(name)) == list(source.read(name))
        assert [place[:7] for place in parked(mirror)] == [place[:7] for place in parked(source)]
        report = mirror.verify()
        assert report.ok, report.findings

    def try_to(self, call: Any) -> None:
        try:
            call()
        except EvlogError:
            pass  # an id is known, a stream is not there or was forbidden


def parked(store: EventStore) -> list[Any]:
    return list(store.parked("n")) if store.subscriptions() else []


TestMirroring = Mirroring.TestCase
TestMirroring.settings = settings(max_examples=max(10, settings().max_examples // 4))
