"""Followers beside a plain list, whatever writers and crashes do between any two events that they take.

Every follower must get exactly the events that match, each once, in position order: at any time a prefix of
the list's events, and at the end all that were acknowledged. Writers append in frames of several sizes, roll,
are killed between write and sync, and leave torn tails; the power fails. Named runs end or are killed; the
next run continues after the last acknowledged event, or after a kill perhaps a little before that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from evlog import EventStore, NewEvent, Subscription
from evlog.files.disk.files import Disk, WriteFile
from evlog.model.events import category_of
from tests.support.helpers import engine_of, small_store

PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
HANDLES = 3
STREAMS = ["a", "a-1", "b-1", "b-2"]
FILTERS: list[dict[str, Any]] = [
    {},
    {"stream": "a-1"},
    {"category": "b"},
    {"types": ["T", "none"]},
    {"category": "a", "types": ["U"]},
]

handles = st.integers(0, HANDLES - 1)
batches = st.lists(st.tuples(st.sampled_from(STREAMS), st.sampled_from(["T", "U"])), min_size=1, max_size=5)


class Row(NamedTuple):
    """What the list knows of an event."""

    position: int
    stream: str
    type: str
    number: int


class Runner:
    """One follower, and what was delivered to it in this run."""

    def __init__(self, store: EventStore, filter: dict[str, Any], name: str | None, after: int) -> None:
        self.filter = filter
        self.name = name
        self.after = after  # where the run began
        self.given: list[Row] = []
        self.pending = False  # whether the last one is unacknowledged
        self.subscription: Subscription = store.subscribe(name, after=after, **filter)

    def matches(self, row: Row) -> bool:
        filter = self.filter
        return (
            row.stream == filter.get("stream", row.stream)
            and category_of(row.stream) == filter.get("category", category_of(row.stream))
            and row.type in filter.get("types", [row.type])
        )

    def expected(self, rows: list[Row]) -> list[Row]:
        return [row for row in rows if row.position > self.after and self.matches(row)]

    def take(self, most: int) -> bool:
        """Take at most this many events; return whether there were as many."""
        for _ in range(most):
            event = self.subscription.next_event(0)
            self.pending = event is not None
            if event is None:
                return False
            self.given.append(Row(event.position, event.stream, event.type, int(event.data)))
        return True

    def loop(self, most: int) -> None:
        """Take this many events by a loop, which leaves the last one unacknowledged."""
        if most:
            for event in self.subscription:
                self.given.append(Row(event.position, event.stream, event.type, int(event.data)))
                self.pending = True
                most -= 1
                if not most:
                    return

    def acknowledged(self) -> int:
        """Return the position after which the next run of the name begins at the latest."""
        return self.subscription.position


class Dying(Disk):
    """The disk of a writer that is killed before it syncs the log: after its frame, or in a recovery."""

    wrote = False

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        super().write_at(file, data, offset)
        self.wrote |= file.path.endswith(".log")

    def sync(self, file: WriteFile) -> None:
        if file.path.endswith(".log"):
            raise KeyboardInterrupt
        super().sync(file)


class FollowMachine(RuleBasedStateMachine):
    """The rules. `rows` is the plain list, of which `acked` are acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(dir=PLACE, prefix="evlog-follow-")
        self.path = f"{self.directory}/store"
        self.patches = pytest.MonkeyPatch()
        # A follower that syncs for a dead writer after a second would make this depend on the clock.
        self.patches.setattr("evlog.files.follow.feed._PATIENCE_SECONDS", float("inf"))
        self.rows: list[Row] = []
        self.acked = 0
        self.torn = False
        self.number = 0
        self.runners: list[Runner] = []
        self.checkpoints: dict[str, tuple[dict[str, Any], int]] = {}

    @initialize(piece=st.sampled_from([1, 3, 1 << 16]), search=st.sampled_from([0, 2048]))
    def begin(self, piece: int, search: int) -> None:
        self.patches.setattr("evlog.subscriptions.run._PIECE_EVENTS", piece)
        self.patches.setattr("evlog.files.log.read._SEARCH_MORE_THAN", search)
        self.open_all()

    def open_all(self) -> None:
        """Open the stores as after a boot, and begin one follower of each kind."""
        self.stores = [small_store(self.path) for _ in range(HANDLES)]
        for number, filter in enumerate(FILTERS):
            self.begin_run(number % HANDLES, filter, f"n-{number}" if number % 2 else None, 0)

    def teardown(self) -> None:
        try:
            for runner in self.runners:
                runner.take(1000)
                self.check(runner)
                missing = runner.expected(self.rows[: self.acked])
                assert runner.given[: len(missing)] == missing, "an acknowledged event was left out"
                runner.subscription.close()
        finally:
            self.patches.undo()
            shutil.rmtree(self.directory)

    # --- writers

    def rows_of(self, batch: list[tuple[str, str]]) -> list[tuple[str, list[NewEvent]]]:
        appends = []
        for stream, type in batch:
            self.number += 1
            self.rows.append(Row(len(self.rows) + 1, stream, type, self.number))
            appends.append((stream, [NewEvent(type, self.number)]))
        return appends

    @rule(handle=handles, batch=batches)
    def append(self, handle: int, batch: list[tuple[str, str]]) -> None:
        self.stores[handle].append_many(self.rows_of(batch))
        self.acked = len(self.rows)
        self.torn = False

    @rule(writers=st.lists(handles, min_size=2, max_size=8))
    def append_in_turns(self, writers: list[int]) -> None:
        for handle in writers:
            self.append(handle, [(STREAMS[self.number % 4], "TU"[self.number % 3 % 2])])

    @precondition(lambda self: not self.torn)
    @rule(batch=batches)
    def die_before_the_sync(self, batch: list[tuple[str, str]]) -> None:
        with small_store(self.path) as probe:
            full = probe.head - engine_of(probe)._log.active.first_position + 1 + len(batch) > 8  # type: ignore[union-attr]
        if full:
            return  # it would roll, which syncs
        before, disk = list(self.rows), Dying()
        with small_store(self.path, disk=disk) as dying, contextlib.suppress(KeyboardInterrupt):
            dying.append_many(self.rows_of(batch))
            raise AssertionError("the writer lived")
        if not disk.wrote:
            self.rows = before

    @rule(junk=st.binary(min_size=1, max_size=80), whole=st.booleans())
    def tear_the_tail(self, junk: bytes, whole: bool) -> None:
        """Leave what a writer leaves that is killed during its write: a part of a frame."""
        with small_store(self.path) as probe:
            active = engine_of(probe)._log.active.segment  # type: ignore[union-attr]
        with open(active.log_path, "r+b") as log:
            start = log.read(80)[64:]
            log.seek(active.end)  # preallocated zeros may follow
            log.write(start + junk if whole else junk)
        self.torn = True

    @rule(keep=st.floats(0, 1))
    def lose_power(self, keep: float) -> None:
        """End all processes, and lose a part of what was not synced."""
        for runner in self.runners:
            self.kill_run(runner)
        self.runners.clear()
        with small_store(self.path) as probe:
            log = engine_of(probe)._log
            assert log is not None
            active = log.active.segment
            durable, path = log.durable_offset(), active.log_path
            first = active.first_position
            size = active.end  # only preallocated zeros follow
            end = durable + int(keep * (size - durable)) if durable else size
            ends = [active._frame_offset(number) for number in range(active.count)] + [active.end]
        if end < size:
            os.truncate(path, end)
            kept = [
                number
                for number in range(len(ends) - 1)
                if min(at for at in ends[number:] if at > ends[number]) <= end
            ]
            del self.rows[first - 1 + len(kept) :]
            assert len(self.rows) >= self.acked
        self.torn = True
        self.open_all()

    # --- followers

    @precondition(lambda self: len(self.runners) < 2 * len(FILTERS))
    @rule(
        handle=handles,
        filter=st.sampled_from(FILTERS),
        after=st.integers(0, 60),
        name=st.sampled_from([None, "n-1", "n-3", "x"]),
    )
    def begin_run(self, handle: int, filter: dict[str, Any], name: str | None, after: int) -> None:
        if any(runner.name == name for runner in self.runners if name):
            return
        if name in self.checkpoints:
            filter, after = self.checkpoints[name]
        after = min(after, self.acked)
        self.runners.append(Runner(self.stores[handle], filter, name, after))

    @precondition(lambda self: self.runners)
    @rule(which=st.integers(0, 9), most=st.integers(0, 20))
    def take(self, which: int, most: int) -> None:
        runner = self.runners[which % len(self.runners)]
        if not runner.take(most):
            expected = runner.expected(self.rows[: self.acked])
            assert runner.given[: len(expected)] == expected, "it ended before the last acknowledged event"
            assert runner.subscription.position >= self.acked

    @precondition(lambda self: self.runners)
    @rule(which=st.integers(0, 9), most=st.integers(0, 9))
    def loop(self, which: int, most: int) -> None:
        runner = self.runners[which % len(self.runners)]
        if len(runner.expected(self.rows[: self.acked])) - len(runner.given) >= most:
            runner.loop(most)

    @precondition(lambda self: self.runners)
    @rule(which=st.integers(0, 9), acknowledge=st.booleans())
    def end(self, which: int, acknowledge: bool) -> None:
        runner = self.runners.pop(which % len(self.runners))
        if acknowledge:
            runner.subscription.acknowledge()
            runner.pending = False
            self.check(runner)
        position = runner.acknowledged()
        runner.subscription.close()
        if runner.name is not None:
            self.checkpoints[runner.name] = (runner.filter, position)

    @precondition(lambda self: any(runner.name for runner in self.runners))
    @rule()
    def kill(self) -> None:
        runner = next(runner for runner in self.runners if runner.name)
        self.runners.remove(runner)
        self.kill_run(runner)

    def kill_run(self, runner: Runner) -> None:
        """Free the run's lock, as the end of its process does; the last saved checkpoint stays."""
        if runner.name is None:
            return
        files = runner.subscription._checkpoint
        assert files is not None
        acknowledged = runner.acknowledged()
        files.release()
        known = files.load()
        assert known is not None
        assert runner.after <= known.position <= acknowledged
        self.checkpoints[runner.name] = (runner.filter, known.position)

    # --- what must hold

    def check(self, runner: Runner) -> None:
        expected = runner.expected(self.rows)
        assert runner.given == expected[: len(runner.given)], "given twice, left out, or out of order"
        assert not runner.given or runner.given[-1].position <= self.acked, "given before it was acknowledged"
        done = runner.given[:-1] if runner.pending else runner.given
        passed = [row for row in expected if row.position <= runner.subscription.position]
        assert passed == done, "the position is not that of the last acknowledged event"

    @invariant()
    def every_follower_was_given_a_prefix(self) -> None:
        for runner in self.runners:
            self.check(runner)


TestFollow = FollowMachine.TestCase
TestFollow.settings = settings(max_examples=2 * settings().max_examples, stateful_step_count=40)
