"""Verifying a store: everything that is on disk against everything else, up to a fixed horizon. Read-only.

First what the directory shows (files, marks, checkpoints), then each segment by itself, on all cores, then
what holds across segments, and last again what others may have been busy with when the look began. Nothing
is believed because a reader would believe it. It is safe, and says nothing false, while others write.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from evlog.errors import CorruptionError
from evlog.files.check import findings as kinds
from evlog.files.check.across import (
    FOLD_END,
    FOLDS_AT_ONCE,
    HASH_END,
    Known,
    Made,
    Segments,
    check_beginnings,
    check_folds,
    check_stream,
    folds_twice,
    look_at_streams,
    ranges,
)
from evlog.files.check.digest import Pin, chain_digests
from evlog.files.check.files import (
    NOTHING_KNOWN,
    Look,
    check_checkpoints,
    check_names,
    file_bytes,
    is_being_indexed,
    look,
    look_at_checkpoints,
)
from evlog.files.check.history import explain_compaction
from evlog.files.check.proving import Proving
from evlog.files.check.quick import torn, verify_quickly
from evlog.files.check.removals import check_removals, uneven_versions
from evlog.files.check.segments import (
    SegmentCheck,
    SegmentTask,
    check_segment,
    maybe_check_segment,
    missing_segment,
)
from evlog.files.disk.processes import Workers, core_count
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.log.manifest import SegmentInfo
from evlog.model.reports import Finding, VerifyReport

Progress = Callable[[int, int], None]
"""Is told how many bytes of how many are checked."""

# Below this, starting helpers takes longer than they save.
_BYTES_FOR_HELPERS: Final = 8 << 20
_ATTEMPTS: Final = 5  # a store compacted this often while it is being checked is checked as it is then
_STREAMS_LISTED: Final = 100


def verify_store(
    store: str, *, quick: bool = False, pin: Pin | None = None, progress: Progress | None = None
) -> VerifyReport:
    """Check a store; nothing is written, and writers may go on.

    Args:
        quick: only lengths, headers and the end of the log, in a second on any size.
        pin: a head digest of earlier, to be compared.
        progress: is told from time to time how far it is.

    Raises:
        StoreNotFound, NotAStore, UnsupportedFormat, StoreAccessDenied: there is nothing to be checked.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            seen, report = _verify(store, quick=quick, pin=pin, progress=progress)
        except FileNotFoundError:  # a compaction took a file away: begin again with what there is now
            if attempt == _ATTEMPTS:
                raise
            continue
        replaced = set() if seen is None or not report.findings else _replaced_since(seen)
        if not replaced:
            return report
    # Whatever was found in files that a compaction was taking away is no finding.
    kept = [finding for finding in report.findings if not finding.file.startswith(tuple(replaced))]
    return report._replace(findings=tuple(kept))


def _replaced_since(seen: Look) -> set[str]:
    """How the names of the files begin that a compaction has replaced since the look."""
    now = look(seen.store).manifest
    return {f"{task.name}." for task in seen.tasks() if not now.names(task.info.log_file)}


def _verify(
    store: str, *, quick: bool, pin: Pin | None, progress: Progress | None
) -> tuple[Look | None, VerifyReport]:
    checkpoints = look_at_checkpoints(store)
    try:
        seen = look(store)
    except CorruptionError as damage:
        finding = kinds.damage(kinds.MANIFEST, paths.MANIFEST, damage.offset, None, damage.detail)
        return None, VerifyReport(0, 0, 0, 0, None, (finding,))
    if quick:
        return seen, verify_quickly(seen, checkpoints_of=lambda head: check_checkpoints(checkpoints, head))
    tasks = seen.tasks(pin.position if pin else 0)
    checks, across = _check_all(tasks, progress)
    findings = list(seen.findings)
    for task, check in zip(tasks, checks, strict=True):
        findings += _settled_findings(seen, task, check)
    findings += _check_sequence(tasks)
    findings += across
    head = max(checks[-1].last_position, seen.manifest.segments[-1].first_position - 1)
    findings += check_checkpoints(checkpoints, head)
    findings += check_names(seen)
    digest = _head_digest(seen, checks)
    if pin is not None:
        findings += _check_pin(seen, checks, pin, head)
    return seen, VerifyReport(
        events=sum(check.events for check in checks),
        segments=len(tasks),
        bytes=file_bytes(seen),
        position=head,
        digest=digest,
        findings=tuple(findings),
    )


# --- segments


