"""One append: what it writes, what it expects of its streams, and its result.

An append is held in columns (a list of streams, one of ids …) rather than in rows, because a bulk load is
then a handful of passes in C instead of a loop in Python.
"""

from __future__ import annotations

from _collections_abc import Sequence  # collections.abc would import the package collections
from operator import itemgetter

from evlog.errors import CorruptionError, EvlogError, InvalidArgument
from evlog.model.arguments import list_of, maybe_whole
from evlog.model.events import check_stream_name, id_text, make_ids
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final, Self, overload
    from uuid import UUID

    from evlog.model.events import EncodedEvent
    from evlog.model.queries import IfNone

ANY: Final = "any"
STREAM_EXISTS: Final = "exists"
NO_STREAM: Final = 0
ExpectedVersion = int | str

_SHOWN_IDS: Final = 3
_id_of = itemgetter(1)  # of an encoded event


def check_expected(expected: Any) -> ExpectedVersion:
    """Return an expected version, or raise InvalidArgument."""
    if isinstance(expected, str) and expected in (ANY, STREAM_EXISTS):
        return str(expected)
    if not isinstance(expected, bool) and (version := maybe_whole(expected)) is not None and version >= 0:
        return version
    raise InvalidArgument(f"expected is {expected!r}; give ANY, NO_STREAM, STREAM_EXISTS or a version")


class SchemasChanged(EvlogError):
    """An engine's answer to a store: the events were checked against other schemas than there are now."""

    def __init__(self) -> None:
        super().__init__("the schemas have changed", "check the events again")


def damaged_schema(error: CorruptionError) -> CorruptionError:
    """Return the error of an append that cannot be checked, because an event with a schema is damaged."""
    detail = f"{error.detail}; it holds a schema, and nothing is appended that cannot be checked"
    return CorruptionError(error.path, error.offset, detail, error.position)


class Expectation:
    """The version that a stream must have before the event at index `at` of the append."""

    __slots__ = ("at", "stream", "version")

    def __init__(self, at: int, stream: str, version: ExpectedVersion) -> None:
        self.at = at
        self.stream = stream
        self.version = version

    def is_met(self, actual: int) -> bool:
        """Return whether a stream at the actual version is what was expected."""
        return self.version in (ANY, actual) or (self.version == STREAM_EXISTS and actual > 0)


class IfVersion:
    """A condition of an append: another stream is at a version.

    Args:
        stream: its name.
        version: a version (0: the stream must not exist), or ANY, NO_STREAM or STREAM_EXISTS.
    """

    __slots__ = ("stream", "version")

    def __init__(self, stream: str, version: ExpectedVersion) -> None:
        self.stream = check_stream_name(stream)
        self.version = check_expected(version)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IfVersion):
            return NotImplemented
        return (self.stream, self.version) == (other.stream, other.version)

    def __hash__(self) -> int:
        return hash((self.stream, self.version))

    def __repr__(self) -> str:
        return f"IfVersion({self.stream!r}, {self.version!r})"


def split_conditions(
    conditions: IfNone | IfVersion | Iterable[IfNone | IfVersion],
) -> tuple[list[IfVersion], list[IfNone]]:
    """Return the two kinds of conditions, or raise InvalidArgument."""
    global _if_none
    if _if_none is None:  # an import statement for each append would take 1 µs
        from evlog.model.queries import IfNone

        _if_none = IfNone
    if isinstance(conditions, _if_none):
        return [], [conditions]
    one = isinstance(conditions, IfVersion)
    given: list[Any] = [conditions] if one else list_of("conditions", conditions)  # type: ignore[arg-type]
    versions = [each for each in given if isinstance(each, IfVersion)]
    queries = [each for each in given if isinstance(each, _if_none)]
    if len(versions) + len(queries) < len(given):
        raise InvalidArgument("conditions must be IfNone and IfVersion objects; give a list of them")
    return versions, queries


_if_none: type[IfNone] | None = None


class AppendRequest(NamedTuple):
    """What `Engine.append` is asked for: events, all of them or none, and what must be true before.

    Args:
        streams: the stream of each event.
        conditions: what must not be in the log before the append. An `after` beyond the log's end is refused
            by InvalidArgument.
        skip_known: skip events whose id is known with the same content, instead of refusing an append of
            which only a part is known.
        schemas: the version of the stream `$schemas` that the events were checked against; None: they need
            not be checked.
        system: evlog itself appends: streams may be the store's own, whose names begin with `$`.
    """

    streams: Sequence[str]
    events: Sequence[EncodedEvent]
    expectations: Sequence[Expectation] = ()
    conditions: Sequence[IfNone] = ()
    skip_known: bool = False
    schemas: int | None = None
    system: bool = False

    @classmethod
    def own(cls, stream: str, event: EncodedEvent, expectations: Sequence[Expectation] = ()) -> Self:
        """Return the append of one of the store's own events."""
        return cls([stream], [event], expectations, system=True)


