"""Backup: a consistent copy of a store, made while others write, and brought up to date by the next run.

1. No lock of the source is taken. What is copied never changes: sealed segments, and the active log up to
   frames that are on the device. A compaction that removes a segment meanwhile sends the run back to the
   manifest that is there now.
2. Sealed segments get a second name (a hard link) where the file system allows it: no command changes them,
   in the source or in the copy. All else is copied.
3. The copy's manifest is replaced last, before the marks that speak of it. Until then the copy is what the
   former run left, so the next run repeats a run that was killed anywhere. Segments that only the next
   manifest names may be there: then the copy can be read, and takes no appends.
4. Its writers' lock is held until then, so no append to the copy is lost: the next run raises StoreDiverged.
5. Checkpoints are read before the log, and put in place after the manifest: no subscription of the copy is
   ahead of its log, whenever the run is killed. One that runs in the copy meanwhile keeps its own checkpoint.
6. A copy has no snapshots of its source. Those that were folded in it are deleted if they are from before a
   redaction that the copy gets.
7. At the end the copy is checked: all of it the first time, later what was new.
"""

from __future__ import annotations

import os
from typing import Final
from zlib import crc32

from evlog.engine import Progress
from evlog.errors import (
    CorruptionError,
    EvlogError,
    NotAStore,
    StoreBusy,
    StoreDiverged,
    StoreNotFound,
    SubscriptionBusy,
)
from evlog.files.check.segments import maybe_check_segment, missing_segment
from evlog.files.check.task import SegmentTask
from evlog.files.check.verify import verify_store
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import DISK, Disk, ReadFile, list_directory
from evlog.files.follow.checkpoint_file import SubscriptionFiles
from evlog.files.follow.snapshot_file import SnapshotFile, list_snapshots, remove_leftovers
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.hashes import hash_ids, hash_stream
from evlog.files.format.headers import FILE_HEADER_BYTES, FormatFault, decode_file_header
from evlog.files.format.manifest import Manifest, SegmentInfo
from evlog.files.format.marks import DURABLE_MAGIC, MARK_BYTES, WRITTEN_MAGIC, Mark, encode_mark
from evlog.files.log.active import ActiveSegment
from evlog.files.log.crafted import refuses_crafted_content
from evlog.files.log.log import Log
from evlog.files.log.manifest_file import manifest_crc, read_manifest, replace_manifest
from evlog.files.log.parts import SegmentMoved, missing
from evlog.files.write.create import check_outside, make_directories
from evlog.files.write.roll import sync_names
from evlog.model.reports import Backup
from evlog.model.retention import REDACTIONS_STREAM

_ATTEMPTS: Final = 20
_PATIENCE_SECONDS: Final = 5.0  # with a writer of the copy
_END_BYTES: Final = 4096  # at each end of a sealed file: files with these ends and this length are the same
_NEEDED: Final = (paths.LOG, paths.COMPRESSED_LOG, paths.REMOVED)
_SUBSCRIPTION_FILES: Final = ("json", "parked")  # in this order, so that no parked event is missed
_STAGED: Final = ".backup" + paths.TEMPORARY  # not the temporary name that a run of the subscription uses


@refuses_crafted_content
def backup_store(
    store: str, out: str, *, links: bool = True, progress: Progress | None = None, disk: Disk = DISK
) -> Backup:
    """Copy a store, or bring an earlier copy of it up to date; durable when this returns.

    Raises:
        NotAStore: there is something else at `out`.
        StoreDiverged: the copy has events that the store does not have.
        LockTimeout: another backup into `out` is running, or a process appends to it.
        StoreBusy: segments are replaced faster than they can be copied.
        StoreFull, StoreIOError, CorruptionError: the next run continues.
    """
    with Log(store) as log:
        return _back_up(log, out, links, progress, disk)


def _back_up(log: Log, out: str, links: bool, progress: Progress | None, disk: Disk) -> Backup:
    _check_place(log, out)
    make_directories(out, disk, like=log.store)
    compacting = FileLock(paths.compaction_path(out), 0.0, disk, readable=False)
    writing = FileLock(paths.lock_path(out), _PATIENCE_SECONDS, disk, readable=False)
    try:
        with compacting:
            run = _Run(log, out, links, progress, disk)
            with writing:
                is_new = _check_place(log, out)  # again: a writer may have appended to the copy
                manifest = run.copy()
            return run.check(manifest, everything=is_new)
    finally:
        compacting.close()
        writing.close()


