"""Deduplication: an event id is written once, for ever, in whatever stream.

Dedupe comes before the expected version, so that a retry after a lost acknowledgement succeeds instead of
conflicting. A retry is an id with the same stream, type and data; metadata may differ, as with KurrentDB.
"""

from __future__ import annotations

from collections.abc import Sequence

from evlog.errors import IdConflict, InvalidEvent
from evlog.files.format.hashes import hash_ids
from evlog.files.log.log import Log
from evlog.model.events import EncodedEvent, Record, id_text, make_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.files.log.removed import RemovedEvent

Known = dict[int, Record | int]
"""Of an append, by index: the event that an id already belongs to, or the index of its twin in the append."""


class Deduplicator:
    """Tells which events of an append are there already. Its methods need the writers' lock."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def find_known_locked(
        self, streams: Sequence[str], events: Sequence[EncodedEvent], *, skip_known: bool
    ) -> tuple[Known, Sequence[bytes], Sequence[int]]:
        """The events whose id is known with the same content; all ids, made where not given; their folds.

        Raises:
            IdConflict: an id is known with other content, or some ids are known and not `skip_known`.
            InvalidEvent: an id stands twice in the append, and not `skip_known`.
        """
        given = [event[1] for event in events]
        made = given.count(None)
        if made == len(given):
            ids = make_ids(made)
            return {}, ids, hash_ids(ids)
        unused = iter(make_ids(made) if made else ())
        ids = [id or next(unused) for id in given]
        folds = hash_ids(ids)
        known: Known = {}
        for at, found in self._log.find_ids(ids, folds).items():
            if given[at] is not None:
                known[at] = _check_same(found, ids[at], streams[at], events[at])
        if len(set(ids)) < len(ids):
            _find_twins(streams, events, ids, known, skip_known=skip_known)
        if known and not skip_known and len(known) < len(events):
            record = next(record for record in known.values() if not isinstance(record, int))
            reason = "is known, but not all ids of its append are"
            raise IdConflict(id_text(record[4]), record[2], record[0], reason)
        return known, ids, folds


def _find_twins(
    streams: Sequence[str],
    events: Sequence[EncodedEvent],
    ids: Sequence[bytes],
    known: Known,
    *,
    skip_known: bool,
) -> None:
    """Ids that stand twice in one append: a line import skips the second, any other append is refused."""
    first: dict[bytes, int] = {}
    for at, id in enumerate(ids):
        twin = first.setdefault(id, at)
        if twin == at or at in known:
            continue
        if not skip_known:
            raise InvalidEvent("id", f"{id_text(id)} stands twice in one append; give each event its own")
        if (streams[twin], *_content(events[twin])) != (streams[at], *_content(events[at])):
            reason = "stands twice in one append with different content"
            raise IdConflict(id_text(id), streams[at], 0, reason)
        known[at] = twin


def _content(event: EncodedEvent) -> tuple[str, int, bytes]:
    return event[0], event[2], event[3]


def _check_same(found: Record | RemovedEvent, id: bytes, stream: str, event: EncodedEvent) -> Record:
    """Return the event that has the id, once its content is known to be the same.

    Of a removed event only a CRC of the content is kept; where not even that is, the id decides.
    """
    type, _, code, data, metadata = event
    if not isinstance(found, tuple):
        from evlog.files.format.removed_events import content_crc

        if found.content_crc and found.content_crc != content_crc(stream, type, code, data):
            reason = "is known with different content, of an event that was compacted away"
            raise IdConflict(id_text(id), stream, found.position, reason)
        return (found.position, found.version, stream, type, id, 0, code, data, metadata)
    if (found[2], found[3], found[6], found[7]) != (stream, *_content(event)):
        raise IdConflict(id_text(id), found[2], found[0], "is known with different content")
    return found
