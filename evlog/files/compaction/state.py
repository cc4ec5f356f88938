"""What a store says of its compactions: one that was begun, what went, and who has yet to see what would go.

Looks only; nothing here decides or writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Final, NamedTuple
from zlib import crc32

from evlog.errors import SubscriptionBehind
from evlog.files.compaction.plan import Plan, Point
from evlog.files.disk.files import Disk
from evlog.files.follow.checkpoint_file import SubscriptionFiles, list_names
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.hashes import hash_stream
from evlog.files.format.headers import KIND_STREAMS
from evlog.files.log.log import Log, SealedPart
from evlog.model.events import Record

COMPACTIONS_STREAM: Final = "$compactions"
STARTED_TYPE: Final = "$CompactionStarted"
FINISHED_TYPE: Final = "$CompactionFinished"


class Started(NamedTuple):
    """A compaction that the log says was begun."""

    at: int  # the position of the event that says so
    point: Point
    events_gone: int  # how many events had gone before
    bytes: int  # of all files of segments, then


def find_unfinished(log: Log) -> Started | None:
    """The compaction that was begun and not finished, if there is one."""
    for record in _records_newest_first(log, COMPACTIONS_STREAM):
        data = json.loads(record[7])
        if record[3] == FINISHED_TYPE:
            return None
        if record[3] == STARTED_TYPE:
            point = Point(data["position"], data["time"])
            return Started(record[0], point, data["events_gone"], data["bytes"])
    return None


def find_checkpoints(log: Log, disk: Disk) -> list[tuple[str, int]]:
    """The named subscriptions, with the position that each has come to.

    Raises:
        CorruptionError: a checkpoint is damaged.
    """
    store, store_id = log.store, log.manifest.store_id
    files = [(name, SubscriptionFiles(store, store_id, name, disk)) for name in list_names(store)]
    found = [(name, file.load()) for name, file in files]
    return [(name, checkpoint.position) for name, checkpoint in found if checkpoint is not None]


def check_subscriptions(log: Log, plan: Plan, disk: Disk) -> None:
    """Raise SubscriptionBehind if events go that a named subscription has not come to."""
    last = plan.last_hidden
    for name, position in find_checkpoints(log, disk) if last else ():
        if position < last:
            raise SubscriptionBehind(name, position, last)


def entries_crc(log: Log, position: int) -> int:
    """The CRC of the entries up to the position in the segment that it stands in."""
    for part in reversed(log.parts()):
        if part.first_position <= position:
            entries = part.segment.checked_entries() if isinstance(part, SealedPart) else part.segment.entries
            return crc32(entries[: part.segment.number_of(position + 1) * ENTRY_BYTES])
    return 0


def events_gone(log: Log) -> int:
    """How many events all compactions have removed."""
    return sum(info.removed_events for info in log.manifest.segments)


def segment_bytes(store: str) -> int:
    """The bytes of all files of segments."""
    total = 0
    with os.scandir(paths.segments_path(store)) as entries:
        for entry in entries:
            try:
                total += entry.stat().st_size
            except FileNotFoundError:
                pass  # an index's temporary file, gone by now
    return total


def _records_newest_first(log: Log, stream: str) -> Iterator[Record]:
    stream_hash = hash_stream(stream)
    for part in log.stream_parts(stream_hash):
        for number in part.index.find_newest_first(KIND_STREAMS, stream_hash):
            record = part.segment.record(number)
            if record[2] == stream:
                yield record
