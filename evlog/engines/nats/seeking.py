"""Finding where a read begins: a position or a version is not a sequence, but all of them rise together.

A read finds the sequence to begin at by looking at some messages: positions and times never fall, nor do
versions in a stream.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from evlog.engines.messages import POSITION, VERSION
from evlog.process.forks import register_fork_reset

if TYPE_CHECKING:
    from evlog.engines.nats.jetstream import JetStream, Stored
    from evlog.engines.nats.layout import Subjects

NEAR: Final = 256
"""Messages; a shorter way is read through instead of looking for its end."""
_PROBES: Final = 40
_ANCHORS: Final = 256


class Seeker:
    """Finds sequences for the reads of one engine. Any thread may use it."""

    def __init__(self, jetstream: JetStream, subjects: Subjects) -> None:
        self._jetstream = jetstream
        self._subjects = subjects
        self._mutex = threading.Lock()  # guards what is below
        self._anchors: OrderedDict[int, int] = OrderedDict()  # sequences of events, by position
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        self._mutex = threading.Lock()
        self._anchors = OrderedDict()

    def seek(self, subject: str, by: str, target: int, last: Stored, near: int = NEAR) -> int:
        """Return a sequence before which no message of a filter has a number above the target.

        Args:
            near: how many messages up to the target may follow it.
        """
        if target <= 0:
            return 1
        low, low_number = self._jetstream.first_sequence - 1, 0
        if by == POSITION:
            with self._mutex:
                exact = self._anchors.get(target)
            if exact is not None:
                return exact + 1
        high, high_number = last.sequence + 1, last.number(by) + 1
        for probe in range(_PROBES):
            if target - low_number <= near or high - low <= max(1, near):
                break
            middle = (low + high) // 2
            if not probe % 2:  # as if the numbers rose evenly
                share = (target - low_number) / max(1, high_number - low_number)
                middle = low + int((high - low) * min(1.0, share)) - near // 4
            middle = min(max(middle, low + 1), high - 1)
            found = self._jetstream.next(subject, middle)
            if found is None or found.sequence >= high or found.number(by) > target:
                high = middle
                high_number = high_number if found is None else min(high_number, found.number(by))
            else:
                low, low_number = found.sequence, found.number(by)
        return low + 1

    def seek_end(self, subject: str, by: str, target: int, last: Stored) -> int:
        """Return a sequence after which every message of a filter has a number above the target."""
        begin = self.seek(subject, by, target, last, 0)  # looking costs less than reading large events
        first = self._jetstream.next(subject, begin)
        if first is None or first.number(by) > target:
            return begin - 1
        for stored in self._jetstream.scan(subject, begin, last.sequence):
            if stored.number(by) > target:
                return stored.sequence - 1
        return last.sequence

    def sequence_up_to(self, subject: str, version: int) -> int:
        """Return the sequence of the last message of a stream up to a version; 0 if there is none."""
        last = self._jetstream.last(subject)
        if last is None:
            return 0
        end = self.seek_end(subject, VERSION, version, last)
        first = self._jetstream.next(subject, 1)
        return end if first is not None and first.sequence <= end else 0

    def message_at(self, position: int) -> Stored | None:
        """Return the message of the event at a position; None if there is none."""
        last = self._jetstream.last(self._subjects.events)
        if last is None:
            return None
        first = self.seek(self._subjects.events, POSITION, position - 1, last)
        for stored in self._jetstream.scan(self._subjects.events, first, last.sequence):
            if stored.number(POSITION) >= position:
                return stored if stored.number(POSITION) == position else None
        return None

    def remember(self, stored: Stored) -> None:
        """Remember where an event is: reads often begin where one has ended."""
        with self._mutex:
            self._anchors[stored.number(POSITION)] = stored.sequence
            if len(self._anchors) > _ANCHORS:
                self._anchors.popitem(last=False)
