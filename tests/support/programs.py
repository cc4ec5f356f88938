"""Python programs that tests run as processes of their own, with evlog and the tests on their path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    return process


def next_line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def let_go(process: subprocess.Popen[str]) -> None:
    """Give a process the line that it waits for."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