class Append:
    """One append in a directory: a request, or several that their writers have joined.

    Args:
        conditions: each with the index of the event before which it must hold.
        streams, events, expectations, skip_known, schemas: as in AppendRequest.
    """

    __slots__ = (
        "conditions", "events", "expectations", "has_made_ids", "schemas", "skip_known", "streams",
    )  # fmt: skip

    def __init__(
        self,
        streams: Sequence[str],
        events: Sequence[EncodedEvent],
        expectations: Sequence[Expectation] = (),
        conditions: Sequence[tuple[int, IfNone]] = (),
        *,
        skip_known: bool = False,
        schemas: int | None = None,
    ) -> None:
        self.schemas = schemas
        self.streams = streams
        self.events = events
        self.expectations = expectations
        self.conditions = conditions
        self.skip_known = skip_known
        self.has_made_ids = False  # of all events: if one of them is known, an earlier try wrote it

    @property
    def is_of_one_stream(self) -> bool:
        """Whether all events, and the one expectation if any, are of one stream; it must hold before them."""
        stream = self.streams[0]
        if self.streams[-1] != stream:  # most batches of several streams: they need not be counted
            return False
        if self.expectations:
            first = self.expectations[0]
            if len(self.expectations) > 1 or first.at or first.stream != stream:
                return False
        return self.streams.count(stream) == len(self.streams)

    def give_ids(self) -> None:
        """Give an id to each event without one, so that the append can be tried again."""
        ids = list(map(_id_of, self.events))
        missing = ids.count(None)
        if missing:
            self.has_made_ids = missing == len(ids)
            made = iter(make_ids(missing))
            self.events = [(e[0], e[1] or next(made), e[2], e[3], e[4]) for e in self.events]

    def result_at(self, first_position: int, first_version: int) -> BatchResult:
        """Return the result of an append to one stream whose events, all with ids, begin there."""
        count = len(self.events)
        return BatchResult(
            self.streams,
            list(range(first_version, first_version + count)),
            list(range(first_position, first_position + count)),
            list(map(_id_of, self.events)),
            [False] * count,
        )


class BatchResult:
    """The result for each event of one append, in order. A duplicate has the place of the first time."""

    __slots__ = ("duplicates", "ids", "positions", "streams", "versions")

    def __init__(
        self,
        streams: Sequence[str],
        versions: list[int],
        positions: list[int],
        ids: Sequence[bytes],
        duplicates: list[bool],
    ) -> None:
        self.streams = streams
        self.versions = versions
        self.positions = positions
        self.ids = ids
        self.duplicates = duplicates

    def part(self, start: int, end: int) -> BatchResult:
        """Return the result for the events from `start` to `end`."""
        return BatchResult(
            self.streams[start:end],
            self.versions[start:end],
            self.positions[start:end],
            self.ids[start:end],
            self.duplicates[start:end],
        )

    @property
    def appended(self) -> int:
        """The number of events that were written."""
        return len(self.duplicates) - self.duplicate_count

    @property
    def duplicate_count(self) -> int:
        """The number of events that were there already."""
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


class AppendResult(NamedTuple):
    """Where one append's events are, in their stream and in the log; for a duplicate, where they were first.

    Attributes:
        last_position: the highest one; also where events that were known are in another order.
        last_version: of that event: what the next append may expect.
        duplicate: whether the events were there already, and nothing was written.
        id_bytes: the events' ids in order, 16 bytes each.
    """

    stream: str
    first_position: int
    last_position: int
    first_version: int
    last_version: int
    duplicate: bool
    id_bytes: tuple[bytes, ...]

    @property
    def ids(self) -> tuple[UUID, ...]:
        """The events' ids, in order."""
        from uuid import UUID

        return tuple(UUID(bytes=id) for id in self.id_bytes)

    def __repr__(self) -> str:
        fields = [f"{name}={value!r}" for name, value in zip(self._fields, self[:6], strict=False)]
        more = "…" if len(self.id_bytes) > _SHOWN_IDS else ""
        ids = ", ".join(map(id_text, self.id_bytes[:_SHOWN_IDS]))
        return f"AppendResult({', '.join(fields)}, ids=({ids}{more}))"


def result_of(batch: BatchResult, start: int, end: int) -> AppendResult:
    """Return the result for the events from `start` to `end`, all of one stream."""
    known = batch.duplicates[start:end]
    first, last = start, end - 1
    if True in known:  # what was known can be anywhere before what is new
        order = sorted(range(start, end), key=batch.positions.__getitem__)
        first, last = order[0], order[-1]
    values = (
        batch.streams[start],
        batch.positions[first],
        batch.positions[last],
        batch.versions[first],
        batch.versions[last],
        False not in known,
        tuple(batch.ids[start:end]),
    )
    return tuple.__new__(AppendResult, values)  # all fields are there: 0.2 instead of 0.5 µs


class Results(Sequence[AppendResult]):
    """The results of an append to several streams. It compares like a list.

    Each result is made when it is asked for, because a bulk load of a million events asks for none.

    Args:
        ends: for each append of the call, the index after its last event.
    """

    __slots__ = ("_batch", "_ends")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, batch: BatchResult, ends: Sequence[int]) -> None:
        self._batch = batch
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, at: int) -> AppendResult: ...
        @overload
        def __getitem__(self, at: slice) -> list[AppendResult]: ...

    def __getitem__(self, at: int | slice) -> AppendResult | list[AppendResult]:
        if isinstance(at, slice):
            return [self[number] for number in range(len(self))[at]]
        number = range(len(self))[at]
        return result_of(self._batch, self._ends[number - 1] if number else 0, self._ends[number])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))


def results_by_stream(batch: BatchResult) -> Results:
    """Return a result for each run of events of one stream."""
    streams = batch.streams
    ends = [at for at in range(1, len(streams) + 1) if at == len(streams) or streams[at] != streams[at - 1]]
    return Results(batch, ends)
