"""A day-long follow in fast forward: `python -m tests.concurrency.long_follow --rolls 20000`.

A writer fills segments of a few events, one roll after another; compactions remove old segments; two
followers, one of them named, one filtered, run all the time. At the end the process must hold as many file
descriptors as at the beginning, and as much memory, except for noise: what each roll leaks adds up over
thousands of them. (With segments of 64 MiB, 20,000 rolls are over a terabyte.)
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from evlog import EventStore, Subscription
from evlog.files.disk.files import DISK
from evlog.files.format.paths import SUFFIXES, segment_path
from evlog.files.log.manifest_file import read_manifest, replace_manifest
from tests.support.helpers import new, small_store

SEGMENT_EVENTS: Final = 4
KEEP_SEGMENTS: Final = 20
ROLLS_A_STEP: Final = 50
PLACE: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Sample(NamedTuple):
    """What the process holds after some number of rolls."""

    rolls: int
    descriptors: int
    memory_bytes: int


def follow_through(path: Path, rolls: int) -> Iterator[Sample]:
    """Roll, remove and follow; return a sample after each step.

    Raises:
        AssertionError: an event was left out, given twice, or given out of order.
    """
    small_store(path, segment_events=SEGMENT_EVENTS).close()
    with (
        small_store(path) as reader,
        reader.subscribe("all") as named,
        reader.subscribe(types=["T1"]) as some,
    ):
        position = 0
        for done in range(0, rolls, ROLLS_A_STEP):
            position = _roll(path, position, [named, some])
            _remove_old_segments(path)
            gc.collect()
            yield Sample(done + ROLLS_A_STEP, len(os.listdir("/proc/self/fd")), _memory_bytes())
        assert named.position == some.position == position


def _roll(path: Path, position: int, followers: list[Subscription]) -> int:
    """Roll this many times; after every few appends have the followers take what there is."""
    named, some = followers
    with small_store(path) as writer:
        for step in range(ROLLS_A_STEP * SEGMENT_EVENTS):
            _append(writer, position + 1)
            position += 1
            if step % 7 == 0:
                _take(named, position, every=1)
                _take(some, position, every=2)
        _take(named, position, every=1)
        _take(some, position, every=2)
    return position


def _append(writer: EventStore, position: int) -> None:
    result = writer.append(f"s-{position % 3}", [new(position, f"T{position % 2}")])
    assert result.last_position == position


def _take(follower: Subscription, last: int, *, every: int) -> None:
    after = follower.position
    expected = [position for position in range(after + 1, last + 1) if every == 1 or position % 2]
    taken = []
    while (event := follower.next_event(0)) is not None:
        taken.append(event.position)
    assert taken == expected


def _remove_old_segments(path: Path) -> None:
    """Remove all segments but the last ones, as retention and a compaction do."""
    manifest = read_manifest(str(path))
    removed = manifest.segments[:-KEEP_SEGMENTS]
    replace_manifest(str(path), manifest._replace(segments=manifest.segments[-KEEP_SEGMENTS:]), DISK)
    for info in removed:
        for suffix in SUFFIXES:
            DISK.remove(segment_path(str(path), info.first_position, info.generation, suffix))


def _memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(samples: list[Sample]) -> tuple[int, int]:
    """Return how many more descriptors and bytes the last sample holds than one after the warm-up."""
    warm = samples[len(samples) // 4]
    return samples[-1].descriptors - warm.descriptors, samples[-1].memory_bytes - warm.memory_bytes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.concurrency.long_follow", description=__doc__)
    parser.add_argument("--rolls", type=int, default=20_000, help="how many (default 20000: some minutes)")
    rolls = parser.parse_args().rolls
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(dir=PLACE, prefix="evlog-long-follow-") as directory:
        for sample in follow_through(Path(directory, "store"), rolls):
            samples.append(sample)
            if sample.rolls % (20 * ROLLS_A_STEP) == 0:
                descriptors, memory = sample.descriptors, sample.memory_bytes >> 10
                print(f"{sample.rolls} rolls: {descriptors} descriptors, {memory:,} KiB", flush=True)
    descriptors, memory = growth(samples)
    print(f"since the warm-up: {descriptors:+d} descriptors, {memory >> 10:+,d} KiB")
    return int(descriptors > 0 or memory > rolls * 100)


if __name__ == "__main__":
    sys.exit(main())
