"""Checking many crash states, in two processes, and counting the distinct ones.

A state that was checked before, with as much acknowledged, is not checked again. A failure is reported with
the recording's name and the operation after which the crash came: these are enough to repeat it.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import pytest

from tests.crash.check import check_recovery, materialise
from tests.crash.history import Knowledge
from tests.crash.model import Cut, FileSystem, Op, Write
from tests.crash.recordings import Recording, scratch
from tests.crash.states import State, crash_states, kept_state

WORKERS = 2


class Outcome(NamedTuple):
    """The digests of the states that were checked, and what was wrong."""

    digests: set[bytes]
    failures: list[str]


class Seen:
    """Decides which states to check: each once; of those that differ only in unnamed files, one in `stride`.

    A file of a segment that the manifest does not name is read by nothing, unless it comes after all that are
    named: then it shows that the manifest is too old. Recovery and compaction remove the others.
    """

    def __init__(self, stride: int = 8) -> None:
        self.digests: set[bytes] = set()
        self._stride = step_of(stride)
        self._read: set[bytes] = set()

    def is_new(self, state: State, known: bytes = b"") -> bool:
        """Return whether to check this state with this knowledge of the clients, and remember it."""
        digest = state.digest() + known
        if digest in self.digests:
            return False
        read = state.without_unnamed().digest() + known
        if read in self._read and digest[1] % self._stride:
            return False
        self._read.add(read)
        self.digests.add(digest)
        return True


class Explorer:
    """Checks states, each at most once."""

    def __init__(self) -> None:
        self.acked: dict[bytes, int] = {}
        self.failures: list[str] = []

    def check(self, state: State, known: Knowledge, label: str) -> bool:
        """Check a state that was not seen yet with as much acknowledged; return whether it was new."""
        digest = state.digest()
        if self.acked.get(digest, -1) >= len(known.acked):
            return False
        self.acked[digest] = len(known.acked)
        with scratch() as root:
            try:
                check_recovery(materialise(state, root), known, thorough=digest[0] % 4 == 0)
            except Exception:  # noqa: BLE001 - any error is a finding
                self.failures.append(f"{label}:\n{traceback.format_exc()}")
        return True

    def outcome(self) -> Outcome:
        return Outcome(set(self.acked), self.failures)


def power_losses(
    recording: Recording, most: int | None, moments: Collection[int], stride: int | None = None
) -> Outcome:
    """Crash after each operation, or after the given ones; lose what was not synced in every legal way.

    Args:
        stride: also kill the process before each operation, and within each write at every `stride`-th byte.
    """
    explorer = Explorer()
    for moment, system, known in recording.moments():
        if moment not in moments:
            continue
        if stride is not None:
            for state in killed_states(system, recording.ops[moment : moment + 1], stride, moment % stride):
                explorer.check(state, known, f"kill after operation {moment} of {recording.name}")
        dice = random.Random(f"{recording.name} {moment}")
        for state in crash_states(system, dice, most):
            explorer.check(state, known, f"power loss after operation {moment} of {recording.name}")
    return explorer.outcome()


def killed_states(system: FileSystem, following: list[Op], stride: int, start: int) -> Iterator[State]:
    """Yield what a kill leaves: all that was written, and parts of the next operation if that is a write."""
    yield kept_state(system)
    for op in following:
        if isinstance(op.change, Write):
            offset, data = op.change
            for size in range(1 + start, len(data), stride):
                torn = system.copy()
                torn.apply(op._replace(change=Write(offset, data[:size])))
                yield kept_state(torn)
        elif isinstance(op.change, Cut):
            yield kept_state(system)


Job = tuple[Callable[..., Outcome], tuple[object, ...]]


def run(jobs: Iterable[Job]) -> Outcome:
    """Run the jobs in the worker processes and put their outcomes together."""
    context = multiprocessing.get_context("forkserver")  # which has imported the package already
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(WORKERS, context) as pool:
        futures = [pool.submit(function, *arguments) for function, arguments in jobs]
        return together([future.result() for future in futures])


def together(outcomes: Iterable[Outcome]) -> Outcome:
    """Return all states and all failures."""
    digests: set[bytes] = set()
    failures: list[str] = []
    for outcome in outcomes:
        digests |= outcome.digests
        failures += outcome.failures
    return Outcome(digests, failures)


def expect(outcome: Outcome, least: int) -> None:
    """Check that nothing failed, and that this many states differ: a test that checks none must not pass."""
    if outcome.failures:
        pytest.fail(
            f"{len(outcome.failures)} states failed, the first:\n{outcome.failures[0]}", pytrace=False
        )
    assert len(outcome.digests) >= least


def step_of(stride: int) -> int:
    """Return the stride, or what EVLOG_TEST_STRIDE says: 1 tries everything."""
    return int(os.environ.get("EVLOG_TEST_STRIDE", stride))


def usually(number: int, *, long: int) -> int:
    """The number, or with EVLOG_TEST_STRIDE=1, which tries everything, that of a long run."""
    return long if step_of(2) == 1 else number


def shares(recording: Recording, stride: int = 2) -> list[range]:
    """Return every stride-th moment of a recording, in shares for the workers. EVLOG_TEST_STRIDE=1: all."""
    step = step_of(stride)
    return [range(step * first, len(recording.ops) + 1, step * WORKERS) for first in range(WORKERS)]
