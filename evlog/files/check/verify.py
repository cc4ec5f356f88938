"""Verifying a store: everything on disk against everything else, up to a fixed horizon. Read this first.

1. `files.take_snapshot` takes in what the directory shows at one moment: manifest, marks, sizes, checkpoints.
2. Each segment is checked by itself, in pieces on several cores (`segments`): its log (`logs`), the
   records in it (`records`), its indexes (`indexes`).
3. What holds across segments is checked by ranges of hashes (`across`), removed events too (`removals`).
4. A part that a running writer may have left unfinished at step 1 is checked again before it becomes a
   finding.

Nothing is assumed that a reader assumes. Nothing is written. The report is right also while others write.
`findings` tells damage from notes; `repair` and `salvage` build on this.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from evlog.engine import Progress
from evlog.errors import CorruptionError, EvlogError, StoreBusy
from evlog.files.check import findings as kinds
from evlog.files.check.across import (
    HASHES_AT_ONCE,
    SEGMENTS_AT_ONCE,
    check_filter,
    check_ids,
    check_stream,
    odd_streams_in,
    repeated_hashes,
)
from evlog.files.check.digest import HeadDigest
from evlog.files.check.files import (
    NOTHING_KNOWN,
    StoreSnapshot,
    check_checkpoints,
    check_names,
    check_snapshots,
    file_bytes,
    find_checkpoints,
    is_being_indexed,
    take_snapshot,
)
from evlog.files.check.history import check_redactions, explain_compaction
from evlog.files.check.known import ID_HASHES, REMOVED_PER_KEY, Known, Segments, ranges, stream_ranges
from evlog.files.check.quick import verify_quickly
from evlog.files.check.removals import check_removals
from evlog.files.check.segments import (
    Pieces,
    SegmentCheck,
    check_segment,
    maybe_check_segment,
    missing_segment,
)
from evlog.files.check.task import SegmentTask
from evlog.files.disk.file_lock import SharedLock
from evlog.files.disk.processes import Call, Workers, core_count, without_collector
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.marks import LOWEST_ID
from evlog.model.pins import Pin
from evlog.model.redaction import since
from evlog.model.reports import Finding, VerifyReport

# Below this, starting helpers takes longer than they save.
_BYTES_FOR_HELPERS: Final = 8 << 20
_ATTEMPTS: Final = 10
_FREE_ATTEMPTS: Final = 4  # then no compaction begins while the store is checked
_PAUSE_SECONDS: Final = 2.0  # how long to wait for one that runs
_STREAMS_LISTED: Final = 100


def verify_store(
    store: str, *, quick: bool = False, pin: Pin | None = None, progress: Progress | None = None
) -> VerifyReport:
    """Check a store. Nothing is written, and writers may continue.

    Args:
        quick: only lengths, headers and the end of the log, in a second on any size.
        pin: a head digest of earlier, to be compared.
        progress: called now and then.

    Raises:
        StoreNotFound, NotAStore, UnsupportedFormat, StoreAccessDenied: there is nothing to be checked.
        StoreBusy: compactions replace files faster than they can be checked.
    """
    report: VerifyReport | None = None
    replaced: set[str] = set()
    for attempt in range(_ATTEMPTS):
        try:
            with ExitStack() as held:
                if attempt >= _FREE_ATTEMPTS:
                    held.enter_context(SharedLock(paths.compaction_path(store), _PAUSE_SECONDS))
                seen, report = _verify(store, quick=quick, pin=pin, progress=progress)
        except FileNotFoundError:  # a compaction removed a file: begin again with the present files
            continue
        replaced = set() if seen is None or not report.findings else _replaced_since(seen)
        if not replaced:
            return report
    if report is None:
        raise StoreBusy(store)
    # What was found in files that compactions have replaced meanwhile does not count.
    kept = [finding for finding in report.findings if not finding.file.startswith(tuple(replaced))]
    return report._replace(findings=tuple(kept))


def _replaced_since(seen: StoreSnapshot) -> set[str]:
    """Return how the names of files begin that a compaction has replaced since the snapshot."""
    now = take_snapshot(seen.store).manifest
    return {f"{task.name}." for task in seen.tasks() if not now.names(task.info.log_file)}


def _verify(
    store: str, *, quick: bool, pin: Pin | None, progress: Progress | None
) -> tuple[StoreSnapshot | None, VerifyReport]:
    checkpoints = find_checkpoints(store)
    try:
        seen = take_snapshot(store)
    except CorruptionError as damage:
        finding = kinds.damage(kinds.MANIFEST, paths.MANIFEST, damage.offset, None, damage.detail)
        return None, VerifyReport(0, 0, 0, 0, None, (finding,))
    if quick:
        return seen, verify_quickly(seen, checkpoints_of=lambda head: check_checkpoints(checkpoints, head))
    tasks = seen.tasks(pin.position if pin else 0)
    digest = HeadDigest(len(tasks))
    checks, known, across = _check_all(tasks, digest, progress)
    findings = list(seen.findings)
    highest_id = _highest_id(tasks[:-1], checks[:-1])
    if highest_id > seen.manifest.highest_id:
        detail = "its highest id is not the highest: an id above it could be appended twice"
        findings.append(kinds.damage(kinds.MANIFEST, paths.MANIFEST, None, None, detail))
    highest_id = max(highest_id, checks[-1].log.highest_id)
    for task, check in zip(tasks, checks, strict=True):
        findings += _settled_findings(seen, task, check, highest_id)
    findings += _check_sequence(tasks, checks)
    findings += across
    head = max(checks[-1].log.last_position, seen.manifest.segments[-1].first_position - 1)
    findings += check_checkpoints(checkpoints, head, Segments(known).is_at)
    findings += check_names(seen) + check_snapshots(store)
    redactions, found = check_redactions(seen, digest.redacted, damaged=bool(findings))
    findings += found
    if pin is not None:
        findings += _check_pin(seen, digest.pinned, pin, head)
    return seen, VerifyReport(
        events=sum(check.log.whole_events for check in checks),
        segments=len(tasks),
        bytes=file_bytes(seen),
        position=head,
        digest=None if digest.whole is None else f"{head}:{digest.whole}",
        findings=tuple(findings),
        redactions=None if pin is None else since(redactions, pin.position),
    )


# --- segments


def _check_all(
    tasks: list[SegmentTask], digest: HeadDigest, progress: Progress | None
) -> tuple[list[SegmentCheck], list[Known], list[Finding]]:
    """Check each segment, then what holds across them. A task changes if its log was compressed meanwhile."""
    total = sum(task.size for task in tasks)
    pieces = Pieces(tasks, digest)
    processes = process_count([task.size + task.info.removed_bytes for task in tasks])
    with Workers(processes, check_segment.__module__) as workers:
        for done, (at, result) in enumerate(workers.run_all(pieces.calls, ahead=2), 1):
            without_collector(pieces.take, at, result)
            if progress is not None:
                progress(total * done // (len(pieces.calls) + 1), total)
        checks = {at: check for at in range(len(tasks)) if (check := pieces.maybe_check(at)) is not None}
        again = [at for at in range(len(tasks)) if at not in checks]
        for at, check in workers.run(maybe_check_segment, [(tasks[at],) for at in again]):
            own = again[at]
            if check is None:
                tasks[own], check = _check_again(tasks[own])
            digest.add(own, check.log.digest)
            checks[own] = check.without_digests()
        if progress is not None:
            progress(total, total)
        ordered = [checks[at] for at in range(len(tasks))]
        known = list(map(_known, tasks, ordered))
        return ordered, known, _check_across(workers, known, ordered)


def process_count(log_bytes: Sequence[int]) -> int:
    """Return how many processes to use for logs of these sizes."""
    return core_count() if sum(log_bytes) >= _BYTES_FOR_HELPERS else 1


def _check_again(task: SegmentTask) -> tuple[SegmentTask, SegmentCheck]:
    """Check a segment whose log was not there: it is missing, or was compressed meanwhile."""
    manifest = take_snapshot(task.store).manifest
    if manifest.names(task.info.log_file):
        return task, missing_segment(task)
    for info in manifest.segments:
        if info._replace(compressed_bytes=0) == task.info:
            compressed = task._replace(info=info)
            return compressed, check_segment(compressed)
    raise FileNotFoundError(task.path)


def _known(task: SegmentTask, check: SegmentCheck) -> Known:
    log, indexes = check.log, check.indexes
    gaps = task.info.lost_events > 0 or log.damaged
    sound = (log.entries_known, log.offsets_sound, indexes.sound)
    return Known(task, log.entry_count, *sound, gaps, indexes.keys)


def _check_across(workers: Workers, known: Sequence[Known], checks: Sequence[SegmentCheck]) -> list[Finding]:
    removals = []
    reached = 0
    for segment, check in zip(known, checks, strict=True):
        task, info = segment.task, segment.task.info
        if info.generation or info.removed_events or info.removed_bytes or info.lost_events:
            missing = None if check.log.damaged else check.log.missing
            removals.append((check_removals, (task, missing, check.log.last_position, reached)))
        reached = info.last_position
    events = sum(segment.entry_count for segment in known)
    removed = sum(segment.task.info.removed_events for segment in known)
    pieces = 2 * workers.count
    rows = events + removed // REMOVED_PER_KEY
    streams = [(odd_streams_in, (known, *bounds)) for bounds in stream_ranges(known, rows, pieces)]
    ids = [(repeated_hashes, (known, *bounds)) for bounds in ranges(events + removed, ID_HASHES, pieces)]
    filters = [
        (check_filter, (known[at : at + SEGMENTS_AT_ONCE],)) for at in range(0, len(known), SEGMENTS_AT_ONCE)
    ]
    own: list[Call] = [*removals, *filters]
    results = dict(workers.run_all([*own, *streams, *ids]))
    ordered = [results[at] for at in range(len(results))]
    findings = [finding for found in ordered[: len(removals)] for finding in found]
    hidden = [finding for found in ordered[len(removals) : len(own)] for finding in found]
    odd = {stream_hash for check in checks for stream_hash in check.indexes.odd_streams}
    odd.update(*ordered[len(own) : len(own) + len(streams)])
    # Where removed events are not what logs lack, streams lack versions, too: once is enough.
    lenient = [segment._replace(gaps=True) for segment in known] if findings else known
    findings += _check_streams(Segments(lenient), sorted(odd))
    twice = [upper for found in ordered[len(own) + len(streams) :] for upper in found]
    calls = [(known, twice[at : at + HASHES_AT_ONCE]) for at in range(0, len(twice), HASHES_AT_ONCE)]
    same = [finding for _, found in workers.run(check_ids, calls) for finding in found]
    return findings + hidden + sorted(same, key=lambda finding: finding.position or 0)


def _check_streams(segments: Segments, odd: Sequence[int]) -> list[Finding]:
    findings: list[Finding] = []
    for number, stream_hash in enumerate(odd):
        if len(findings) >= _STREAMS_LISTED:
            detail = f"and up to {len(odd) - number} more streams have wrong versions"
            return [*findings, kinds.damage(kinds.VERSION, paths.SEGMENTS, None, None, detail)]
        findings += check_stream(segments, stream_hash)
    return findings


def _check_sequence(tasks: Sequence[SegmentTask], checks: Sequence[SegmentCheck]) -> list[Finding]:
    """Check that segments follow each other without gaps, except for salvaged ones, and that times rise."""
    findings = []
    last = SegmentInfo(0, 0, 0)
    for task, check in zip(tasks, checks, strict=True):
        info = task.info
        if info.first_position - last.last_position - 1 > info.lost_events:
            detail = f"positions {last.last_position + 1} to {info.first_position - 1} are in no segment"
            findings.append(kinds.damage(kinds.ORDER, paths.MANIFEST, None, last.last_position + 1, detail))
        events, first_time = info.events, info.first_time_us
        if not info.sealed:  # the manifest does not know them yet
            events, first_time = check.log.whole_events, check.log.first_time_us
        if events and first_time < last.last_time_us:
            detail = "times fall from the segment before to this one"
            findings.append(kinds.damage(kinds.ORDER, task.log_name, None, info.first_position, detail))
        last = info
    return findings


def _settled_findings(
    seen: StoreSnapshot, task: SegmentTask, check: SegmentCheck, highest_id: bytes
) -> list[Finding]:
    """Return a segment's findings, without those that a running writer explains."""
    findings = list(check.findings)
    unindexed = task.info.sealed and any(finding.kind == kinds.MISSING for finding in findings)
    if unindexed and is_being_indexed(seen, task.info):
        again = maybe_check_segment(task)
        findings = list(again.findings) if again is not None else findings
    if not task.info.sealed:
        info = task.info
        if info._replace(lost_events=0) != SegmentInfo(info.first_position, info.generation, info.tag):
            detail = "it has facts of the active segment, which only a sealed one has"
            findings.append(kinds.damage(kinds.MANIFEST, paths.MANIFEST, None, info.first_position, detail))
        if not seen.idle:  # entries come after their frame
            findings = [finding for finding in findings if finding.kind != kinds.LENGTH]
        findings += _check_end(seen, task, check, highest_id)
    return findings