class _Run:
    """One run of a backup."""

    def __init__(self, log: Log, out: str, links: bool, progress: Progress | None, disk: Disk) -> None:
        self._log = log
        self._out = out
        self._links = links
        self._progress = progress
        self._disk = disk
        self._copied = self._linked = 0  # bytes
        self._fresh: set[int] = set()  # the tags of segments whose log was not there as it is now

    def copy(self) -> Manifest:
        """Copy what is missing, make it the copy's content, and remove what is not part of it."""
        staged = self._stage_subscriptions()
        manifest, end = self._copy_log()
        sync_names(self._out, self._disk)  # a power loss must not leave a manifest without its files
        replace_manifest(self._out, manifest, self._disk)
        self._replace(paths.durable_path(self._out), _marks(end))
        self._put_subscriptions(staged)
        self._remove_others(manifest)
        self._delete_snapshots()
        return manifest

    # --- the log

    def _copy_log(self) -> tuple[Manifest, Mark]:
        """Copy the segments; return their manifest, and the mark of their end."""
        for _ in range(_ATTEMPTS):
            self._log.look()
            try:
                return self._copy_segments()
            except (SegmentMoved, FileNotFoundError):
                continue  # compacted meanwhile; what was copied and still counts is not copied again
        raise StoreBusy(self._log.store)

    def _copy_segments(self) -> tuple[Manifest, Mark]:
        log = self._log
        manifest = log.manifest
        *sealed, _ = manifest.segments
        active = log.active.segment
        end = self._durable_end(active)
        sizes = [info.compressed_bytes or info.log_bytes for info in sealed]
        total, done = sum(sizes) + end, 0
        for info, size in zip(sealed, sizes, strict=True):
            self._copy_sealed(info)
            done += size
            if self._progress is not None:
                self._progress(done, total)
        mark = self._copy_active(active, end, manifest)
        self._copy_if_there(paths.filter_path(log.store), paths.filter_path(self._out), link=False)
        if self._progress is not None:
            self._progress(total, total)
        return manifest, mark

    def _durable_end(self, active: ActiveSegment) -> int:
        """Return the offset up to which the active log is on the device, so that no failure can remove it."""
        with self._log.mutex:
            end = active.end
        marks = self._log.marks()
        known = max(FILE_HEADER_BYTES, marks.durable_offset, active.durable)
        if known >= end:
            return end
        if marks.suspect is None and active.is_on_device(self._disk, end, known):
            return end
        self._log.raise_damage()
        return min(known, end)

    def _copy_sealed(self, info: SegmentInfo) -> None:
        for suffix in paths.SUFFIXES:
            if suffix in _NEEDED:
                is_there = suffix == info.log_suffix or (suffix == paths.REMOVED and info.removed_bytes)
                if not is_there:
                    continue
                try:
                    is_new = self._copy(info.path(self._log.store, suffix), info.path(self._out, suffix))
                except FileNotFoundError as error:
                    raise missing(self._log.store, info, error) from None
                if is_new:
                    self._fresh.add(info.tag)
            else:
                self._copy_if_there(info.path(self._log.store, suffix), info.path(self._out, suffix))

    def _copy_active(self, active: ActiveSegment, end: int, manifest: Manifest) -> Mark:
        """Copy the active log and its entries up to the end of a frame; return the mark of that end."""
        info, disk = active.info, self._disk
        count = active.count_before(end)
        rows = bytes(active.entries[: count * ENTRY_BYTES])
        entries = ReadFile(active.offsets_path).read(FILE_HEADER_BYTES, 0) + rows
        path = info.path(self._out, paths.LOG)
        disk.copy_file(ReadFile(active.log_path), path + paths.TEMPORARY, end)
        disk.replace(path + paths.TEMPORARY, path)
        self._replace(info.path(self._out, paths.OFFSETS), entries)
        time_us = active.record(count - 1)[5] if count else 0
        self._copied += end + len(entries)
        self._fresh.add(info.tag)
        return Mark(active.tag, end, count, crc32(rows), time_us, manifest_crc(manifest))

    # --- files

    def _copy_if_there(self, source: str, target: str, *, link: bool = True) -> None:
        """Copy a derived file; without it, it is built again."""
        try:
            self._copy(source, target, link=link)
        except FileNotFoundError:
            return

    def _copy(self, source: str, target: str, *, link: bool = True) -> bool:
        """Copy or link a file that never changes; return False if it is there already."""
        file = ReadFile(source)
        size = file.size()
        if link and _is_same(file, target):
            return False
        temporary = target + paths.TEMPORARY
        self._disk.remove(temporary)
        if link and self._links and self._disk.link(file, temporary):
            self._linked += size
        else:
            self._disk.copy_file(file, temporary, size)
            self._copied += size
        self._disk.replace(temporary, target)
        return True

    def _replace(self, path: str, content: bytes) -> None:
        self._disk.create_file(path + paths.TEMPORARY, content)
        self._disk.replace(path + paths.TEMPORARY, path)

    # --- subscriptions

    def _stage_subscriptions(self) -> list[str]:
        """Copy checkpoints and parked events under temporary names; return the names that they will have."""
        source, target = paths.subscriptions_path(self._log.store), paths.subscriptions_path(self._out)
        names = list_directory(source, may_be_missing=True)
        if not names:
            return []
        self._disk.make_dir(target)
        staged = []
        for suffix in _SUBSCRIPTION_FILES:
            for name in names:
                if name.endswith(f".{suffix}") and paths.maybe_parse_subscription_name(name):
                    try:
                        file = ReadFile(f"{source}/{name}")
                    except FileNotFoundError:
                        continue  # deleted meanwhile
                    self._disk.copy_file(file, f"{target}/{name}{_STAGED}", file.size())
                    self._copied += file.size()
                    staged.append(name)
        return staged

    def _put_subscriptions(self, staged: list[str]) -> None:
        """Put what was staged in place of what was there. A subscription that runs in the copy stays."""
        directory = paths.subscriptions_path(self._out)
        if not os.path.isdir(directory):
            return
        files = [name.removesuffix(_STAGED).removesuffix(paths.TEMPORARY) for name in os.listdir(directory)]
        known = [paths.maybe_parse_subscription_name(name) for name in files if not name.endswith(".lock")]
        for name in sorted({found[0] for found in known if found is not None}):
            place = SubscriptionFiles(self._out, self._log.manifest.store_id, name, self._disk)
            try:
                place.acquire()  # a run that saved its checkpoint meanwhile would fail, or damage it
            except SubscriptionBusy:
                for suffix in _SUBSCRIPTION_FILES:
                    self._disk.remove(paths.subscription_path(self._out, name, suffix) + _STAGED)
                continue
            try:
                self._put_subscription(name, staged)
            finally:
                place.release()
        self._disk.sync_dir(directory)

    def _put_subscription(self, name: str, staged: list[str]) -> None:
        files = [paths.subscription_path(self._out, name, suffix) for suffix in _SUBSCRIPTION_FILES]
        is_staged = [os.path.basename(path) in staged for path in files]
        for path, staged_now in reversed([*zip(files, is_staged, strict=True)]):
            if staged_now:  # parked events before the checkpoint that has passed them
                self._disk.replace(path + _STAGED, path)
        for path, staged_now in zip(files, is_staged, strict=True):
            for left in (path + _STAGED, path + paths.TEMPORARY, *(() if staged_now else (path,))):
                self._disk.remove(left)

    # --- the end

    def _remove_others(self, manifest: Manifest) -> None:
        """Remove what a compaction of the source has replaced, and what a killed run left."""
        directory = paths.segments_path(self._out)
        names = [(name, paths.maybe_parse_segment_name(name)) for name in list_directory(directory)]
        others = [
            name
            for name, meaning in names
            if (name.endswith(paths.TEMPORARY) if meaning is None else not manifest.names(meaning))
        ]
        self._disk.remove_all(directory, others)

    def _delete_snapshots(self) -> None:
        """Delete the copy's snapshots that may hold what a redaction has erased; each run does so again."""
        if os.path.isdir(paths.snapshots_path(self._out)):
            from evlog.state.snapshots import is_outdated  # few copies have any

            with Log(self._out) as copy:
                redactions = copy.find_version(REDACTIONS_STREAM, hash_stream(REDACTIONS_STREAM))
                for name, stream in list_snapshots(copy):
                    kept = SnapshotFile(self._out, copy.manifest.store_id, name, stream, self._disk)
                    if is_outdated(kept, redactions):
                        kept.delete()
        remove_leftovers(self._out, self._disk)

    def check(self, manifest: Manifest, *, everything: bool) -> Backup:
        """Check the copy, all of it or what was new."""
        report = verify_store(self._out, quick=not everything, progress=self._progress)
        findings = list(report.findings)
        if not everything:
            for info in manifest.segments:
                if info.tag in self._fresh:
                    size = info.log_bytes or os.stat(info.path(self._out, info.log_suffix)).st_size
                    task = SegmentTask(self._out, manifest.store_id_bytes, info, size)
                    findings += (maybe_check_segment(task) or missing_segment(task)).findings
        return Backup(
            report.position, report.events, report.bytes, self._copied, self._linked, tuple(findings)
        )


