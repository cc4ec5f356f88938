"""A progress bar on stderr for work that counts its bytes; it is gone before the result is printed."""

from __future__ import annotations

from evlog.cli._support import console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar

    T = TypeVar("T")
    Progress = Callable[[int, int], None]

_DRAW_SECONDS: Final = 0.2  # nothing is drawn for what is done sooner


def with_progress(work: Callable[[Progress | None], T]) -> T:
    """Do the work with a progress bar if stderr is a terminal."""
    if not console.stderr_is_terminal():
        return work(None)
    from time import monotonic

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    screen = Console(stderr=True)
    if not screen.is_interactive:  # a terminal that cannot move its cursor
        return work(None)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    # Drawn here, not by a thread of its own: a thread cannot always be started.
    bar = Progress(*columns, console=screen, transient=True, auto_refresh=False)
    task = bar.add_task("", total=None)
    due = monotonic() + _DRAW_SECONDS

    def show(done: int, total: int) -> None:
        nonlocal due
        bar.update(task, completed=done, total=total)
        if monotonic() >= due:
            due = monotonic() + _DRAW_SECONDS
            bar.start()
            bar.refresh()

    try:
        return work(show)
    finally:
        bar.stop()
