"""Whole processes: the evlog command as its console script runs it, with the wall time from start to exit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

# What an installer writes for the entry point `evlog`; used from a file, so that no installation is needed.
_EVLOG_SCRIPT: Final = """\
import sys
from evlog.__main__ import main
if __name__ == "__main__":
    sys.exit(main())
"""
# The smallest program that Typer's own documentation shows.
_TYPER_SCRIPT: Final = """\
import typer

app = typer.Typer()

@app.command()
def main(name: str):
    print(f"Hello {name}")

if __name__ == "__main__":
    app()
"""


class Programs:
    """The scripts under test, in a directory of the run."""

    def __init__(self, directory: Path) -> None:
        self._evlog = directory / "evlog_script.py"
        self._evlog.write_text(_EVLOG_SCRIPT)
        self._typer = directory / "typer_script.py"
        self._typer.write_text(_TYPER_SCRIPT)
        # Compiled modules must be cached, as they are after any installation.
        self._environment = {
            key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"
        }
        root = str(Path(__file__).resolve().parents[2])
        known = os.environ.get("PYTHONPATH")
        self._environment["PYTHONPATH"] = root if not known else root + os.pathsep + known
        self._environment.pop("EVLOG_STORE", None)

    def evlog(
        self, *arguments: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> float:
        """Run `evlog ARGUMENTS` and return its wall time in seconds."""
        return self._run([str(self._evlog), *arguments], stdin, stdout)

    def start_evlog(self, *arguments: str, stdout: int) -> subprocess.Popen[bytes]:
        """Start `evlog ARGUMENTS`, to run until it is ended."""
        return subprocess.Popen(
            [sys.executable, str(self._evlog), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            env=self._environment,
        )

    def typer(self) -> float:
        """Run the smallest Typer program and return its wall time in seconds."""
        return self._run([str(self._typer), "world"], None, None)

    def python(self) -> float:
        """Run Python with nothing to do: the floor under both."""
        return self._run(["-c", ""], None, None)

    def any(self, command: Sequence[str | Path], cwd: Path) -> float:
        """Run any program and return its wall time in seconds."""
        return self._time([str(word) for word in command], None, None, cwd)

    def _run(self, arguments: list[str], stdin: IO[bytes] | None, stdout: IO[bytes] | None) -> float:
        return self._time([sys.executable, *arguments], stdin, stdout, None)

    def _time(
        self, command: list[str], stdin: IO[bytes] | None, stdout: IO[bytes] | None, cwd: Path | None
    ) -> float:
        start = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self._environment,
            check=False,
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"{command} exited {done.returncode}: {done.stderr.decode()}")
        return seconds
