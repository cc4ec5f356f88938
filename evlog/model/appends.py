"""One append on its way: what is to be written, what is expected of its streams, and what became of it.

Pure data. An append is held in columns (a list of streams, one of ids …) rather than in rows, because a
bulk load is then a handful of passes in C instead of a loop in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from evlog.errors import InvalidArgument
from evlog.model.events import EncodedEvent, make_ids

ANY: Final = "any"
STREAM_EXISTS: Final = "exists"
NO_STREAM: Final = 0
ExpectedVersion = int | str


class Expectation(NamedTuple):
    """The version that a stream must have before the event at index `at` of the append."""

    at: int
    stream: str
    version: ExpectedVersion

    def is_met(self, actual: int) -> bool:
        """Whether a stream at the actual version is what was expected."""
        return self.version in (ANY, actual) or (self.version == STREAM_EXISTS and actual > 0)


class Append:
    """One append as it was asked for."""

    __slots__ = ("events", "expectations", "has_made_ids", "stream_hashes", "streams")

    def __init__(
        self,
        streams: Sequence[str],
        stream_hashes: Sequence[int],
        events: Sequence[EncodedEvent],
        expectations: Sequence[Expectation] = (),
    ) -> None:
        self.streams = streams
        self.stream_hashes = stream_hashes
        self.events = events
        self.expectations = expectations
        self.has_made_ids = False  # none of its ids can have been there before

    @property
    def is_of_one_stream(self) -> bool:
        """Whether all its events are of one stream."""
        return self.streams.count(self.streams[0]) == len(self.streams)

    def give_ids(self) -> None:
        """Have the events without an id carry one from now on, so that the append may be tried again."""
        missing = sum(event[1] is None for event in self.events)
        if missing:
            self.has_made_ids = missing == len(self.events)
            made = iter(make_ids(missing))
            self.events = [(e[0], e[1] or next(made), e[2], e[3], e[4]) for e in self.events]

    def result_at(self, first_position: int, first_version: int) -> BatchResult:
        """What became of it, one stream's events in a row from there; they have their ids."""
        count = len(self.events)
        return BatchResult(
            self.streams,
            list(range(first_version, first_version + count)),
            list(range(first_position, first_position + count)),
            [event[1] or b"" for event in self.events],
            [False] * count,
        )


def join(appends: Sequence[Append]) -> Append:
    """Several appends as one, in their order."""
    streams: list[str] = []
    hashes: list[int] = []
    events: list[EncodedEvent] = []
    expectations: list[Expectation] = []
    for append in appends:
        if append.expectations:
            at = len(streams)
            expectations += [Expectation(at + e.at, e.stream, e.version) for e in append.expectations]
        streams += append.streams
        hashes += append.stream_hashes
        events += append.events
    return Append(streams, hashes, events, expectations)


class Batch(NamedTuple):
    """The events of one append, in columns."""

    streams: Sequence[str]
    stream_hashes: Sequence[int]
    events: Sequence[EncodedEvent]
    ids: Sequence[bytes]
    id_folds: Sequence[int]

    def pick(self, indexes: Sequence[int]) -> Batch:
        """The batch of only these events."""
        return Batch._make([column[at] for at in indexes] for column in self)


class BatchResult(NamedTuple):
    """What became of each event of one append, in order. A duplicate has the place of the first time."""

    streams: Sequence[str]
    versions: list[int]
    positions: list[int]
    ids: Sequence[bytes]
    duplicates: list[bool]

    def part(self, start: int, end: int) -> BatchResult:
        """What became of the events from `start` to `end`."""
        return BatchResult._make([column[start:end] for column in self])

    @property
    def appended(self) -> int:
        """How many events were written."""
        return len(self.duplicates) - self.duplicate_count

    @property
    def duplicate_count(self) -> int:
        """How many were there already."""
        return sum(self.duplicates)

    @property
    def first_position(self) -> int | None:
        """The position of the first event that was written; None if none was."""
        return next((p for p, known in zip(self.positions, self.duplicates, strict=True) if not known), None)

    @property
    def last_position(self) -> int | None:
        """The position of the last event that was written; None if none was."""
        pairs = zip(reversed(self.positions), reversed(self.duplicates), strict=True)
        return next((position for position, known in pairs if not known), None)


def check_expected(expected: Any) -> ExpectedVersion:
    """Return an expected version, or raise InvalidArgument."""
    if expected in (ANY, STREAM_EXISTS):
        return str(expected)
    if isinstance(expected, int) and not isinstance(expected, bool) and expected >= 0:
        return expected
    raise InvalidArgument(f"expected is {expected!r}; give ANY, NO_STREAM, STREAM_EXISTS or a version")
