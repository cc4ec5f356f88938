"""One `evlog append` from a shell beside the smallest Typer program, in turns, by wall time.

Each evlog sample has a Typer sample right beside it. The store is in the page cache, Python's compiled
modules are on disk, as they are on anybody's second use of the command.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.measure import Figure, Report, Target, take_turns
from tests.benchmarks.processes import Programs
from tests.benchmarks.run import Run

_TARGET = Target(1.4, at_least=False, over="typer")


def run(run: Run) -> Report:
    """Time single appends on an empty store and on the large one."""
    directory = run.fresh_directory("command")
    programs = Programs(directory)
    large = run.large_store()
    empty = directory / "empty"
    programs.evlog("init", "--store", str(empty))
    rng = random.Random(5)

    def append(store: Path, stream: str, *options: str) -> float:
        arguments = ("append", stream, "OrderPaid", '{"amount":10}', "--store", str(store), *options)
        return 1e3 * programs.evlog(*arguments)

    def with_key() -> float:
        return append(large.path, large.dataset.local_stream(rng), "--idempotency-key", f"key-{rng.random()}")

    size = f"{run.sizes.large:,} events"
    cases: dict[str, Callable[[], float]] = {
        "append, empty store": lambda: append(empty, "order-42"),
        f"append to a stream, {size}": lambda: append(large.path, large.dataset.local_stream(rng)),
        f"append with a key, {size}": with_key,
    }
    report = Report("command", f"one shell command; the large store has {run.sizes.large // 10:,} streams")
    for label, case in cases.items():
        columns = {
            "evlog": case,
            "typer": lambda: 1e3 * programs.typer(),
            "python": lambda: 1e3 * programs.python(),
        }
        take_turns(2 if run.sizes.commands > 1 else 0, columns)
        report.figures.append(Figure(label, "ms", take_turns(run.sizes.commands, columns), _TARGET))
    report.settings = {
        "evlog": {"sync": "always", "entry": "evlog.cli.app:main, as the console script calls it"},
        "typer": {"typer": _version("typer"), "program": "one command with one argument"},
        "python": {"program": "-c ''"},
    }
    return report


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