def _highest_id(tasks: Sequence[SegmentTask], checks: Sequence[SegmentCheck]) -> bytes:
    """Return the highest id of the events in segments, also of the removed ones; LOWEST_ID without any."""
    highest = max((check.log.highest_id for check in checks), default=LOWEST_ID)
    for task in tasks:
        try:
            removed = task.open_removed()
            highest = highest if removed is None else max((highest, *removed.ids()))
        except (FileNotFoundError, EvlogError):
            pass  # it was replaced meanwhile, or is reported as damaged
    return highest


def _check_end(
    seen: StoreSnapshot, task: SegmentTask, check: SegmentCheck, highest_id: bytes
) -> list[Finding]:
    """Check the end of the active log for leftovers of a crash."""
    log, name = check.log, task.log_name
    findings: list[Finding] = []
    if not seen.idle:
        return findings
    if log.tail_bytes:
        detail = kinds.torn_tail(log.tail_bytes)
        findings.append(kinds.note(kinds.TAIL, name, log.end, log.last_position + 1, detail))
    wanted = FILE_HEADER_BYTES + log.entry_count * ENTRY_BYTES
    if seen.offsets_bytes > wanted and not log.damaged:
        detail = f"it has {seen.offsets_bytes} bytes, not {wanted}; {kinds.DERIVED}"
        findings.append(kinds.note(kinds.LENGTH, f"{task.name}.offsets", wanted, None, detail))
    if seen.marks is not NOTHING_KNOWN and seen.marks.durable_offset < log.durable > FILE_HEADER_BYTES:
        detail = f"its mark says less than the log's own headers: it was synced up to offset {log.durable}"
        findings.append(kinds.note(kinds.MARK, paths.DURABLE, None, None, detail))
    written = seen.marks.written
    if written is not None and written.offset == log.end and not log.damaged:
        last = (log.entry_count, log.entries_crc)
        is_less = written.time_us < log.last_time_us or written.highest_id < highest_id
        if is_less or (written.events, written.index_crc) != last:
            detail = "its mark of how far the log is written is not what the log says"
            findings.append(kinds.note(kinds.MARK, paths.DURABLE, 0, None, detail))
    return findings


# --- digests


def _check_pin(seen: StoreSnapshot, found: str | None, pin: Pin, head: int) -> list[Finding]:
    """Compare a pinned digest with what the log gives now."""
    infos = seen.manifest.segments
    place = max(bisect_right(infos, pin.position, key=lambda info: info.first_position) - 1, 0)
    if pin.position > head:
        detail = f"the log ends at position {head}, before what was pinned"
        return [kinds.damage(kinds.DIGEST, paths.MANIFEST, None, pin.position, detail)]
    if found == pin.digest:
        return []
    name = f"segments/{infos[place].first_position:020d}"
    if any(info.removed_events for info in infos[: place + 1]):
        return [kinds.damage(kinds.COMPACTED, name, None, pin.position, explain_compaction(seen.store, pin))]
    found = found or "unknown"
    detail = f"history up to position {pin.position} is not what was pinned: its digest is {found} now"
    return [kinds.damage(kinds.DIGEST, name, None, pin.position, detail)]
