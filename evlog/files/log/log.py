"""The whole log: the segments that the manifest names, in order, and look-ups across them. Read this first.

1. `refresh` takes in what other processes did. When they did nothing, that is one short read: of the written
   mark, which every writer changes before it changes anything else. It takes no lock between processes.
2. Manifest and segments are one value, replaced whole. Sealed segments are made and opened when first asked
   for: in a store of a thousand, most never are.
3. A reader keeps what it has open readable, whatever happens to the names of the files meanwhile. Where a
   file is missing because a compaction replaced it, `retry_on_compaction` looks again.
4. The filter says which segments may hold a name or an id; its hash finds candidates in the segment's index;
   the name or id in the record decides.
5. A read sees every append that was acknowledged before the read began. If the store is removed or replaced
   by another one, a reader notices within 10 ms, and a writer before it acknowledges anything.
6. An event that was delivered to a follower must stay at its position. If it is not there, an older copy has
   taken the store's place, where other events can get its position: from then on every look raises
   StoreReplaced.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from itertools import chain

from evlog.errors import CorruptionError, StoreBusy, StoreReplaced
from evlog.files.disk.files import ReadFile
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES, ENTRY_EVENT
from evlog.files.format.hashes import hash_stream
from evlog.files.format.headers import KIND_IDS, KIND_STREAMS
from evlog.files.format.marks import (
    LOWEST_ID,
    MARK_BYTES,
    MARKS_BYTES,
    UNBOUNDED,
    WRITTEN_MAGIC,
    Mark,
    Marks,
    decode_marks,
    maybe_decode_mark,
)
from evlog.files.log.active import ActiveSegment
from evlog.files.log.manifest_file import has_stamp, open_manifest, read_stamp
from evlog.files.log.parts import (
    ActivePart,
    LogState,
    OpenParts,
    Part,
    SealedPart,
    SealedParts,
    SegmentMoved,
    missing,
)
from evlog.files.log.policies import PolicyTable
from evlog.files.log.segment import RECORDS_AT_ONCE
from evlog.files.log.segment_filter import SegmentFilter
from evlog.files.log.stream_entries import StreamEntries
from evlog.process.forks import register_fork_reset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from typing import Final, Self, TypeVar

    from evlog.files.format.manifest import Manifest
    from evlog.files.log.manifest_file import Stamp
    from evlog.files.log.removed import RemovedEvent
    from evlog.model.events import Record

    _T = TypeVar("_T")

_MANY: Final = 16  # streams whose versions are looked up together
_IN_PLACE_SECONDS: Final = 0.01  # for which a store that was seen in its place is taken to be there
_ATTEMPTS: Final = 100  # after this many replacements during one call, the caller is told to try again


class Log:
    """The segments of one store, as they were at the last `refresh`.

    Raises:
        StoreNotFound, NotAStore, UnsupportedFormat, CorruptionError: there is no store that can be read.
    """

    def __init__(self, store: str) -> None:
        self.store = store
        self.mutex = threading.RLock()
        """Guards: replacing `_state`, the growth of the active segment, and the policies."""
        # Guarded by mutex: the damage of acknowledged events at the end of the log.
        self.damage: CorruptionError | None = None
        self._manifest_path = paths.manifest_path(store)
        self._stale = True  # guarded by mutex: read everything again
        # Replaced whole, with the mutex: the last position of which a follower was told, and its event.
        self._kept: tuple[int, tuple[int, ...] | None] = (0, None)
        self._marks_file: ReadFile | None = None  # opened on demand, by any thread
        # The written mark that names exactly what is in memory, and its file; None where there is none.
        # Replaced whole, with the mutex; read without it.
        self._known: tuple[ReadFile, bytes] | None = None
        self._look_due = 0.0  # until then the store is assumed to be in its place; not guarded
        self._opened = OpenParts()
        self._policies = PolicyTable()
        self._entries: StreamEntries | None = None  # replaced whole; read without the mutex
        register_fork_reset(self)
        self._state = self._load_first()  # replaced whole, with the mutex; read without it
        self._stale = False
        self.filter = SegmentFilter(store, self.manifest.store_id_bytes)
        self.refresh()

    def reset_after_fork(self) -> None:
        self.mutex = threading.RLock()
        self._stale = True  # what that thread was loading is loaded again
        self._known = None

    @property
    def manifest(self) -> Manifest:
        return self._state.opened.manifest

    @property
    def sealed(self) -> SealedParts:
        """The segments that never change, oldest first."""
        return self._state.sealed

    @property
    def active(self) -> ActivePart:
        """The segment that is being written."""
        return self._state.active

    @property
    def head(self) -> int:
        """The last position; 0 in an empty store."""
        return self._state.active.last_position

    def view(self) -> tuple[SealedParts, ActivePart]:
        """Return the sealed segments and the active one, of one moment."""
        state = self._state
        return state.sealed, state.active

    def parts(self) -> list[Part]:
        """Return all segments, oldest first."""
        sealed, active = self.view()
        return [*sealed, active]

    def refresh(self, *, suspicious: bool = False) -> None:
        """Take in what any process wrote since the last call.

        The common case is one read: the written mark is the one that names what is in memory, or says which
        entries come after it.

        Args:
            suspicious: compare what is known even where nothing seems to have happened.

        Raises:
            StoreNotFound, StoreReplaced: the store is not there any more, or another store is.
            StoreBusy: the manifest is being replaced faster than it can be read.
        """
        known = self._known
        if known is not None and not suspicious:
            file, mark = known
            written = file.read(MARK_BYTES, 0)
            is_known = written == mark or self.maybe_follow(written) is not None
            if is_known and (time.monotonic() < self._look_due or self._is_in_place(file)):
                return
        self.look(suspicious=suspicious)

    def _is_in_place(self, marks_file: ReadFile) -> bool:
        """Return whether manifest and marks are still the store's; then that needs no look for some time."""
        if not (self.is_current() and marks_file.is_in_place()):
            return False
        self._look_due = time.monotonic() + _IN_PLACE_SECONDS
        return True

    def look(self, *, suspicious: bool = False) -> None:
        """Look at the manifest and at the end of the log, whatever the marks say. As `refresh` otherwise.

        For what must not rest on marks: `durable` may have been removed or replaced a moment ago.
        """
        with self.mutex:
            self._look_due = 0.0
            file = self._marks_file
            if file is not None and not file.is_in_place():
                self._marks_file = None
            marks = self.read_marks()  # before the rest: whatever is written later has another mark
            active = self._state.active.segment
            is_usual = not suspicious and not self._stale and self.damage is None and active.count
            if is_usual and self.is_current() and active.is_unchanged():
                self._note_known(marks)
                return
            for _ in range(_ATTEMPTS):
                before = state = self._state
                changed = read_stamp(self.store) != before.opened.stamp
                try:
                    if changed or self._stale:
                        state = self._load(before)
                except SegmentMoved:
                    continue
                active = state.active.segment
                loading = not active.count
                # How far it is synced matters only to a segment that is read for the first time.
                durable = decode_marks(self.read_marks(), active.tag).durable_offset if loading else 0
                if active.refresh(durable, suspicious=changed or suspicious):
                    if state is not before:  # only now: other threads must not find the active segment empty
                        self._check_kept(state)
                        self._publish(before, state)
                    if loading or active.torn_bytes or self.damage is not None:
                        self.damage = self._find_damage()
                    self._note_known(marks)
                    return
                self.reset()
            raise StoreBusy(self.store)

    def keep(self, position: int) -> None:
        """Note that a follower is told of all events up to the position, which are committed."""
        if position > self._kept[0]:
            with self.mutex:
                if position > self._kept[0]:
                    self._kept = position, _maybe_event(self._state, position)

    def _check_kept(self, state: LogState) -> None:
        """Raise StoreReplaced if these segments do not have the last event of which a follower was told."""
        position, event = self._kept
        is_there = position <= state.active.last_position
        if not is_there or (event is not None and _maybe_event(state, position) not in (None, event)):
            raise StoreReplaced(self.store)

    def _note_known(self, marks: bytes) -> None:
        """Note the written mark after a look, if it names what is in memory.

        One that a writer has just left may name a frame that is not there yet; the one before holds then.
        """
        known, self._known = self._known, None
        file = self._marks_file
        if file is None or self.damage is not None or self.active.segment.torn_bytes:
            return
        for written in (marks[:MARK_BYTES], known[1] if known is not None else b""):
            mark = maybe_decode_mark(WRITTEN_MAGIC, written)
            if mark is not None and self._names_all(mark):
                self._known = file, written
                self._look_due = time.monotonic() + _IN_PLACE_SECONDS
                return

    def _names_all(self, mark: Mark) -> bool:
        """Return whether the mark names this manifest and all that is known of the active log."""
        state = self._state
        active = state.active.segment
        known = active.tag, active.end, active.index_crc, state.opened.crc
        return (mark.tag, mark.offset, mark.index_crc, mark.manifest_crc) == known

    def is_current(self) -> bool:
        """Return whether the store still has the manifest that was read last."""
        return has_stamp(self._manifest_path, self._state.opened.stamp)

    @property
    def faulty(self) -> list[SealedPart]:
        """Segments with a missing or damaged index; a writer that rebuilds it removes them from the list."""
        return self._opened.faulty

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the sealed segments' files: else they stay open until a garbage collection."""
        self._entries = None  # without the mutex, which a thread in the middle of an append may have
        self._opened.close()

    def reset(self) -> None:
        """Have the next refresh read everything again."""
        self._stale = True
        self._known = None
        self._marks_file = None

    def raise_damage(self) -> None:
        """Raise the CorruptionError for acknowledged events at the end of the log, if there is one."""
        if self.damage is not None:
            raise self.damage.unraised()

    def _find_damage(self) -> CorruptionError | None:
        """Return what is wrong if the log is known to be synced beyond its last whole frame."""
        durable = self.durable_offset()
        active = self.active.segment
        if durable > active.end:
            active.refresh(durable)  # the mark may be newer than what was read of the log
        return active.damage(durable) if durable > active.end else self.find_later_segment()

    def find_later_segment(self) -> CorruptionError | None:
        """Return what is wrong if a writer has left a mark of another segment than the manifest's last one.

        After a power loss it may be the mark of an earlier one.
        """
        mark = maybe_decode_mark(WRITTEN_MAGIC, self.read_marks()[:MARK_BYTES])
        if mark is None or mark.tag == self.active.segment.tag:
            return None
        from evlog.files.log.later import maybe_later_log, outdated  # few stores need it

        later = maybe_later_log(self.store, self.manifest)
        return outdated(self.store, later) if later is not None and self.is_current() else None

    # --- marks

    def marks(self) -> Marks:
        """Return how far the active log is written, acknowledged and synced, by the file `durable`."""
        return decode_marks(self.read_marks(), self.active.segment.tag)

    def stamp_and_marks(self) -> tuple[Stamp, bytes]:
        """Return what changes whenever something is written, acknowledged, rolled or compacted.

        Raises:
            StoreNotFound: the store is not there any more.
        """
        return read_stamp(self.store), self.read_marks()

    def follow(self, stamp: Stamp, marks: bytes) -> bool:
        """Take in what marks name, read with the stamp; False where only a look at the files can tell."""
        return stamp == self._state.opened.stamp and self.maybe_follow(marks[:MARK_BYTES]) is not None

    def maybe_follow(self, written: bytes) -> Mark | None:
        """Take in what the written mark names; None where only a look at the files can tell what is there.

        The mark's running CRC proves that all which is known is there.
        """
        with self.mutex:
            known, state = self._known, self._state
            mark = maybe_decode_mark(WRITTEN_MAGIC, written)
            if known is None or mark is None or mark.manifest_crc != state.opened.crc:
                return None
            active = state.active.segment
            if mark.tag != active.tag or not active.follow(mark):
                return None
            self._known = known[0], written
            return mark

    def note_written(self, written: bytes) -> None:
        """Note the mark that this process has left for what is in memory; needs the lock and the mutex."""
        if self._marks_file is None:
            self.read_marks()
        if self._marks_file is not None:
            self._known = self._marks_file, written

    def written_mark(self, highest_id: bytes) -> Mark:
        """Return the mark that names what is in memory: all that is written, if the caller has the lock."""
        active = self.active.segment
        return self.mark_of(active.end, active.count, active.index_crc, self.last_time_us(), highest_id)

    def mark_of(self, end: int, count: int, index_crc: int, time_us: int, highest_id: bytes) -> Mark:
        """Return the written mark for an end of the active log."""
        state = self._state
        return Mark(state.active.segment.tag, end, count, index_crc, time_us, state.opened.crc, highest_id)

    def highest_id(self) -> bytes:
        """Return an id that no event has an id above, also no removed one; UNBOUNDED where that is not known.

        The mark says so only of the log that it names exactly.
        """
        with self.mutex:  # a look sets it to None for a moment
            known, state = self._known, self._state
        mark = maybe_decode_mark(WRITTEN_MAGIC, known[1]) if known is not None else None
        if mark is not None:
            return mark.highest_id
        if state.active.count:
            return UNBOUNDED
        return state.opened.manifest.highest_id if state.sealed else LOWEST_ID

    def last_time_us(self) -> int:
        """Return the time of the last event; no other may have an earlier one."""
        active = self.active.segment
        if active.count:
            return active.record(active.count - 1)[5]
        return self.sealed[-1].info.last_time_us if self.sealed else 0

    def read_marks(self) -> bytes:
        """Return the content of `durable`, of the file that is open."""
        file = self._marks_file
        if file is None:
            try:
                file = self._marks_file = ReadFile(paths.durable_path(self.store))
            except FileNotFoundError:
                return b""
        return file.read(MARKS_BYTES, 0)

    def durable_offset(self) -> int:
        """Return how far the active log is known to be synced, in bytes; 0 if that is not known."""
        return self.marks().durable_offset

    def acknowledged_position(self, marks: bytes) -> int:
        """Return the last position that is acknowledged, with all before it, by marks that were read."""
        return self._position_before(decode_marks(marks, self.active.segment.tag).acknowledged_offset)

    def durable_position(self) -> int:
        """Return the last position up to which no power loss can take anything back."""
        return self._position_before(self.marks().durable_offset)

    def _position_before(self, offset: int) -> int:
        active = self.active
        if offset == active.segment.end:
            return active.last_position  # the common case
        return active.first_position - 1 + active.segment.count_before(max(offset, active.segment.durable))

    # --- look-ups

    def retry_on_compaction(self, look: Callable[[], _T]) -> _T:
        """Return the result of a look at the segments; begin again if a compaction replaced them meanwhile.

        Raises:
            StoreBusy: they are replaced faster than they can be read.
        """
        for _ in range(_ATTEMPTS):
            try:
                return look()
            except SegmentMoved:
                self.look()
        raise StoreBusy(self.store)

    def stream_parts(self, stream_hash: int) -> Iterator[Part]:
        """Iterate over the segments that the stream may be in, newest first."""
        sealed, active = self.view()
        yield active
        for place in self.filter.places(sealed, KIND_STREAMS, stream_hash):
            yield sealed[place]

    def stream_entries(self, stream: str) -> StreamEntries:
        """Return where the entries of a stream are now. Of the stream that was read last, this is known."""
        entries, state = self._entries, self._state
        if entries is None or not entries.are_of(stream, state):
            stream_hash = hash_stream(stream)
            with self.mutex:  # policies and segments are of one moment
                policies = self.policies()
                state = self._state
                entries = self._entries = StreamEntries(
                    stream,
                    stream_hash,
                    state,
                    self.filter.places(state.sealed, KIND_STREAMS, stream_hash)[::-1],
                    policies.redacted,
                    has_rule=policies.any and policies.rule_for(stream) is not None,
                )
        return entries

    def find_version(self, stream: str, stream_hash: int) -> int:
        """Return the stream's last version, also if a compaction removed all events; 0 if there were none."""
        for part in self.stream_parts(stream_hash):
            record = _last_of(part, stream, stream_hash)
            if record is not None:
                return record[1]
            if isinstance(part, SealedPart) and (removed := part.removed) is not None:
                version = removed.version_of(stream, stream_hash)
                if version:
                    return version
        return 0

    def maybe_find_stream(self, stream_hash: int) -> str | None:
        """Return the name of a stream that has events, by its hash."""
        for part in self.stream_parts(stream_hash):
            for number in part.index.find_newest_first(KIND_STREAMS, stream_hash):
                stream: str = part.segment.record(number)[2]
                return stream
        return None

    def find_versions(
        self, names: Sequence[str], hashes: Sequence[int], *, in_active: bool = True
    ) -> list[int]:
        """Return what `find_version` does of each stream, at a fraction of its cost for many.

        Args:
            names: of the streams, each once.
            hashes: of these names.
            in_active: False: the active segment is known to have none of them.
        """
        if in_active and len(names) < _MANY:
            return list(map(self.find_version, names, hashes))
        sealed, active = self.view()
        found = [0] * len(names)
        if in_active:
            _find_versions_in(active, range(len(names)), names, hashes, found)
        for place, suspects in self.filter.candidates(sealed, KIND_STREAMS, hashes, found):
            unknown, part = [at for at in suspects if not found[at]], sealed[place]
            _find_versions_in(part, unknown, names, hashes, found)
            if (removed := part.removed) is not None:
                for at in unknown:
                    found[at] = found[at] or removed.version_of(names[at], hashes[at])
        return found

    def find_ids(
        self, ids: Sequence[bytes], hashes: Sequence[int], distinct: set[int] | None = None
    ) -> dict[int, Record | RemovedEvent]:
        """Find the events that have one of the ids, also those that a compaction removed.

        Each candidate is read once for all ids together, so that ids with one hash cost no more than others.

        Args:
            distinct: the hashes as a set, if the caller has it: another set is compared with it sooner.

        Returns:
            The events by the id's index.
        """
        sealed, active = self.view()
        found: dict[bytes, Record | RemovedEvent] = {}
        _find_in(active, hashes if distinct is None else distinct, ids, found)
        for place, suspects in self.filter.candidates(sealed, KIND_IDS, hashes):
            if found and len(found) == len(set(ids)):
                break
            part = sealed[place]
            unknown = [at for at in suspects if ids[at] not in found]
            _find_in(part, [hashes[at] for at in unknown], ids, found)
            if (removed := part.removed) is not None:
                for at in unknown:
                    if ids[at] not in found and (event := removed.find(ids[at])) is not None:
                        found[ids[at]] = event
        return {at: found[id] for at, id in enumerate(ids) if id in found} if found else {}

    def policies(self) -> PolicyTable:
        """Return the policies as of the last `refresh`."""
        table = self._policies
        for _ in range(_ATTEMPTS):
            state = self._state
            if table.is_current(state.sealed, state.active):
                return table
            with self.mutex:
                try:
                    table.update(*self.view(), self.filter)
                    return table
                except SegmentMoved:
                    self.look()
        raise StoreBusy(self.store)

    # --- loading

    def _load_first(self) -> LogState:
        for _ in range(_ATTEMPTS):
            try:
                return self._load(None)
            except SegmentMoved:
                continue  # the manifest was replaced between the opening of two files
        raise StoreBusy(self.store)

    def _load(self, before: LogState | None) -> LogState:
        """Return the segments of the present manifest; the active one has to be refreshed."""
        opened = open_manifest(self.store)
        manifest = opened.manifest
        if before is not None and manifest.store_id != before.opened.manifest.store_id:
            raise StoreReplaced(self.store)
        known = before if not self._stale else None
        made = known.sealed.made if known is not None else None
        sealed = SealedParts(self.store, manifest, self._opened, made)
        active_info = manifest.segments[-1]
        active = known.active if known is not None else None
        if active is None or active.info != active_info or _is_replaced(active.segment):
            try:
                active = ActivePart(ActiveSegment(self.store, manifest.store_id_bytes, active_info))
            except FileNotFoundError as error:
                raise missing(self.store, active_info, error) from None
        return LogState(opened, sealed, active)

    def _publish(self, before: LogState, state: LogState) -> None:
        """Publish the segments to other threads, and close those that are no longer in the store."""
        self._state = state
        self._entries = None  # it keeps files mapped that may have been removed
        self._stale = False
        if not state.sealed.begins_with(before.sealed):
            kept = set(state.sealed.rows) if state.sealed.made is before.sealed.made else ()
            for row, part in list(before.sealed.made.items()):
                if row not in kept:
                    del before.sealed.made[row]
                    self._opened.forget(part)


