"""Verifying a store: everything that is on disk against everything else, up to a fixed horizon. Read-only.

First what the directory shows (files, marks, checkpoints), then each segment by itself, on all cores, then
what holds across segments, and last again what others may have been busy with when the look began. Nothing
is believed because a reader would believe it. It is safe, and says nothing false, while others write.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from evlog import paths
from evlog.checking import findings as kinds
from evlog.checking.across import (
    FOLD_END,
    HASH_END,
    Known,
    Segments,
    check_ids_between,
    check_stream,
    odd_streams_between,
    ranges,
)
from evlog.checking.digest import Pin, chain_digests
from evlog.checking.files import (
    Look,
    check_checkpoints,
    check_gone,
    check_names,
    check_sizes,
    file_bytes,
    is_being_indexed,
    look,
    look_at_checkpoints,
)
from evlog.checking.findings import Finding, VerifyReport
from evlog.checking.history import explain_compaction
from evlog.checking.segments import SegmentCheck, SegmentTask, check_segment, missing_segment
from evlog.checking.workers import Workers, core_count
from evlog.errors import CorruptionError
from evlog.format import ENTRY_BYTES, FILE_HEADER_BYTES
from evlog.log import Log

Progress = Callable[[int, int], None]
"""Is told how many bytes of how many are checked."""

# Below this, starting helpers takes longer than they save.
_BYTES_FOR_HELPERS: Final = 24 << 20
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
        replaced = set() if seen is None or report.ok else _replaced_since(seen)
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
        finding = Finding(kinds.MANIFEST, paths.MANIFEST, damage.offset, None, damage.detail)
        return None, VerifyReport(0, 0, 0, 0, None, (finding,))
    if quick:
        return seen, _verify_quickly(seen, checkpoints_of=lambda head: check_checkpoints(checkpoints, head))
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
    findings += [gone for task in tasks if (gone := check_gone(task)) is not None]
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
    helpers = helper_count([task.size for task in tasks])
    checks: dict[int, SegmentCheck] = {}
    done = 0
    with Workers(helpers) as workers:
        for at, check in workers.run(maybe_check_segment, [(task,) for task in tasks]):
            if check is None:
                tasks[at], check = _look_again(tasks[at])
            checks[at] = check
            done += tasks[at].size
            if progress is not None:
                progress(done, total)
        ordered = [checks[at] for at in range(len(tasks))]
        return ordered, _check_across(workers, tasks, ordered)


def helper_count(log_bytes: Sequence[int]) -> int:
    """How many helper processes a check of logs of these sizes is worth."""
    return min(core_count(), len(log_bytes)) if sum(log_bytes) >= _BYTES_FOR_HELPERS else 0


def maybe_check_segment(task: SegmentTask) -> SegmentCheck | None:
    """Check a segment; None if its log is not there."""
    try:
        return check_segment(task)
    except FileNotFoundError:
        return None


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
    workers: Workers, tasks: Sequence[SegmentTask], checks: Sequence[SegmentCheck]
) -> list[Finding]:
    known = [
        Known(
            task,
            check.entry_count,
            check.entries_known,
            check.offsets_sound,
            check.sound_indexes,
            bool(task.info.generation) or not check.entries_known,
        )
        for task, check in zip(tasks, checks, strict=True)
    ]
    events = sum(check.entry_count for check in checks)
    odd = {stream_hash for check in checks for stream_hash in check.odd_streams}
    streams = [(known, low, high) for low, high in ranges(events, HASH_END)]
    for _, hashes in workers.run(odd_streams_in, streams):
        odd.update(hashes)
    findings: list[Finding] = []
    segments = Segments(known)
    for stream_hash in sorted(odd)[:_STREAMS_LISTED]:
        findings += check_stream(segments, stream_hash)
    if len(odd) > _STREAMS_LISTED:
        detail = f"and {len(odd) - _STREAMS_LISTED} more streams want a look"
        findings.append(Finding(kinds.VERSION, paths.SEGMENTS, None, None, detail))
    ids = [(known, low, high) for low, high in ranges(events, FOLD_END)]
    for _, found in workers.run(check_ids_in, ids):
        findings += found
    return findings


def odd_streams_in(known: Sequence[Known], low: int, high: int) -> list[int]:
    """See `odd_streams_between`."""
    return odd_streams_between(Segments(known), low, high)


def check_ids_in(known: Sequence[Known], low: int, high: int) -> list[Finding]:
    """See `check_ids_between`."""
    return check_ids_between(Segments(known), low, high)


def _check_sequence(tasks: Sequence[SegmentTask]) -> list[Finding]:
    """Segments follow each other without a gap, but for what a compaction left out; so do their times."""
    findings = []
    compacted = any(task.info.generation for task in tasks)
    for before, task in itertools.pairwise(tasks):
        info, last = task.info, before.info
        if info.first_position != last.last_position + 1 and not compacted:
            detail = f"positions {last.last_position + 1} to {info.first_position - 1} are in no segment"
            findings.append(Finding(kinds.ORDER, paths.MANIFEST, None, last.last_position + 1, detail))
        if info.sealed and info.events and info.first_time_us < last.last_time_us:
            detail = "times fall from the segment before to this one"
            findings.append(Finding(kinds.ORDER, task.log_name, None, info.first_position, detail))
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
    log, offsets = f"{task.name}.log", f"{task.name}.offsets"
    position = check.last_position + 1
    findings = []
    synced = seen.marks.durable_offset
    if check.end < synced and not check.damaged:
        detail = f"the log ends, though it was synced up to offset {synced}"
        findings.append(Finding(kinds.FRAME, log, check.end, position, detail))
    if not seen.settled:
        return findings
    if check.tail_bytes:
        detail = _torn(check.tail_bytes)
        findings.append(Finding(kinds.TAIL, log, check.end, position, detail))
    wanted = FILE_HEADER_BYTES + check.entry_count * ENTRY_BYTES
    if seen.offsets_bytes > wanted and not check.damaged:
        detail = f"it has {seen.offsets_bytes} bytes, not {wanted}; it is derived, nothing is lost"
        findings.append(Finding(kinds.LENGTH, offsets, wanted, None, detail))
    if synced < check.vouched > FILE_HEADER_BYTES:
        detail = f"its mark says less than the log's own headers: it was synced up to offset {check.vouched}"
        findings.append(Finding(kinds.MARK, paths.DURABLE, None, None, detail))
    written = seen.marks.written
    if written is not None and written.offset == check.end and not check.damaged:
        last = (check.entry_count, check.entries_crc)
        if (written.events, written.index_crc) != last or written.time_us < check.last_time_us:
            detail = "its mark of how far the log is written is not what the log says"
            findings.append(Finding(kinds.MARK, paths.DURABLE, 0, None, detail))
    return findings


def _torn(size: int) -> str:
    return f"{size} bytes of an append that was never acknowledged; the next writer cuts them"


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
        return [Finding(kinds.DIGEST, paths.MANIFEST, None, pin.position, detail)]
    logs = [check.digest for check in checks[: max(place, 0)] if check.entry_count or check.damaged]
    if pin.position:
        logs.append(checks[place].pinned_digest)
    found = chain_digests(seen.manifest.store_id_bytes, logs) if all(logs) else "unknown"
    if found == pin.digest:
        return []
    name = f"segments/{infos[max(place, 0)].first_position:020d}"
    if any(info.generation for info in infos[: place + 1]):
        return [Finding(kinds.COMPACTED, name, None, pin.position, explain_compaction(seen.store, pin))]
    detail = f"history up to position {pin.position} is not what was pinned: its digest is {found} now"
    return [Finding(kinds.DIGEST, name, None, pin.position, detail)]


# --- quick


def _verify_quickly(seen: Look, checkpoints_of: Callable[[int], list[Finding]]) -> VerifyReport:
    """Lengths and headers of all files, and the end of the log as a reader would look at it."""
    findings = [*seen.findings, *check_sizes(seen)]
    infos = seen.manifest.segments
    events = sum(info.events for info in infos)
    head = infos[-1].first_position - 1
    if any(finding.kind == kinds.MISSING for finding in findings):
        for info in infos[:-1]:
            is_being_indexed(seen, info)
        findings = [*seen.findings, *check_sizes(seen)]
    try:
        log = Log(seen.store)
        active = log.active.segment
        events += active.count
        head = log.head
        name = f"segments/{infos[-1].first_position:020d}.{infos[-1].generation}"
        if log.damage is not None:
            findings.append(_as_finding(seen.store, log.damage))
        elif (
            active.torn_bytes and seen.settled and active.info == infos[-1] and active.end < seen.active_bytes
        ):
            detail = _torn(active.torn_bytes)
            findings.append(Finding(kinds.TAIL, f"{name}.log", active.end, head + 1, detail))
        # Others may be writing by now: what counts is what stood there at the look.
        lacking = active.entries_on_disk < active.count_before(seen.active_bytes)
        if seen.settled and lacking and active.info == infos[-1]:
            detail = "it does not hold the entries of the whole log; it is derived, nothing is lost"
            findings.append(Finding(kinds.INDEX, f"{name}.offsets", None, None, detail))
    except CorruptionError as damage:
        findings.append(_as_finding(seen.store, damage))
    findings += checkpoints_of(head)
    findings += check_names(seen)
    return VerifyReport(events, len(infos), file_bytes(seen), head, None, tuple(findings))


def _as_finding(store: str, damage: CorruptionError) -> Finding:
    file = damage.path.removeprefix(store + "/")
    return Finding(kinds.FRAME, file, damage.offset, damage.position, damage.detail)
