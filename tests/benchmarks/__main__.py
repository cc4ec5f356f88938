"""`python -m tests.benchmarks [WORKLOAD …] [--quick] [--json] [--dir PATH] [--large N] [--keep]`."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.measure import describe_machine
from tests.benchmarks.peers import PEERS
from tests.benchmarks.report import print_machine, print_report, to_json
from tests.benchmarks.run import FULL, QUICK, Run, run_workload
from tests.benchmarks.workloads import WORKLOADS


def main() -> None:
    options = _parse()
    sizes = QUICK if options.quick else FULL
    if options.large:
        sizes = replace(sizes, large=options.large // 1000 * 1000)
    size = "quick" if options.quick else "full"
    if options.dir is not None:
        options.dir.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="evlog-benchmarks-", dir=options.dir))
    try:
        machine = describe_machine(directory)
        if not options.json:
            print_machine(machine, size)
        run = Run(sizes, directory, options.peers)
        reports = []
        for name in options.workloads or WORKLOADS:
            report = run_workload(WORKLOADS[name], run)
            reports.append(report)
            if not options.json:
                print_report(report, file=None if sys.stdout.isatty() else sys.stdout)
        if options.json:
            print(to_json(reports, machine, size))
    finally:
        if options.keep:
            print(f"kept: {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=sys.modules[__package__].__doc__
    )
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: about a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument(
        "--dir", type=Path, help="where data goes (default: the system's temporary directory)"
    )
    parser.add_argument(
        "--large", type=int, metavar="N", help="events of the large store of command and growth"
    )
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), help="default: all")
    parser.add_argument("--keep", action="store_true", help="leave the data and say where it is")
    options = parser.parse_args()
    unknown = [name for name in options.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    return options


if __name__ == "__main__":
    main()