def _is_replaced(segment: ActiveSegment) -> bool:
    """Return whether the path of the active log names another file than the one that is open."""
    try:
        status = os.stat(segment.log_path)
    except OSError:
        return True
    return not segment.is_file(status.st_dev, status.st_ino)


def _maybe_event(state: LogState, position: int) -> tuple[int, ...] | None:
    """Return what tells the event at a position from another, also after a compaction; None: not known."""
    part: Part = state.active
    if position < part.first_position:
        sealed = state.sealed
        part = sealed[bisect_left(sealed, position, key=lambda part: part.last_position)]
    try:
        number = part.segment.number_of(position)
        if part.info.generation and (number == part.count or part.segment.record(number)[0] != position):
            return None  # a compaction removed it
        event: tuple[int, ...] = ENTRY_EVENT.unpack_from(part.entries(), number * ENTRY_BYTES)
    except (CorruptionError, SegmentMoved):
        return None  # the next read of the segment says what is wrong
    return event


def _find_in(
    part: Part, hashes: Collection[int], ids: Sequence[bytes], found: dict[bytes, Record | RemovedEvent]
) -> None:
    """Add the events of a segment that have one of the ids with these hashes."""
    candidates = part.index.candidates(hashes)
    if not candidates:  # the common case: only a retry reaches the code below
        return
    wanted = set(ids)
    numbers = part.crowds().numbers(part.segment, candidates, wanted)
    for record in chain.from_iterable(part.segment.records(numbers)):
        if record[4] in wanted:
            found[record[4]] = record


def _find_versions_in(
    part: Part, wanted: Sequence[int], names: Sequence[str], hashes: Sequence[int], found: list[int]
) -> None:
    """Note the last version of each of the wanted streams, by index, that has an event in the segment."""
    last = part.index.last_numbers(KIND_STREAMS, [hashes[at] for at in wanted])
    numbers = sorted(set(last).difference((-1,)))
    records = chain.from_iterable(part.segment.records(numbers, RECORDS_AT_ONCE))
    version_of = {number: record[1:3] for number, record in zip(numbers, records, strict=True)}
    for at, number in zip(wanted, last, strict=True):
        if number < 0:
            continue
        version, name = version_of[number]
        if name == names[at]:
            found[at] = version
        elif (record := _last_of(part, names[at], hashes[at])) is not None:  # another stream has its hash
            found[at] = record[1]


def _last_of(part: Part, stream: str, stream_hash: int) -> Record | None:
    for number in part.index.find_newest_first(KIND_STREAMS, stream_hash):
        record = part.segment.record(number)
        if record[2] == stream:
            return record
    return None
