"""The source's history in pieces, each of which the destination appends as one.

1. A piece ends where an append ended, so that what was appended together stays together.
2. A position without an event should be that of a removed event. If it is neither, a compaction may have
   removed the event between the two reads, so the removed events are read again. A position that is still
   neither is lost at the source.
3. A thread reads the next pieces while one is appended.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final

from evlog.model.history import HistoryPiece, RemovedRecord
from evlog.process.threads import without_signals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from evlog.engine import Engine
    from evlog.model.events import Event

PIECE_EVENTS: Final = 16384
_PIECE_BYTES: Final = 3 << 20
# A piece with gaps becomes a segment of its own in a directory.
_GAP_PIECE_EVENTS: Final = 1 << 16
_GAP_PIECE_BYTES: Final = 32 << 20
_AHEAD: Final = 2


def read_pieces(
    source: Engine, after: int, to: int, piece_events: int = PIECE_EVENTS
) -> Iterator[HistoryPiece]:
    """Iterate over the history after position `after`, up to and including `to`, in pieces.

    Args:
        piece_events: a piece has at most this many events, unless a single append has more.
    """
    events: list[Event] = []
    frames: list[int] = []
    removed: list[RemovedRecord] = []
    size = 0

    def piece(end: int) -> HistoryPiece:
        nonlocal after, events, frames, removed, size
        made = _whole_piece(source, HistoryPiece(source.store_id, after, end, events, frames, removed))
        after, events, frames, removed, size = end, [], [], [], 0
        return made

    for frame, item in _in_order(source, after, to):
        last = events[-1][0] if events else after
        last = max(last, removed[-1].position) if removed else last
        gaps = bool(removed) or last - after > len(events)
        most, most_bytes = (_GAP_PIECE_EVENTS, _GAP_PIECE_BYTES) if gaps else (piece_events, _PIECE_BYTES)
        full = len(events) + len(removed) >= most or size >= most_bytes
        if full and (not frames or frame != frames[-1]):
            yield piece(last)
        if isinstance(item, RemovedRecord):
            removed.append(item)
            continue
        events.append(item)
        frames.append(frame)
        size += len(item.data) + 100
    if after < to:
        yield piece(to)


def _in_order(source: Engine, after: int, to: int) -> Iterator[tuple[int, Event | RemovedRecord]]:
    """Iterate over events and removed events by position, each with the number of its append."""
    removals = source.read_removed(after, to)
    removed = next(removals, None)
    for frame, event in source.read_frames(after, to):
        while removed is not None and removed.position <= event[0]:
            if removed.position < event[0]:  # else a compaction removed it between the two reads
                yield removed.position, removed
            removed = next(removals, None)
        yield frame, event
    while removed is not None:
        yield removed.position, removed
        removed = next(removals, None)


def _whole_piece(source: Engine, piece: HistoryPiece) -> HistoryPiece:
    """Return the piece with its removed events, read again if positions are missing."""
    if not piece.lost:
        return piece
    there = {event[0] for event in piece.events}
    removed = [each for each in source.read_removed(piece.after, piece.end) if each.position not in there]
    return HistoryPiece(piece.source_id, piece.after, piece.end, piece.events, piece.frames, removed)


class ReadAhead:
    """Iterates over pieces that a thread reads meanwhile; a context manager that ends the thread."""

    def __init__(self, pieces: Iterator[HistoryPiece]) -> None:
        self._pieces = pieces
        self._ready: queue.Queue[HistoryPiece | BaseException | None] = queue.Queue(_AHEAD)
        self._closed = False  # set once, by the thread that iterates
        self._thread = threading.Thread(target=self._read, name="evlog-read-ahead", daemon=True)
        without_signals(self._thread.start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        while not self._ready.empty():
            self._ready.get_nowait()  # the thread may wait for room
        self._thread.join()

    def __iter__(self) -> Iterator[HistoryPiece]:
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _read(self) -> None:
        last: BaseException | None = None
        try:
            for piece in self._pieces:
                self._ready.put(piece)
                if self._closed:
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the pieces are taken
            last = error
        self._ready.put(last)