def _marks(end: Mark) -> bytes:
    written = encode_mark(WRITTEN_MAGIC, end)
    return written + bytes(MARK_BYTES) + encode_mark(DURABLE_MAGIC, Mark(end.tag, end.offset))


def _is_same(file: ReadFile, path: str) -> bool:
    """Return whether the path has this file, or a copy of it, by its length and its ends.

    Each sealed file begins with a header that names its segment by a random tag.
    """
    try:
        other = ReadFile(path)
    except (FileNotFoundError, EvlogError):
        return False
    if os.path.samestat(os.fstat(file.fd), os.fstat(other.fd)):
        return True
    size = file.size()
    ends = (0, max(0, size - _END_BYTES))
    return size == other.size() and all(
        file.read(_END_BYTES, at) == other.read(_END_BYTES, at) for at in ends
    )


# --- the place


def _check_place(log: Log, out: str) -> bool:
    """Return True if `out` can become a backup of the store, False if it is one already; else raise."""
    source, target = os.path.realpath(log.store), os.path.realpath(out)
    if target == source or target.startswith(f"{source}/"):
        raise NotAStore(out, "it is the store itself, or in it")
    try:
        names = os.listdir(out)
    except FileNotFoundError:
        check_outside(out)
        return True
    except NotADirectoryError:
        raise NotAStore(out, "it is a file") from None
    try:
        found = read_manifest(out)
    except StoreNotFound:
        _check_leftovers(log, out, names)
        return True
    if found.store_id != log.manifest.store_id:
        raise NotAStore(out, "it is another store, not a copy of this one")
    _check_history(log, out)
    return False


