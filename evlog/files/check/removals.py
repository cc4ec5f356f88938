"""What compactions removed against what the log lacks: what is missing went, and nothing else did.

A .removed file names the position and the version of each event that went, not its stream. So positions are
compared one by one; of versions as a whole how many of each went and how many are missing, for a compaction
takes the beginning of a stream: one that begins with version n + 1 lacks the versions 1 to n. Nothing here
writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from evlog.errors import CorruptionError
from evlog.files.check import findings as kinds
from evlog.files.check.files import check_removed
from evlog.files.check.rows import missing_positions
from evlog.files.check.segments import SegmentTask, open_removed
from evlog.files.format.removed_events import event_column
from evlog.model.reports import Finding


class RemovalCheck(NamedTuple):
    """What came of a look at what is left of a segment's events."""

    findings: list[Finding]
    versions: Counter[int] | None
    """how many events of each version went; None where that is not known"""


def check_removals(
    task: SegmentTask, missing: tuple[bytes, bytes] | None, last_position: int, reached: int
) -> RemovalCheck:
    """Check a segment's .removed by itself and against the positions that its log lacks.

    Args:
        missing: the runs of positions that it lacks, as `Runs` packs them; None if its log is damaged.
        last_position: its last event's.
        reached: where the segment before it ends.
    """
    finding = check_removed(task)
    if finding is not None:
        return RemovalCheck([finding], None)
    try:
        removed = open_removed(task)
        rows = removed.rows() if removed is not None else b""
        positions, versions = event_column(rows, "position"), event_column(rows, "version")
    except CorruptionError as damage:
        return RemovalCheck(
            [kinds.damage(kinds.GONE, f"{task.name}.removed", damage.offset, None, damage.detail)], None
        )
    if missing is None:
        return RemovalCheck([], None)
    lacking = missing_positions(missing, range(last_position + 1, task.info.last_position + 1))
    lost = max(0, task.info.lost_events - (task.info.first_position - reached - 1))
    found = _compare(task, sorted(positions), lacking, lost)
    return RemovalCheck(found, Counter(versions) if not found else None)


def _compare(task: SegmentTask, gone: list[int], lacking: list[int], lost: int) -> list[Finding]:
    """Compare the positions of what went with those that the log lacks; so many may be lost besides."""
    if not lost and gone == lacking:
        return []
    found = []
    went = set(gone)
    unknown = sorted(went.difference(lacking))
    if unknown or len(went) < len(gone):
        twice = [position for position, count in Counter(gone).items() if count > 1]
        first = (unknown or twice)[0]
        detail = f"{len(unknown) + len(twice)} events went by what it says, but the log does not lack them"
        found.append(kinds.damage(kinds.GONE, f"{task.name}.removed", None, first, detail))
    lacking = sorted(set(lacking).difference(went))
    if len(lacking) > lost:
        detail = f"{len(lacking) - lost} positions are neither in the log nor among those that went"
        found.append(kinds.damage(kinds.GONE, f"{task.name}.log", None, lacking[0], detail))
    elif len(lacking) < lost:
        detail = f"it says of {lost} events that they were lost, and {len(lacking)} are"
        found.append(kinds.damage(kinds.GONE, f"{task.name}.log", None, None, detail))
    return found


def uneven_versions(lacking: Mapping[int, int], gone: Mapping[int, int]) -> dict[int, int]:
    """How many more streams lack the versions 1 to n than what went accounts for (or fewer), by n, if not 0.

    Args:
        lacking: how many streams lack the versions 1 to n, by n.
        gone: how many events of each version went.
    """
    steps = Counter(gone)
    for version, events in gone.items():
        steps[version - 1] -= events
    del steps[0]
    counts = {n: lacking.get(n, 0) - steps[n] for n in steps.keys() | lacking.keys()}
    return {n: count for n, count in counts.items() if count}
