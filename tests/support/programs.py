"""Python programs that tests run as processes of their own, with evlog and the tests on their path."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.contention import wait_until

_started: list[subprocess.Popen[str]] = []
ROOT = Path(__file__).parent.parent.parent


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of such a process, with some changes."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **(changes or {})}


def run_python(
    *arguments: str, code: int = 0, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments to its end, which must have this exit code."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, *arguments],
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def start_python(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start Python with these arguments, with pipes to its stdin and from its stdout."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process: subprocess.Popen[str] = subprocess.Popen(
        [sys.executable, *arguments], env=environment(), text=True, **(pipes | options)
    )
    _started.append(process)
    return process


def dying_with_us(signal_name: str = "KILL") -> list[str]:
    """Return the words before a server's command that end it when the thread that starts it has ended.

    Even if the tests are killed, no server is left.
    """
    return ["setpriv", "--pdeathsig", signal_name] if shutil.which("setpriv") else []


def end_started() -> None:
    """End what a test has started and left, and close its pipes: a failed test must not fail later ones."""
    while _started:
        process = _started.pop()
        if process.returncode is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def suspend(*pids: int) -> None:
    """Suspend processes, and return once none of their threads runs.

    `kill` returns before that: on a busy machine, a server would answer once more.
    """
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        wait_until(lambda pid=pid: _is_suspended(pid))  # type: ignore[misc]


def _is_suspended(pid: int) -> bool:
    try:
        stats = [path.read_text("latin-1") for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return False  # a thread has ended meanwhile
    return all(stat.rpartition(")")[2].split()[0] in "TtZX" for stat in stats)


@contextlib.contextmanager
def suspended(*pids: int) -> Iterator[None]:
    """Suspend processes inside the block; none of their threads runs in it."""
    try:
        suspend(*pids)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def next_line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def let_go(process: subprocess.Popen[str]) -> None:
    """Give a process the line that it waits for."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
