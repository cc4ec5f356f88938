"""The quick check of a store: lengths and headers, the first lines of snapshots, and the end of the log."""

from __future__ import annotations

from collections.abc import Callable

from evlog.errors import CorruptionError
from evlog.files.check import findings as kinds
from evlog.files.check.containers import open_container
from evlog.files.check.files import StoreSnapshot, check_names, check_snapshots, file_bytes, is_being_indexed
from evlog.files.check.indexes import IndexWrong, open_index
from evlog.files.check.removals import check_removed_length
from evlog.files.check.task import SegmentTask, open_checked
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES, KIND_OFFSETS, FileHeader, FormatFault
from evlog.files.format.sorted_index import suffixes_of
from evlog.files.log.log import Log
from evlog.model.reports import Finding, VerifyReport


def verify_quickly(snapshot: StoreSnapshot, checkpoints_of: Callable[[int], list[Finding]]) -> VerifyReport:
    """Check lengths and headers of all files, and the end of the log."""
    findings = check_sizes(snapshot)
    infos = snapshot.manifest.segments
    if any(finding.kind == kinds.MISSING for finding in findings):
        for info in infos[:-1]:
            is_being_indexed(snapshot, info)
        findings = check_sizes(snapshot)
    findings += snapshot.findings
    events = sum(info.events for info in infos)
    head = infos[-1].first_position - 1
    try:
        with Log(snapshot.store) as log:
            events += log.active.segment.count
            head = log.head
            findings += _check_end(snapshot, log)
    except CorruptionError as damage:
        findings.append(_as_finding(snapshot.store, damage))
    findings += checkpoints_of(head)
    findings += check_names(snapshot) + check_snapshots(snapshot.store, contents=False)
    return VerifyReport(events, len(infos), file_bytes(snapshot), head, None, tuple(findings))


def _check_end(snapshot: StoreSnapshot, log: Log) -> list[Finding]:
    """Check the end of the active log, as it was in the snapshot: writers may have appended since."""
    if log.damage is not None:
        finding = _as_finding(snapshot.store, log.damage)
        return [] if finding in snapshot.findings else [finding]
    active = log.active.segment
    if not snapshot.idle or active.info != snapshot.manifest.segments[-1]:
        return []
    findings = []
    name = active.info.name
    if active.torn_bytes and active.end < snapshot.active_bytes:
        detail = kinds.torn_tail(active.torn_bytes)
        findings.append(kinds.note(kinds.TAIL, f"{name}.log", active.end, log.head + 1, detail))
    if active.entries_on_disk < active.count_before(snapshot.active_bytes):
        detail = f"it does not hold the entries of the whole log; {kinds.DERIVED}"
        findings.append(kinds.note(kinds.INDEX, f"{name}.offsets", None, None, detail))
    return findings


def _as_finding(store: str, damage: CorruptionError) -> Finding:
    file = damage.path.removeprefix(store + "/")
    kind = kinds.MANIFEST if file == paths.MANIFEST else kinds.FRAME
    return kinds.damage(kind, file, damage.offset, damage.position, damage.detail)


def check_sizes(snapshot: StoreSnapshot) -> list[Finding]:
    """Check lengths and headers of all files that the manifest names."""
    findings: list[Finding] = []
    for task in snapshot.tasks():
        info = task.info
        header = task.header
        log_bytes = info.log_bytes if info.sealed else None
        offsets_bytes = FILE_HEADER_BYTES + info.events * ENTRY_BYTES if info.sealed else None
        if info.compressed_bytes:
            findings += _check_container(task)
        else:
            findings += _check_size(task, ".log", header, log_bytes)
        findings += _check_size(task, ".offsets", header._replace(kind=KIND_OFFSETS), offsets_bytes)
        removed = check_removed_length(task)
        findings += [] if removed is None else [removed]
        for kind, suffix in suffixes_of(info.tagged_events).items() if info.sealed else ():
            name = f"{task.name}.{suffix}"
            try:
                open_index(f"{task.path}.{suffix}", header._replace(kind=kind, source_crc=info.offsets_crc))
            except IndexWrong as wrong:
                detail = f"{wrong}; {kinds.DERIVED}"
                findings.append(kinds.note(wrong.finding_kind, name, wrong.offset, None, detail))
    return findings


def _check_container(task: SegmentTask) -> list[Finding]:
    try:
        return open_container(task.store, task.store_id, task.info).findings
    except FileNotFoundError:
        return [kinds.damage(kinds.MISSING, task.log_name, None, None, "it is missing")]


def _check_size(task: SegmentTask, suffix: str, expected: FileHeader, wanted: int | None) -> list[Finding]:
    name = task.name + suffix
    is_log = suffix == ".log"
    make = kinds.damage if is_log else kinds.note
    more = "" if is_log else f"; {kinds.DERIVED}"
    try:
        size = open_checked(task.path + suffix, expected).size()
    except FileNotFoundError:
        return [make(kinds.MISSING, name, None, None, f"it is missing{more}")]
    except FormatFault as fault:
        return [make(kinds.HEADER, name, 0, None, f"{fault}{more}")]
    if wanted is not None and size != wanted:
        detail = f"it has {size} bytes, not {wanted}{more}"
        return [make(kinds.LENGTH, name, min(size, wanted), None, detail)]
    return []
