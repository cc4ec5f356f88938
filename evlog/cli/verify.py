"""`evlog verify`: whether everything on disk is what was written, and what can be done where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

import evlog
from evlog.cli._support import console, options
from evlog.cli._support.options import StoreOption
from evlog.errors import EXIT_CORRUPT, EXIT_OK, InvalidArgument

if TYPE_CHECKING:
    from evlog.files.check.repair import RepairReport
    from evlog.files.check.salvage import SalvageReport

HELP: Final = """Check every byte of the store: logs, indexes, order, versions, ids, checkpoints.

The exit code is 4 on any finding. Nothing is written, and writers may go on. The digest that is printed
stands for the whole history up to a position: keep it elsewhere, and --against tells later whether anything
before it was rewritten. --repair does only what loses nothing (indexes, a torn tail, leftovers of crashes)
and says what is lost for good; --salvage copies all that is whole into a new store. In a pipe the report is
one JSON object.

\b
  evlog verify --quick || evlog verify --repair
  evlog verify | grep -o '[0-9]*:[0-9a-f]\\{64\\}' > pinned
  evlog verify --against "$(cat pinned)"
  evlog verify --salvage rescued
"""

_LISTED: Final = 50  # findings on a terminal; a pipe gets them all

Progress = Callable[[int, int], None]


def command(
    ctx: typer.Context,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Only lengths, headers and the end of the log: a moment at any size."),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended without losing anything.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="POSITION:DIGEST", help="Compare history with a digest of earlier."
        ),
    ] = None,
    salvage: Annotated[
        str | None, typer.Option("--salvage", metavar="OUT", help="Copy all that is whole into a new store.")
    ] = None,
    store: StoreOption = None,
) -> int:
    """Verify, and print the report."""
    if sum((quick, repair, against is not None, salvage is not None)) > 1:
        raise InvalidArgument("--quick, --repair, --against and --salvage are four errands; give one of them")
    path = options.find_store(ctx, store)
    with _progress() as progress:
        if repair:
            return _print_repair(evlog.repair_store(path, progress=progress))
        if salvage is not None:
            return _print_salvage(evlog.salvage_store(path, salvage, progress=progress), salvage)
        report = evlog.verify_store(path, quick=quick, against=against, progress=progress)
    if console.stdout_is_terminal():
        _write(_readable(report))
    else:
        console.write_object(report.as_object())
    return EXIT_OK if report.ok else EXIT_CORRUPT


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar on stderr where somebody looks at it; gone at the end."""
    if not console.stderr_is_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verify", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show


def _print_repair(done: RepairReport) -> int:
    report = done.report
    if console.stdout_is_terminal():
        lines = [f"repaired {_line(finding)}" for finding in done.repaired]
        _write([*lines, *_readable(report), *_readable_losses(done.losses)])
    else:
        repaired = [finding._asdict() for finding in done.repaired]
        losses = [loss._asdict() for loss in done.losses]
        console.write_object(report.as_object() | {"repaired": repaired, "lost": losses})
    return EXIT_OK if report.ok else EXIT_CORRUPT


def _print_salvage(done: SalvageReport, out: str) -> int:
    if console.stdout_is_terminal():
        _write([f"{done.events:,} whole events copied to {out}", *_readable_losses(done.losses)])
    else:
        losses = [loss._asdict() for loss in done.losses]
        console.write_object({"store": out, "events": done.events, "segments": done.segments, "lost": losses})
    return EXIT_OK if not done.losses else EXIT_CORRUPT


def _readable(report: evlog.VerifyReport) -> list[str]:
    lines = [_line(finding) for finding in report.findings[:_LISTED]]
    if len(report.findings) > _LISTED:
        lines.append(f"and {len(report.findings) - _LISTED:,} more; a pipe gets them all: evlog verify | cat")
    found = "ok" if report.ok else f"{len(report.findings):,} findings"
    lines.append(f"{found}: {report.events:,} events in {report.segments:,} segments, {report.bytes:,} bytes")
    if report.head_digest is not None:
        lines.append(f"digest {report.head_digest}")
    return lines


def _line(finding: evlog.Finding) -> str:
    place = finding.file if finding.offset is None else f"{finding.file} at offset {finding.offset}"
    if finding.position is not None:
        place += f" (position {finding.position})"
    return f"{finding.kind}: {place}: {finding.detail}"


def _readable_losses(losses: tuple[evlog.Loss, ...]) -> list[str]:
    lines = []
    for loss in losses:
        span = f"{loss.first_position} to {loss.last_position}"
        lines.append(f"lost: {loss.events:,} events at positions {span} ({loss.file})")
        for name, versions in loss.streams.items():
            lines.append(f"  {name} version {_spans(versions)}")
    return lines


def _spans(versions: list[int]) -> str:
    """1, 2, 3, 7 as 1-3, 7."""
    spans: list[list[int]] = []
    for version in sorted(versions):
        if spans and version == spans[-1][1] + 1:
            spans[-1][1] = version
        else:
            spans.append([version, version])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def _write(lines: list[str]) -> None:
    text = "".join(f"{console.printable(line)}\n" for line in lines)
    console.write(text.encode(errors="backslashreplace"))