def _check_all(
    tasks: list[SegmentTask], progress: Progress | None
) -> tuple[list[SegmentCheck], list[Finding]]:
    """Each segment by itself, then what holds across them. A task changes if its log is compressed by now."""
    total = sum(task.size for task in tasks)
    proving = Proving(tasks)
    with Workers(process_count([task.size for task in tasks])) as workers:
        for done, (at, result) in enumerate(workers.run_all(proving.calls), 1):
            proving.take(at, result)
            if progress is not None:
                progress(total * done // (len(proving.calls) + 1), total)
        checks = {at: check for at in range(len(tasks)) if (check := proving.maybe_check(at)) is not None}
        made = [proving.made(at) if at in checks else None for at in range(len(tasks))]
        closely = [at for at in range(len(tasks)) if at not in checks]
        for at, check in workers.run(maybe_check_segment, [(tasks[at],) for at in closely]):
            own = closely[at]
            if check is None:
                tasks[own], check = _look_again(tasks[own])
            checks[own] = check
        if progress is not None:
            progress(total, total)
        ordered = [checks[at] for at in range(len(tasks))]
        return ordered, _check_across(workers, tasks, ordered, made)


def process_count(log_bytes: Sequence[int]) -> int:
    """How many processes a check of logs of these sizes is worth."""
    return core_count() if sum(log_bytes) >= _BYTES_FOR_HELPERS else 1


def _look_again(task: SegmentTask) -> tuple[SegmentTask, SegmentCheck]:
    """Check a segment whose log was not there. One that was compressed meanwhile is what it was."""
    manifest = look(task.store).manifest
    if manifest.names(task.info.log_file):
        return task, missing_segment(task)
    for info in manifest.segments:
        if info._replace(compressed_bytes=0) == task.info:
            compressed = task._replace(info=info)
            return compressed, check_segment(compressed)
    raise FileNotFoundError(task.path)


def _check_across(
    workers: Workers,
    tasks: Sequence[SegmentTask],
    checks: Sequence[SegmentCheck],
    made: Sequence[Made | None],
) -> list[Finding]:
    known = [
        Known(
            task,
            check.entry_count,
            check.entries_known,
            check.offsets_sound,
            check.sound_indexes,
            task.info.lost_events > 0 or not check.entries_known,
            own,
        )
        for task, check, own in zip(tasks, checks, made, strict=True)
    ]
    events = sum(check.entry_count for check in checks)
    odd = {stream_hash for check in checks for stream_hash in check.odd_streams}
    pieces = 2 * workers.count
    streams = [(look_at_streams, (known, *bounds)) for bounds in ranges(events, HASH_END, pieces)]
    ids = [(folds_twice, (known, *bounds)) for bounds in ranges(events, FOLD_END, pieces)]
    twice: list[int] = []
    lacking: Counter[int] = Counter()
    for at, found in workers.run_all([*streams, *ids]):
        if at < len(streams):
            odd.update(found.odd)
            lacking.update(found.lacking)
        else:
            twice += found
    findings: list[Finding] = []
    segments = Segments(known)
    between: Counter[int] = Counter()
    for number, stream_hash in enumerate(sorted(odd)):
        if len(findings) >= _STREAMS_LISTED:
            detail = f"and {len(odd) - number} more streams want a look"
            findings.append(kinds.damage(kinds.VERSION, paths.SEGMENTS, None, None, detail))
            break
        wrong, went = check_stream(segments, stream_hash)
        findings += wrong
        between.update(went)
    findings += _check_removals(workers, known, checks, lacking, between, whole=not findings)
    candidates = [(known, twice[at : at + FOLDS_AT_ONCE]) for at in range(0, len(twice), FOLDS_AT_ONCE)]
    same = [finding for _, found in workers.run(check_folds, candidates) for finding in found]
    return findings + sorted(same, key=lambda finding: finding.position or 0)


def _check_removals(
    workers: Workers,
    known: Sequence[Known],
    checks: Sequence[SegmentCheck],
    lacking: Counter[int],
    between: Counter[int],
    *,
    whole: bool,
) -> list[Finding]:
    """What compactions removed, against what segments and streams lack.

    Args:
        lacking: how many streams lack the versions 1 to n, by n.
        between: how often a version is missing between others.
        whole: whether nothing is wrong with any stream by itself.
    """
    findings: list[Finding] = []
    gone: Counter[int] = Counter()
    calls = []
    reached = 0
    for segment, check in zip(known, checks, strict=True):
        info = segment.task.info
        if info.generation or info.removed_bytes or info.lost_events:
            missing = None if check.damaged else check.missing
            calls.append((segment.task, missing, check.last_position, reached))
        whole = whole and not (check.damaged or segment.gaps)
        reached = info.last_position
    if not calls:
        return []
    results = dict(workers.run(check_removals, calls))
    for at in range(len(calls)):
        findings += results[at].findings
        whole = whole and results[at].versions is not None
        gone.update(results[at].versions or {})
    gone.subtract(between)
    uneven = uneven_versions(lacking, gone) if whole else {}
    if uneven:
        late = {n for n, count in uneven.items() if count > 0}
        detail = f"events of other versions went than streams lack: see those up to version {min(uneven)}"
        findings += check_beginnings(known, late, _STREAMS_LISTED) or [
            kinds.damage(kinds.GONE, paths.SEGMENTS, None, None, detail)
        ]
    return findings


def _check_sequence(tasks: Sequence[SegmentTask]) -> list[Finding]:
    """Segments follow each other without a gap, but for what a salvage left out; so do their times."""
    findings = []
    last = SegmentInfo(0, 0, 0)
    for task in tasks:
        info = task.info
        if info.first_position - last.last_position - 1 > info.lost_events:
            detail = f"positions {last.last_position + 1} to {info.first_position - 1} are in no segment"
            findings.append(kinds.damage(kinds.ORDER, paths.MANIFEST, None, last.last_position + 1, detail))
        if info.sealed and info.events and info.first_time_us < last.last_time_us:
            detail = "times fall from the segment before to this one"
            findings.append(kinds.damage(kinds.ORDER, task.log_name, None, info.first_position, detail))
        last = info
    return findings


def _settled_findings(seen: Look, task: SegmentTask, check: SegmentCheck) -> list[Finding]:
    """A segment's findings, without those that a writer at work explains."""
    findings = list(check.findings)
    unindexed = task.info.sealed and any(finding.kind == kinds.MISSING for finding in findings)
    if unindexed and is_being_indexed(seen, task.info):
        again = maybe_check_segment(task)
        findings = list(again.findings) if again is not None else findings
    if not task.info.sealed:
        if not seen.settled:  # entries come after their frame
            findings = [finding for finding in findings if finding.kind != kinds.LENGTH]
        findings += _check_end(seen, task, check)
    return findings


def _check_end(seen: Look, task: SegmentTask, check: SegmentCheck) -> list[Finding]:
    """The end of the active log: what a crash left there, and what must be there and is not."""
    log, offsets = task.log_name, f"{task.name}.offsets"
    position = check.last_position + 1
    findings = []
    synced = seen.marks.durable_offset
    if check.end < synced and not check.damaged:
        detail = f"the log ends, though it was synced up to offset {synced}"
        findings.append(kinds.damage(kinds.FRAME, log, check.end, position, detail))
    if not seen.settled:
        return findings
    if check.tail_bytes:
        detail = torn(check.tail_bytes)
        findings.append(kinds.note(kinds.TAIL, log, check.end, position, detail))
    wanted = FILE_HEADER_BYTES + check.entry_count * ENTRY_BYTES
    if seen.offsets_bytes > wanted and not check.damaged:
        detail = f"it has {seen.offsets_bytes} bytes, not {wanted}; it is derived, nothing is lost"
        findings.append(kinds.note(kinds.LENGTH, offsets, wanted, None, detail))
    if seen.marks is not NOTHING_KNOWN and synced < check.vouched > FILE_HEADER_BYTES:
        detail = f"its mark says less than the log's own headers: it was synced up to offset {check.vouched}"
        findings.append(kinds.note(kinds.MARK, paths.DURABLE, None, None, detail))
    written = seen.marks.written
    if written is not None and written.offset == check.end and not check.damaged:
        last = (check.entry_count, check.entries_crc)
        if (written.events, written.index_crc) != last or written.time_us < check.last_time_us:
            detail = "its mark of how far the log is written is not what the log says"
            findings.append(kinds.note(kinds.MARK, paths.DURABLE, 0, None, detail))
    return findings


# --- digests


def _head_digest(seen: Look, checks: Sequence[SegmentCheck]) -> str | None:
    logs = [check.digest for check in checks if check.entry_count or check.damaged]
    return chain_digests(seen.manifest.store_id_bytes, logs) if all(logs) else None


def _check_pin(seen: Look, checks: Sequence[SegmentCheck], pin: Pin, head: int) -> list[Finding]:
    """Compare a pinned digest with what the log gives now."""
    infos = seen.manifest.segments
    place = bisect_right(infos, pin.position, key=lambda info: info.first_position) - 1
    if pin.position > head:
        detail = f"the log ends at position {head}, before what was pinned"
        return [kinds.damage(kinds.DIGEST, paths.MANIFEST, None, pin.position, detail)]
    logs = [check.digest for check in checks[: max(place, 0)] if check.entry_count or check.damaged]
    if pin.position:
        logs.append(checks[place].pinned_digest)
    found = chain_digests(seen.manifest.store_id_bytes, logs) if all(logs) else "unknown"
    if found == pin.digest:
        return []
    name = f"segments/{infos[max(place, 0)].first_position:020d}"
    if any(info.generation for info in infos[: place + 1]):
        return [kinds.damage(kinds.COMPACTED, name, None, pin.position, explain_compaction(seen.store, pin))]
    detail = f"history up to position {pin.position} is not what was pinned: its digest is {found} now"
    return [kinds.damage(kinds.DIGEST, name, None, pin.position, detail)]
