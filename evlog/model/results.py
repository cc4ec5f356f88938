"""Where the events of an append stand: made out of what the writer says, when it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload
from uuid import UUID

from evlog.model.appends import BatchResult


class AppendResult(NamedTuple):
    """Where the events of one append to one stream stand; those of the first time, if it is a duplicate."""

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
        return tuple(UUID(bytes=id) for id in self.id_bytes)


class Results(Sequence[AppendResult]):
    """The results of an append, made when looked at: a bulk load looks at none of its million."""

    __slots__ = ("_batch", "_ends")

    def __init__(self, batch: BatchResult, ends: list[int]) -> None:
        self._batch = batch
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

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

    __hash__ = None  # type: ignore[assignment]  # compares like a list

    def __repr__(self) -> str:
        return repr(list(self))


def result_of(batch: BatchResult, start: int, end: int) -> AppendResult:
    """What became of the events from `start` to `end`, all of one stream."""
    streams, versions, positions, ids, duplicates = batch
    return AppendResult(
        streams[start],
        positions[start],
        positions[end - 1],
        versions[start],
        versions[end - 1],
        duplicates[start],
        tuple(ids[start:end]),
    )
