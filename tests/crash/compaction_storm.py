"""Writers, readers and a follower on a store that is compacted again and again beneath them.

`python -m tests.crash.compaction_storm` is the long form: two million events, four writers, ten compactions,
some minutes. Every writer keeps what was acknowledged to it, the follower what it was given; at the end the
log, these records and the known ids must agree.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from array import array
from multiprocessing.connection import Connection
from typing import NamedTuple

import evlog
from evlog import NewEvent
from evlog.model.events import Event
from tests.crash.check import SEGMENT_BYTES, open_store
from tests.crash.recordings import scratch
from tests.crash.worker import Child

KEPT = 5  # of each stream of the category "w"; of the streams "keep-…" everything stays
STREAMS = 7


class Size(NamedTuple):
    """The size of a storm."""

    events: int
    writers: int
    compactions: int
    batch: int
    segment_bytes: int
    segment_events: int

    @property
    def appends(self) -> int:
        """The number of appends of each writer."""
        return self.events // self.writers // self.batch


SHORT = Size(6_000, 4, 4, 10, SEGMENT_BYTES, 500)
LONG = Size(2_000_000, 4, 10, 100, 64 << 20, 65_536)


def stream_of(writer: int, number: int, batch: int) -> str:
    return f"keep-{writer}" if number % 10 == 0 else f"w-{writer}-{number // batch % STREAMS}"


def event_of(writer: int, number: int) -> NewEvent:
    return NewEvent("Written", {"writer": writer, "number": number}, id=id_of(writer, number))


def id_of(writer: int, number: int) -> bytes:
    return evlog.idempotency_id(f"{writer} {number}").bytes


def appends_of(writer: int, at: int, batch: int) -> list[tuple[str, list[NewEvent]]]:
    numbers = range(at * batch, (at + 1) * batch)
    return [(stream_of(writer, number, batch), [event_of(writer, number)]) for number in numbers]


def write(acks: Connection, path: str, writer: int, size: Size) -> None:
    """Append everything; report each share that is done, and at the end where each event is."""
    places = array("Q")
    share = max(1, size.appends // (size.compactions + 1))
    with evlog.open(path) as store:
        for at in range(size.appends):
            for result in store.append_many(appends_of(writer, at, size.batch)):
                places.extend((result.first_position, result.first_version))
            if at % share == share - 1:
                acks.send(None)
    acks.send(places.tobytes())


def read(pipe: Connection, path: str) -> None:
    """Read everything, forwards, backwards and by stream, until told to stop; return how many times."""
    rounds = 0
    with evlog.open(path) as store:
        while not (rounds and pipe.poll()):
            for reverse in (False, True):
                positions = array("Q", (event.position for event in store.read_all(reverse=reverse)))
                check_rising(positions[::-1] if reverse else positions)
            for writer in range(2):
                versions = [event.version for event in store.read(f"keep-{writer}")]
                assert versions == list(range(1, len(versions) + 1)), "a stream that loses nothing has a gap"
                young = [event.version for event in store.read(f"w-{writer}-1")]
                assert young == list(range(young[0], young[0] + len(young))) if young else True
                assert len(young) <= KEPT
            rounds += 1
    pipe.send(rounds)


def follow(pipe: Connection, path: str) -> None:
    """Follow until the last event; return what was delivered, as positions and numbers."""
    seen = array("Q")
    with evlog.open(path) as store, store.subscribe() as subscription:
        pipe.send(None)
        for event in subscription:
            if event.stream == "end":
                break
            data = event.json()
            assert event.id_bytes == id_of(data["writer"], data["number"])
            seen.extend((event.position, data["writer"] << 40 | data["number"]))
    pipe.send(seen.tobytes())


def check_rising(positions: array[int]) -> None:
    assert all(map(int.__lt__, positions, positions[1:])), "events out of order, or twice"


def rage(path: str, size: Size) -> int:
    """Let all processes run, and compact meanwhile; return how often the readers have read everything."""
    open_store(
        path, create=True, segment_bytes=size.segment_bytes, segment_events=size.segment_events
    ).close()
    with evlog.open(path) as store:
        store.set_retention(category="w", max_count=KEPT)
        follower = Child(follow, path)
        follower.pipe.recv()
        writers = [Child(write, path, writer, size) for writer in range(size.writers)]
        readers = [Child(read, path) for _ in range(2)]
        removed = 0
        for number in range(size.compactions):
            for writer in writers:
                assert writer.pipe.recv() is None
            removed += store.compact(compress=number % 2 == 1).events_removed
        acked = [array("Q", raw_places(writer)) for writer in writers]
        store.compact()
        store.append("end", [NewEvent("End")])
        seen = array("Q", follower.pipe.recv())
        rounds = 0
        for reader in readers:
            reader.pipe.send(None)
            rounds += reader.pipe.recv()
        for child in (*writers, *readers, follower):
            child.close()
        assert removed > size.events // 4
        check(store, acked, seen, size)
    return rounds


def raw_places(writer: Child) -> bytes:
    """Return a writer's last report; skip those before it."""
    while (told := writer.pipe.recv()) is None:
        pass
    assert isinstance(told, bytes)
    return told


def check(store: evlog.EventStore, acked: list[array[int]], seen: array[int], size: Size) -> None:
    """Check that no event is lost, there twice, or in another order."""
    places = {  # by writer and number: position and version
        (writer, number): (told[2 * number], told[2 * number + 1])
        for writer, told in enumerate(acked)
        for number in range(len(told) // 2)
    }
    positions = {position for position, _ in places.values()}
    assert len(positions) == len(places) == size.appends * size.writers * size.batch
    followed = dict(zip(seen[0::2], seen[1::2], strict=True))
    check_rising(seen[0::2])
    for position, key in followed.items():
        assert places[key >> 40, key & (1 << 40) - 1][0] == position
    events = list(store.read_all())
    check_rising(array("Q", (event.position for event in events)))
    for event in events[:-1]:
        data = event.json()
        assert places[data["writer"], data["number"]] == (event.position, event.version)
        assert event.position in followed, "the follower missed what was not removed"
    check_streams(store, events[:-1], places, size)
    dice = random.Random(5)
    for writer, number in dice.sample(sorted(places), 300):
        result = store.append(stream_of(writer, number, size.batch), [event_of(writer, number)])
        assert result.duplicate
        assert (result.first_position, result.first_version) == places[writer, number]


def check_streams(
    store: evlog.EventStore, events: list[Event], places: dict[tuple[int, int], tuple[int, int]], size: Size
) -> None:
    """Check that each stream has its last events, as many as its policy keeps."""
    last: dict[str, int] = {}
    for (writer, number), (_, version) in places.items():
        stream = stream_of(writer, number, size.batch)
        last[stream] = max(last.get(stream, 0), version)
    found: dict[str, list[int]] = {}
    for event in events:
        found.setdefault(event.stream, []).append(event.version)
    for stream, version in last.items():
        first = 1 if stream.startswith("keep") else version - KEPT + 1
        assert found[stream] == list(range(max(1, first), version + 1)), stream
        assert store.stream_version(stream) == version


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.compaction_storm", description=__doc__)
    parser.add_argument("--events", type=int, default=LONG.events)
    parser.add_argument("--writers", type=int, default=LONG.writers)
    parser.add_argument("--compactions", type=int, default=LONG.compactions)
    arguments = parser.parse_args()
    size = LONG._replace(**vars(arguments))
    began = time.monotonic()
    with scratch() as root:
        rounds = rage(f"{root}/store", size)
    print(f"{size.events:,} events, {size.compactions} compactions, {rounds} whole reads: all well, ", end="")
    print(f"in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