def _check_leftovers(log: Log, out: str, names: list[str]) -> None:
    """Raise NotAStore unless there is only what a killed first run leaves: files of this store."""
    own = paths.INIT_LEFTOVERS | {paths.COMPACTION, paths.SUBSCRIPTIONS, paths.DURABLE + paths.TEMPORARY}
    foreign = sorted(set(names) - own)
    if foreign:
        raise NotAStore(out, f"the directory holds {foreign[0]!r} and no manifest.json")
    directory = paths.segments_path(out)
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        meaning = paths.maybe_parse_segment_name(name)
        if meaning is None or meaning.suffix != paths.LOG:
            continue
        try:
            header = decode_file_header(ReadFile(f"{directory}/{name}").read(FILE_HEADER_BYTES, 0))
        except FormatFault:
            header = None
        if header is None or header.store_id != log.manifest.store_id_bytes:
            raise NotAStore(out, f"it holds {name!r} of another store, and no manifest.json")


def _check_history(log: Log, out: str) -> None:
    """Raise StoreDiverged if the copy was appended to: its last event must be the source's, by its id."""
    try:
        with Log(out) as copy:
            parts = [part for part in copy.parts() if part.count]
            if not parts:
                return
            last = parts[-1].segment.record(parts[-1].count - 1)
    except (CorruptionError, FileNotFoundError):
        return  # damaged files of the copy are copied again
    position, id = last[0], last[4]
    found = log.retry_on_compaction(lambda: log.find_ids([id], hash_ids([id]))).get(0)
    if found is None or (found[0] if isinstance(found, tuple) else found.position) != position:
        raise StoreDiverged(out, log.store, position)
