"""A dozen writers on one store, killed at random moments and started again, for some time."""

from __future__ import annotations

import multiprocessing.connection
import random
import time
from dataclasses import dataclass

import evlog
from evlog.model.events import Event
from tests.crash.check import open_store
from tests.crash.worker import Child, batch_of, write_for_ever
from tests.support.contention import shared_frames


@dataclass
class Writer:
    child: Child
    acked: list[int]  # the first position of each of its appends, in order
    lives: int  # acknowledgements until it is killed


class Storm:
    """Writers being killed, and a reader that follows them.

    Args:
        path: where the store is made.
        dice: decides which writer is killed when.
    """

    def __init__(self, path: str, dice: random.Random, writers: int = 12) -> None:
        self.path = path
        self.dice = dice
        self.kills = 0
        open_store(path, create=True, segment_events=400).close()
        self.reader = open_store(path)
        self.seen: list[tuple[int, bytes]] = []
        self.writers = [Writer(self._start(number, 0), [], self._life()) for number in range(writers)]

    def rage(self, seconds: float, kills: int = 0) -> None:
        """Kill and start writers for this long, and until this many have been killed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or self.kills < kills:
            pipes = [writer.child.pipe for writer in self.writers]
            for pipe in multiprocessing.connection.wait(pipes, timeout=1.0):
                self._hear(next(number for number, ours in enumerate(pipes) if ours is pipe))
            if self.kills % 5 == 0:
                self._follow()

    def finish(self) -> None:
        """Kill all writers, and take in their last reports."""
        for number in range(len(self.writers)):
            self._kill(number)
        self._follow()
        self.reader.close()

    def check(self) -> None:
        """Check that all that was acknowledged is whole, in one order without gaps, every batch once."""
        assert shared_frames(self.path), "no writer ever appended for another"
        with evlog.open(self.path) as store:
            events = list(store.read_all())
            assert [event.position for event in events] == list(range(1, len(events) + 1))
            assert [(event.position, event.id_bytes) for event in events[: len(self.seen)]] == self.seen
            assert len({event.id_bytes for event in events}) == len(events), "an id is there twice"
            self._check_batches(events)
            streams: dict[str, list[Event]] = {}
            for event in events:
                streams.setdefault(event.stream, []).append(event)
            for stream, its in streams.items():
                assert [event.version for event in its] == list(range(1, len(its) + 1))
                assert list(store.read(stream)) == its
            self._check_retries(store)

    def _check_batches(self, events: list[Event]) -> None:
        position = {event.id_bytes: event.position for event in events}
        whole = 0
        for number, writer in enumerate(self.writers):
            for at in range(len(writer.acked) + 1):  # one more may be there, not acknowledged
                parts = [(stream, event) for stream, new in batch_of(number, at) for event in new]
                first = position.get(parts[0][1].id.bytes)  # type: ignore[union-attr]
                if at < len(writer.acked):
                    assert first == writer.acked[at], f"append {at} of writer {number} was acknowledged"
                if first is None:
                    continue
                whole += len(parts)
                for place, (stream, new) in enumerate(parts, first):
                    event = events[place - 1]
                    assert (event.stream, event.type, event.id) == (stream, new.type, new.id)
                    assert event.json() == new.data
        assert whole == len(events), "there is something that was never sent, or half a batch"

    def _check_retries(self, store: evlog.EventStore) -> None:
        for number, writer in enumerate(self.writers):
            for at in self.dice.sample(range(len(writer.acked)), min(20, len(writer.acked))):
                results = store.append_many(batch_of(number, at))
                assert all(result.duplicate for result in results)
                assert results[0].first_position == writer.acked[at]

    def _hear(self, number: int) -> None:
        writer = self.writers[number]
        self._receive(number)
        writer.lives -= 1
        if writer.lives <= 0:
            self._kill(number)
            writer.child = self._start(number, len(writer.acked))
            writer.lives = self._life()

    def _receive(self, number: int) -> None:
        writer = self.writers[number]
        at, position = writer.child.pipe.recv()
        assert at == len(writer.acked), "a writer died that was not killed"
        writer.acked.append(position)

    def _kill(self, number: int) -> None:
        writer = self.writers[number]
        time.sleep(self.dice.random() * 0.002)  # to hit any moment of the next append, not its beginning
        writer.child.kill()
        self.kills += 1
        while writer.child.pipe.poll():
            try:
                self._receive(number)
            except EOFError:
                break
        writer.child.close()

    def _follow(self) -> None:
        """Read what is new, and check that it comes after what was read before."""
        for event in self.reader.read_all(after=len(self.seen)):
            assert event.position == len(self.seen) + 1
            self.seen.append((event.position, event.id_bytes))

    def _start(self, number: int, first: int) -> Child:
        return Child(write_for_ever, self.path, number, first)

    def _life(self) -> int:
        return self.dice.choice((1, 2, 3, 5, 8, 30, 60))
