"""`evlog verify`: check that everything on disk is what was written, and repair or salvage what is not."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import PATH, STORE, flag, option
from evlog.cli._support.progress import with_progress
from evlog.errors import InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar

    import evlog
    from evlog.cli._support.parameters import Given
    from evlog.files.check.repair import RepairReport
    from evlog.files.check.salvage import SalvageReport

    T = TypeVar("T")
    Progress = Callable[[int, int], None]

HELP: Final = """Check every byte of the store: logs, indexes, order, versions, ids, checkpoints.

The exit code is 4 if there is damage. What a crash left behind, and the next writer removes by itself, is
only a note. Nothing is written, and writers can continue. The digest that is printed covers the whole
history up to a position: keep it elsewhere, and --against tells later whether anything before that position
was changed. --repair does only what loses nothing (it rebuilds indexes, cuts a torn tail, removes leftovers
of crashes), and lists the events that are lost; --salvage copies all undamaged events into a new store. In a
pipe the report is one JSON object.

\b
  evlog verify --quick || evlog verify --repair
  evlog verify | grep -o '[0-9]*:[0-9a-f]\\{64\\}' > pinned
  evlog verify --against "$(cat pinned)"
  evlog verify --salvage rescued
"""

PARAMETERS: Final = (
    flag("--quick", "Check only lengths, headers and the end of the log; takes a moment at any size."),
    flag("--repair", "Repair what can be repaired without loss."),
    option("--against", "POSITION:DIGEST", "Compare the history with a digest printed earlier."),
    option("--salvage", "OUT", "Copy all undamaged events into a new store.", PATH),
    STORE,
)
_LISTED: Final = 50  # findings on a terminal; a pipe gets all of them


def command(given: Given) -> int:
    """Verify, and print the report."""
    if sum((given.quick, given.repair, given.against is not None, given.salvage is not None)) > 1:
        raise InvalidArgument(
            "--quick, --repair, --against and --salvage exclude each other", "give one of them"
        )
    path = options.find_store(given)
    if options.is_url(path):
        return _verify_url(given, path)
    if given.repair:
        from evlog import repair_store

        done = with_progress(lambda progress: repair_store(path, progress=progress))
        return _print(done.report.ok, *_repair_report(done), done="the repair is done")
    if given.salvage is not None:
        from evlog import salvage_store

        saved = with_progress(lambda progress: salvage_store(path, given.salvage, progress=progress))
        return _print(not saved.losses, *_salvage_report(saved, given.salvage), done="the copy is made")
    from evlog import verify_store

    report = with_progress(
        lambda progress: verify_store(path, quick=given.quick, against=given.against, progress=progress)
    )
    return _print(report.ok, report.as_object(), _readable(report))


def _verify_url(given: Given, path: str) -> int:
    """Verify a store on a server, which has its own tools for the rest."""
    from evlog.store import open

    with open(path) as store:
        if given.repair or given.salvage is not None:
            operation = "verify --repair" if given.repair else "verify --salvage"
            raise Unsupported(store.capabilities.engine, operation)
        report = with_progress(
            lambda progress: store.verify(quick=given.quick, against=given.against, progress=progress),
            counts_bytes=False,
        )
    return _print(report.ok, report.as_object(), _readable(report))


def _print(ok: bool, as_object: dict[str, object], lines: list[str], done: str | None = None) -> int:
    """Print a report and return the exit code."""
    done = done or ("no damage is found" if ok else "damage is found")
    return console.write_verdict(ok, as_object, *lines, done=done)


def _repair_report(done: RepairReport) -> tuple[dict[str, object], list[str]]:
    repaired = [finding._asdict() for finding in done.repaired]
    losses = [loss._asdict() for loss in done.losses]
    lines = [f"repaired {line_of(finding)}" for finding in done.repaired]
    return (
        done.report.as_object() | {"repaired": repaired, "lost": losses},
        [*lines, *_readable(done.report), *_readable_losses(done.losses)],
    )


def _salvage_report(done: SalvageReport, out: str) -> tuple[dict[str, object], list[str]]:
    losses = [loss._asdict() for loss in done.losses]
    return (
        {"path": out, "events": done.events, "segments": done.segments, "lost": losses},
        [
            f"{console.count_of(done.events, 'undamaged event')} copied to {out}",
            *_readable_losses(done.losses),
        ],
    )


def _readable(report: evlog.VerifyReport) -> list[str]:
    lines = [line_of(finding) for finding in report.findings[:_LISTED]]
    if len(report.findings) > _LISTED:
        lines.append(f"and {len(report.findings) - _LISTED:,} more; `evlog verify | cat` prints all of them")
    damages = sum(finding.severity == "damage" for finding in report.findings)
    found = "ok" if report.ok else f"damaged in {console.count_of(damages, 'place')}"
    events, segments = console.count_of(report.events, "event"), console.count_of(report.segments, "segment")
    lines.append(f"{found}: {events} in {segments}, {report.bytes:,} bytes")
    for redaction in report.redactions or ():
        places = ", ".join(map(str, redaction.positions))
        lines.append(f"redacted since, on {redaction.time:%Y-%m-%dT%H:%M:%SZ}: {places}: {redaction.reason}")
    if report.digest is not None:
        lines.append(f"digest {report.digest}")
    return lines


def line_of(finding: evlog.Finding) -> str:
    place = finding.file if finding.offset is None else f"{finding.file} at offset {finding.offset}"
    if finding.position is not None:
        place += f" (position {finding.position})"
    return f"{finding.severity}: {finding.kind}: {place}: {finding.detail}"


def _readable_losses(losses: tuple[evlog.Loss, ...]) -> list[str]:
    lines = []
    for loss in losses:
        span = f"{loss.first_position} to {loss.last_position}"
        lines.append(f"lost: {console.count_of(loss.events, 'event')} at positions {span} ({loss.file})")
        for name, versions in loss.streams.items():
            lines.append(f"  {name} version {_spans(versions)}")
    return lines


def _spans(versions: list[int]) -> str:
    """Return 1, 2, 3, 7 as 1-3, 7."""
    spans: list[list[int]] = []
    for version in sorted(versions):
        if spans and version == spans[-1][1] + 1:
            spans[-1][1] = version
        else:
            spans.append([version, version])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)
