"""Finding which entries of all segments go, given what goes of which stream: on all cores.

Reads nothing but entries, a thousand at a time, and column by column: a step of Python for each event would
cost more than all else of planning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from operator import lt, or_
from typing import Final, NamedTuple

from evlog.files.disk.processes import Workers
from evlog.files.format.entries import ENTRY_BYTES, column
from evlog.files.log.index import Entries
from evlog.files.log.log import Log, Part, SealedPart, open_sealed
from evlog.files.log.manifest import SegmentInfo
from evlog.files.log.segment import Segment

_ENTRIES_AT_ONCE: Final = 1024  # columns of few stay in the processor's cache


class Limits(NamedTuple):
    """What goes of which stream, by the hash of its name."""

    first_versions: dict[int, int]  # the versions below it go
    since_us: dict[int, set[int]]  # by a time: the streams of which everything before it goes


def entries_to(part: Part, position: int) -> Entries:
    """A segment's entries up to the position; of those that may grow a copy."""
    count = part.count
    entries = part.segment.checked_entries() if isinstance(part, SealedPart) else part.segment.entries
    if part.last_position > position:
        count = min(count, part.segment.number_of(position + 1))
    return entries[: count * ENTRY_BYTES]


def find_all_hidden(
    log: Log, parts: Sequence[Part], limits: Limits, position: int, workers: Workers
) -> list[bytes]:
    """Of each segment: one byte for each of its entries, 1 if the event goes; empty if all stay.

    Args:
        position: what stands behind it stays.
        workers: who looks through sealed segments beside this process.
    """
    whole: list[SealedPart] = []  # which a helper can open, and need not know the position for
    others: list[Part] = []
    for part in parts:
        if isinstance(part, SealedPart) and part.last_position <= position and workers.count > 1:
            part.segment.checked_entries()  # what is missing or damaged is met here, where it can be told
            whole.append(part)
        else:
            others.append(part)
    found: dict[int, bytes] = {}

    def find_others() -> None:
        for part in others:
            found[part.first_position] = _find_hidden(part.segment, entries_to(part, position), limits)

    # A call for each process, not for each segment: the limits are sent with every one.
    sources = [(log.store, log.manifest.store_id_bytes, part.info) for part in whole]
    stripes = [sources[at :: workers.count] for at in range(min(workers.count, len(sources)))]
    calls = [(stripe, limits) for stripe in stripes]
    for at, flags in workers.run(find_hidden_of, calls, first=find_others):
        infos = (info for _, _, info in stripes[at])
        found.update((info.first_position, hidden) for info, hidden in zip(infos, flags, strict=True))
    return [_padded(found[part.first_position], part.count) for part in parts]


def find_hidden_of(sources: Sequence[tuple[str, bytes, SegmentInfo]], limits: Limits) -> list[bytes]:
    """What `_find_hidden` finds in whole sealed segments that this process opens itself."""
    segments = (open_sealed(*source) for source in sources)
    return [_find_hidden(segment, segment.checked_entries(), limits) for segment in segments]


def _find_hidden(segment: Segment, entries: Entries, limits: Limits) -> bytes:
    """One byte for each of a segment's first entries."""
    first_versions, since_us = limits
    if not first_versions and not since_us:
        return b""
    count = len(entries) // ENTRY_BYTES
    # By time: how many entries are older, for times never fall; and of which streams these go.
    old = [(segment.number_at_time(time_us, count), members) for time_us, members in since_us.items()]
    found = []
    for low in range(0, count, _ENTRIES_AT_ONCE):
        rows = entries[low * ENTRY_BYTES : (low + _ENTRIES_AT_ONCE) * ENTRY_BYTES]
        older = [(before - low, members) for before, members in old if before > low]
        found.append(_find_some(rows, first_versions, older))
    return b"".join(found)


def _find_some(rows: Entries, first_versions: dict[int, int], old: Iterable[tuple[int, set[int]]]) -> bytes:
    """The same of some neighbouring entries."""
    hashes = column(rows, "stream_hash")
    flags = bytes(map(lt, column(rows, "version"), map(first_versions.get, hashes, repeat(0))))
    for before, members in old:
        aged = map(members.__contains__, hashes[:before])
        flags = bytes(map(or_, flags, chain(aged, repeat(0))))
    return flags


def _padded(hidden: bytes, count: int) -> bytes:
    return hidden + bytes(count - len(hidden)) if 1 in hidden else b""
