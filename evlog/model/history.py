"""Pieces of a store's history, which mirrors copy; and a store's standing: a mirror, or moved. Pure.

A piece of history keeps everything that an ordinary append decides: positions, versions, times, which events
were appended together, and the ids of events that were removed.
"""

from __future__ import annotations

from evlog.errors import MirrorConflict, StoreIsMirror, StoreMoved
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import UnionType
    from typing import Final

    from evlog.errors import EvlogError
    from evlog.model.events import Event

    Kind = type | UnionType

# The `mirror_of` of a store that events are imported to. No engine gives a store an id of version 8.
IMPORT_ID: Final = "2d9c7f3e-5b1a-8e64-9a0d-b7c4e16f8035"


class Standing(NamedTuple):
    """Whether a store is a mirror, or has moved. If a field is set, only a mirror can change the store."""

    mirror_of: str = ""
    """the id of the store that it is an identical copy of; for an unfinished fork: `fork_id` of that; while
    events are imported with their times: IMPORT_ID"""
    moved_to: str = ""
    """the address, without a password, of the store that has taken its place"""

    @property
    def is_unfinished_fork(self) -> bool:
        """Whether a fork to this store has not finished."""
        return self.mirror_of[14:15] == "5"  # the version of a UUID; no engine gives a store such an id

    @property
    def is_import(self) -> bool:
        """Whether events are imported with their times, or such an import was killed."""
        return self.mirror_of == IMPORT_ID


def fork_id(source_id: str) -> str:
    """Return the `mirror_of` of an unfinished fork. No store has this id, so no mirror continues the fork."""
    from uuid import UUID, uuid5

    return str(uuid5(UUID(source_id), "fork"))


class RemovedRecord(NamedTuple):
    """An event that a compaction removed: its id stays known, and its position and version stay used."""

    position: int
    version: int
    stream: str
    id: bytes
    digest: bytes
    """of its content, as its engine computes it; digests of different engines are not comparable"""
    time_us: int
    """when it was written, if it is the last event of its stream; else 0, not known"""
    tags: bytes = b""
    """what its engine keeps of its tags, for conditions; only an engine of the same kind can use it"""


REMOVED_KINDS: Final = int, int, str, bytes, bytes, int, bytes
"""The types of a RemovedRecord's values."""


def is_made_of(values: object, kinds: Sequence[Kind]) -> bool:
    """Return whether decoded values are as many as these types, and of them."""
    if not isinstance(values, tuple | list) or len(values) != len(kinds):
        return False
    return all(map(isinstance, values, kinds))


class HistoryPiece:
    """The history of a store after position `after`, up to and including `end`, in position order.

    Args:
        source_id: the id of the store that it is from; for a fork: `fork_id` of it.
        events: those that exist.
        frames: for each event, the position of the first event of its append.
        removed: the events that were removed. A position that is in neither list is lost at the source, too.
    """

    __slots__ = ("after", "end", "events", "frames", "removed", "source_id")

    def __init__(
        self,
        source_id: str,
        after: int,
        end: int,
        events: Sequence[Event],
        frames: Sequence[int],
        removed: Sequence[RemovedRecord] = (),
    ) -> None:
        self.source_id = source_id
        self.after = after
        self.end = end
        self.events = events
        self.frames = frames
        self.removed = removed

    @property
    def is_whole(self) -> bool:
        """Whether no position is missing."""
        return len(self.events) == self.end - self.after

    @property
    def lost(self) -> int:
        """The number of positions that are neither there nor known as removed."""
        return self.end - self.after - len(self.events) - len(self.removed)


def check_mirror(address: str, standing: tuple[str, str], source_id: str) -> None:
    """Raise MirrorConflict unless the store at the address is a mirror of the source."""
    if standing != (source_id, ""):
        reason, advice = "it was not made by this mirror", "use an empty destination"
        raise MirrorConflict(f"store {source_id}", address, reason, advice)


def check_continues(address: str, head: int, piece_after: int, source_id: str) -> None:
    """Raise MirrorConflict unless the mirror at the address ends where the next piece begins."""
    if head != piece_after:
        reason = f"it ends at position {head}, and not at {piece_after}"
        raise MirrorConflict(f"store {source_id}", address, reason, "start the mirror again")


def check_standing(address: str, standing: Standing) -> None:
    """Raise StoreIsMirror or StoreMoved if the store at the address refuses changes."""
    if any(standing):
        raise refusal(address, standing)


def refusal(address: str, standing: Standing) -> EvlogError:
    """Return the error for a change of a store that refuses changes."""
    if standing.moved_to:
        return StoreMoved(address, standing.moved_to)
    return StoreIsMirror(
        address,
        standing.mirror_of,
        is_unfinished_fork=standing.is_unfinished_fork,
        is_import=standing.is_import,
    )
