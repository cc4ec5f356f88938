"""Two ways of running evlog: in this process, which is quick, and as the process that a user starts."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evlog.cli import app
from evlog.files.disk import file_lock
from tests.support.programs import environment
from tests.support.terminal import TerminalSession


@dataclass(frozen=True)
class Result:
    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def line(self) -> Any:
        (only,) = self.lines
        return only


Evlog = Callable[..., Result]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("EVLOG_STORE", "EVLOG_ERRORS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def evlog(here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Evlog:
    """Run evlog in this process."""
    stdin_path = tmp_path_factory.mktemp("stdin") / "stdin"

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        stdin_path.write_bytes(stdin)
        out, err = io.BytesIO(), io.BytesIO()
        with monkeypatch.context() as patch, stdin_path.open() as source:
            patch.setattr(sys, "stdin", source)
            patch.setattr(sys, "stdout", io.TextIOWrapper(out, "utf-8", write_through=True))
            patch.setattr(sys, "stderr", io.TextIOWrapper(err, "utf-8", write_through=True))
            patch.setattr(file_lock, "say", file_lock.say)  # restored: the library logs
            interrupt = signal.getsignal(signal.SIGINT)
            code = app.run(list(arguments))
            assert signal.getsignal(signal.SIGINT) is interrupt  # else it ends another test's process
            sys.stdout.flush()
            return Result(code, out.getvalue(), err.getvalue().decode(errors="replace"))

    return run


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "evlog", *arguments]


NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}
"""For a process with a limit on the size of files: Python does not notice that a .pyc was cut by it."""


def start(*arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """Start evlog as a process of its own, with pipes on all sides."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command(*arguments), env=environment(env), **(pipes | options)
    )
    return process


def run_process(
    *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, **options: Any
) -> Result:
    done = subprocess.run(
        command(*arguments),
        input=stdin,
        env=environment(env),
        capture_output=True,
        timeout=60,
        check=False,
        **options,
    )
    return Result(done.returncode, done.stdout, done.stderr.decode())


def on_terminal(*arguments: str, columns: int = 80, code: int = 0, **changes: str) -> str:
    """Return what evlog shows on a terminal; it must end with the exit code."""
    env = environment({"TERM": "xterm"})
    for name in ("PAGER", "EVLOG_PAGER", "NO_COLOR"):
        env.pop(name, None)
    with TerminalSession(command(*arguments), env | changes, columns) as session:
        assert session.wait() == code
        return session.shown


def as_lines(values: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)
