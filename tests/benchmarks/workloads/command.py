"""One command from a shell: append an event, read the last ten; beside what else a script could call.

By wall time, in turns. The stores are in the page cache and Python's compiled modules on disk, as for every
use of a command but the first. The peer of the target is the smallest Typer program, which does nothing.
`echo >>` syncs nothing; all others wait for the device.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.measure import Figure, Report, Target, take_turns
from tests.benchmarks.processes import Programs
from tests.benchmarks.programs import find_program, version_of
from tests.benchmarks.run import Run
from tests.support.server import read_address

_DATA = '{"amount":10}'
_SQL_INSERT = f"insert into events (type, data) values ('OrderPaid', '{_DATA}')"
_SQL_READ = "select * from events order by position desc limit 10"
Commands = dict[str, list[str | Path]]


def run(run: Run) -> Report:
    """Time the commands of evlog on a small and a large store, beside Typer's and those of others."""
    directory = run.fresh_directory("command")
    programs = Programs(directory)
    large = run.aged_store(run.sizes.growth[-1])
    small = directory / "small"
    for _ in range(10):
        _evlog_append(programs, small, "order-42")
    rng = random.Random(5)
    rounds = run.sizes.commands
    report = Report("command", f"one shell command; the large store has {run.sizes.growth[-1]:,} events")

    def key() -> float:
        return _evlog_append(
            programs, large.path, large.dataset.local_stream(rng), "--idempotency-key", f"key-{rng.random()}"
        )

    typer = {"typer": lambda: 1e3 * programs.typer(), "python": lambda: 1e3 * programs.python()}
    cases: dict[str, Callable[[], float]] = {
        "append, small store": lambda: _evlog_append(programs, small, "order-42"),
        "append, large store": lambda: _evlog_append(programs, large.path, large.dataset.local_stream(rng)),
        "append with a key, large store": key,
        "read the last 10, small store": lambda: _evlog_read(programs, small),
        "read the last 10, large store": lambda: _evlog_read(programs, large.path),
        "read a stream, large store": lambda: (
            1e3 * programs.evlog("read", large.dataset.local_stream(rng), "--store", str(large.path))
        ),
    }
    target = Target(0.7, at_least=False, over="typer")
    for label, case in cases.items():
        report.figures.append(
            Figure(f"command: {label}", "ms", take_turns(rounds, {"evlog": case, **typer}), target)
        )
    with _others(run, directory) as (appends, reads):
        for label, ours, theirs in (
            ("append", lambda: _evlog_append(programs, small, "order-42"), appends),
            ("read the last 10", lambda: _evlog_read(programs, small), reads),
        ):
            columns = {"evlog": ours}
            for name, command in theirs.items():
                columns[name] = lambda command=command: 1e3 * programs.any(command, directory)  # type: ignore[misc]
            take_turns(1, columns)
            report.figures.append(Figure(f"command: {label}", "ms", take_turns(rounds, columns)))
    report.settings = {
        "evlog": {"sync": "always", "entry": "evlog.__main__:main, as the console script calls it"},
        "typer": {"typer": version_of("typer"), "program": "one command with one argument"},
        "git": {"append": "commit --allow-empty with core.fsync=all", "read": "log -10"},
        "json-lines": {"append": "echo >> (no sync)", "read": "tail"},
    }
    return report


def _evlog_append(programs: Programs, store: Path, stream: str, *options: str) -> float:
    arguments = ("append", stream, "OrderPaid", _DATA, "--store", str(store), *options)
    return 1e3 * programs.evlog(*arguments)


def _evlog_read(programs: Programs, store: Path) -> float:
    return 1e3 * programs.evlog("read", "--reverse", "--limit", "10", "--store", str(store))


@contextmanager
def _others(run: Run, directory: Path) -> Iterator[tuple[Commands, Commands]]:
    """Yield the commands that append an event, and that read the last ten, of each installed program."""
    appends: Commands = {}
    reads: Commands = {}
    if sqlite := find_program("sqlite3"):
        table = "create table events (position integer primary key, type text, data text)"
        database = directory / "shell.db"
        subprocess.run(
            [sqlite, database, f"pragma journal_mode=wal; {table}"], check=True, capture_output=True
        )
        appends["sqlite"] = [sqlite, database, f"pragma synchronous=full; {_SQL_INSERT}"]
        reads["sqlite"] = [sqlite, "-json", database, _SQL_READ]
    served = [name for name in ("postgresql", "redis") if name in run.peers]
    directories = run.fresh("command", served)
    with run.served(directories):
        if "postgresql" in served and (psql := find_program("psql")):
            port = read_address(directories["postgresql"])
            login: list[str | Path] = [
                psql,
                "-qX",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
                "-U",
                "bench",
                "-d",
                "postgres",
            ]
            table = "create table shell (position bigserial primary key, type text, data json)"
            subprocess.run([*login, "-c", table], check=True, capture_output=True)
            appends["postgresql"] = [*login, "-c", _SQL_INSERT.replace("events", "shell")]
            reads["postgresql"] = [*login, "-c", _SQL_READ.replace("events", "shell")]
        if "redis" in served and (redis := find_program("redis-cli")):
            login = [redis, "-p", str(read_address(directories["redis"]))]
            appends["redis"] = [*login, "XADD", "log", "*", "type", "OrderPaid", "data", _DATA]
            reads["redis"] = [*login, "XREVRANGE", "log", "+", "-", "COUNT", "10"]
        if git := find_program("git"):
            at: list[str | Path] = [git, "-C", directory / "repository"]
            options = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "core.fsync=all"]
            subprocess.run([git, "init", "-q", directory / "repository"], check=True, capture_output=True)
            appends["git"] = [*at, *options, "commit", "-q", "--allow-empty", "-m", _DATA]
            reads["git"] = [*at, "log", "-10"]
        file = directory / "shell.jsonl"
        appends["json-lines"] = ["sh", "-c", f"echo '{_DATA}' >> {file}"]
        reads["json-lines"] = ["tail", file]
        yield appends, reads
