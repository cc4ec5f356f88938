"""`python -m tests.benchmarks [WORKLOAD …|table] [--quick] [--json] [--plot FILE] …`; see `--help`."""

from __future__ import annotations

import argparse
import compileall
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import evlog
from tests.benchmarks import plot
from tests.benchmarks.measure import Report, describe_machine
from tests.benchmarks.peers import PEERS
from tests.benchmarks.report import print_machine, print_table, to_json
from tests.benchmarks.run import FULL, QUICK, Run, Sizes, run_workload
from tests.benchmarks.table import outcomes_json, print_outcomes, run_table
from tests.benchmarks.workloads import ONLY_WHEN_NAMED, WORKLOADS

TABLE = "table"


def main() -> None:
    options = _parse()
    size = "quick" if options.quick else "full"
    skipped = {name: how for name in options.peers if (how := PEERS[name].how_to_get())}
    if options.dir is not None:
        options.dir.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="evlog-benchmarks-", dir=options.dir))
    directory.chmod(0o711)
    # As after any installation: a process that compiles what it imports late is 10 ms slower.
    compileall.compile_dir(Path(evlog.__file__).parent, quiet=2)
    failed = False
    file = None if sys.stdout.isatty() else sys.stdout
    try:
        machine = describe_machine(directory)
        if not options.json:
            print_machine(machine, size, skipped, file)
        peers = [name for name in options.peers if name not in skipped]
        if options.workloads == [TABLE]:
            failed = _compare_with_goals(
                options, partial(Run, _sizes(options), peers=peers), directory, machine
            )
            sys.exit(int(failed))
        run = Run(_sizes(options), directory, peers)
        reports = []
        for name in options.workloads or [name for name in WORKLOADS if name not in ONLY_WHEN_NAMED]:
            try:
                reports.append(run_workload(name, run))
            except Exception as error:  # noqa: BLE001 - what was measured until then is not thrown away
                failed = True
                reports.append(Report(name, "failed", notes=[f"failed: {error!r}"]))
        if options.json:
            print(to_json(reports, machine, size, skipped))
        else:
            print_table(reports, file)
        if options.plot:
            plot.save_plot(reports, options.plot)
    finally:
        if options.keep:
            print(f"kept: {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory)
    if failed:
        sys.exit(1)


def _compare_with_goals(
    options: argparse.Namespace,
    make_run: Callable[[Path], Run],
    directory: Path,
    machine: dict[str, str],
) -> bool:
    """Run and show the table; return whether a value is missing in it."""
    repetitions = 1 if options.quick else options.repetitions
    outcomes = run_table(make_run, directory, repetitions, lambda line: print(line, file=sys.stderr))
    if options.json:
        print(outcomes_json(outcomes, machine, "quick" if options.quick else "full"))
    else:
        print_outcomes(outcomes, None if sys.stdout.isatty() else sys.stdout)
    if options.plot:
        options.plot.write_text(plot.goals_chart(outcomes), encoding="utf-8")
    return any(len(outcome.values) < repetitions for outcome in outcomes)


def _sizes(options: argparse.Namespace) -> Sizes:
    sizes = QUICK if options.quick else FULL
    if options.events:
        sizes = replace(sizes, bulk=max(1, options.events // 1000) * 1000)
    if options.large:
        events = max(1, options.large // 1000) * 1000
        sizes = replace(
            sizes, large=events, growth=(*(size for size in sizes.growth if size < events), events)
        )
    return sizes


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=sys.modules[__package__].__doc__
    )
    parser.add_argument(
        "workloads",
        nargs="*",
        metavar="WORKLOAD",
        help=f"of {', '.join(WORKLOADS)}; default: all but {', '.join(ONLY_WHEN_NAMED)}; "
        f"`{TABLE}` alone compares with the goals",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: less than a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the ratios into FILE.png or FILE.svg; those of `table` into FILE.txt",
    )
    parser.add_argument(
        "--dir", type=Path, help="where data goes (default: the system's temporary directory)"
    )
    parser.add_argument("--events", type=int, metavar="N", help="events of the stores that peers share")
    parser.add_argument(
        "--large", type=int, metavar="N", help="events of the large store of command and growth"
    )
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), help="default: all")
    parser.add_argument(
        "--repetitions",
        type=int,
        default=3,
        metavar="N",
        help="how often `table` runs everything (default: 3)",
    )
    parser.add_argument("--keep", action="store_true", help="leave the data and say where it is")
    options = parser.parse_args()
    unknown = [name for name in options.workloads if name not in WORKLOADS and options.workloads != [TABLE]]
    if unknown:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    formats = (plot.TEXT_FORMAT,) if options.workloads == [TABLE] else plot.FORMATS
    if options.plot and options.plot.suffix not in formats:
        parser.error(f"--plot {options.plot}: give a name that ends in {' or '.join(formats)}")
    if options.plot and formats == plot.FORMATS and (how := plot.how_to_get_plots()):
        parser.error(f"--plot needs matplotlib: {how}")
    # evlog comes first, whatever the order given: the ratios are about it.
    options.peers = [name for name in PEERS if name in options.peers or name == next(iter(PEERS))]
    return options


if __name__ == "__main__":
    # No server may be left behind, however this process ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
