"""The README and the guide cut into blocks of code, and a session that runs them against this checkout.

A block in `sh` or `python` is run, in the order of its page, unless its fence says `no-run`. A `text` or
`json` block right after a block of code is what that code prints; `…` in it matches anything in a line.
Blocks in other languages, and `text` or `json` alone, are only shown. It knows Markdown only as far as these
pages use it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

from tests.support.programs import ROOT

RUN = ("sh", "python")
OUTPUT = ("text", "json")
PATIENCE_SECONDS = 120.0  # a page that hangs ends
MARK = b"\x1e\n"


class Block(NamedTuple):
    """One piece of code, where it is, and what it should print (None: its page does not show it)."""

    language: str
    heading: str
    page: str
    line: int
    code: str
    output: str | None


class Page:
    """A page of Markdown."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    @cached_property
    def blocks(self) -> list[Block]:
        """The blocks that are run, in order."""
        found: list[Block] = []
        heading = ""
        fence: tuple[int, str] | None = None
        begun: list[str] = []
        follows = False  # the next fence would be right after a block of code
        for number, line in enumerate(self.text.splitlines(), 1):
            if fence is not None:
                if line == "```":
                    start, kind = fence
                    fence = None
                    code = "".join(f"{line}\n" for line in begun)
                    if follows and kind in OUTPUT:
                        found[-1] = found[-1]._replace(output=code)
                        follows = False
                    elif kind in RUN:
                        found.append(Block(kind, heading, self.name, start, code, None))
                        follows = True
                    else:
                        follows = False
                else:
                    begun.append(line)
            elif line.startswith("```"):
                assert line[3:].strip(), f"{self.name}:{number}: a block without a language"
                fence, begun = (number + 1, line[3:].strip()), []
            elif line:
                follows = False
                if line.startswith("#"):
                    heading = line.lstrip("# ")
        assert fence is None, f"{self.name}: a block without an end"
        return found


README_PAGE = Page("README.md", (ROOT / "README.md").read_text("utf-8"))
GUIDE = [
    Page(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    for path in sorted((ROOT / "evlog" / "guide").glob("*.md"))
]


def blocks(language: str, page: Page = README_PAGE) -> list[Block]:
    """Return a page's blocks of one language, in order."""
    return [block for block in page.blocks if block.language == language]


def assert_printed(block: Block, printed: str) -> None:
    """Compare what a block printed with what its page shows, if it shows anything."""
    if block.output is None:
        return
    pattern = "[^\n]*".join(re.escape(part) for part in block.output.split("…"))
    assert re.fullmatch(pattern, printed), (
        f"{block.page}:{block.line} shows\n{block.output}but this was printed:\n{printed}"
    )


def shell_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which `evlog` and `python3` are this checkout's, and git has no settings."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    python = shlex.quote(sys.executable)
    for name, command in {"evlog": f"{python} -m evlog", "python3": python}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("EVLOG_", "GIT_"))}
    return inherited | {
        "PATH": f"{programs}{os.pathsep}{inherited['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        # A checkout may belong to another user than the tests run as.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }


def run_session(scripts: Iterable[str], folder: Path, environment: dict[str, str]) -> list[str]:
    """Run scripts one after the other in one shell; return what each printed, stderr included."""
    with Shell(list(scripts), folder, environment) as shell:
        return [shell.run_next() for _ in shell.scripts]


def run_blocks(found: Iterable[Block], folder: Path, environment: dict[str, str]) -> None:
    """Run a page's blocks in order, shell and Python in one folder, and compare what they print.

    All blocks of shell share one shell. All blocks of Python share their names and run in the current
    directory, which must be the folder.
    """
    found = list(found)
    names: dict[str, object] = {"__name__": "__main__"}
    with Shell([block.code for block in found if block.language == "sh"], folder, environment) as shell:
        for block in found:
            printed = shell.run_next() if block.language == "sh" else run_python(block, names)
            assert_printed(block, printed)


def run_python(block: Block, names: dict[str, object]) -> str:
    """Run a block of Python in this process and return what it printed."""
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.code, ROOT / block.page, "exec", dont_inherit=True)
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


class Shell:
    """A shell that runs a list of scripts, each when it is told to."""

    def __init__(self, scripts: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.scripts = scripts
        pieces = (f"read -r go <&9\n{script}printf '\\036\\n'\n" for script in scripts)
        self._process = subprocess.Popen(
            ["sh", "-c", "set -eu\nexec 9<&0 </dev/null 2>&1\n" + "".join(pieces)],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self._limit = threading.Timer(PATIENCE_SECONDS, self._process.kill)
        self._limit.start()
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def run_next(self) -> str:
        """Run the next script and return what it printed."""
        self._done += 1
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # the shell has ended: the assertion below says how
            self._process.stdin.write(b"\n")
        printed = b""
        while not printed.endswith(MARK):
            line = self._process.stdout.readline()
            assert line, (
                f"exit code {self._process.wait()} in piece {self._done}:\n{printed.decode(errors='replace')}"
            )
            printed += line
        return printed.removesuffix(MARK).decode()

    def __exit__(self, *_error: object) -> None:
        self._limit.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a page may have left something running
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()


def make_repository(folder: Path, environment: dict[str, str]) -> None:
    """Make a small git history with the commits that the README shows: five, two authors, one merge."""
    ada, grace = 'Ada "Countess" Lovelace', "Grace Hopper"
    git(folder, environment, "init", "--quiet", "--initial-branch=main")
    commit(folder, environment, ada, 9, "Sketch of the engine")
    commit(folder, environment, grace, 10, "Say what a compiler is\n\n'It' is\ta \\ and \"more\".\n")
    commit(folder, environment, ada, 11, 'Note "G": the first program, with a \\ in it')
    git(folder, environment, "checkout", "--quiet", "-b", "compiler", "HEAD^")
    commit(folder, environment, grace, 12, "Compile it")
    git(folder, environment, "checkout", "--quiet", "main")
    commit(folder, environment, ada, 13, "Merge branch 'compiler'", "merge", "--quiet", "--no-ff", "compiler")


def commit(
    folder: Path, environment: dict[str, str], author: str, hour: int, message: str, *command: str
) -> None:
    """Commit nothing but a message (or run another command that commits) at an hour of a fixed day."""
    fields = {"NAME": author, "EMAIL": "someone@example.org", "DATE": f"2026-01-05T{hour:02d}:00:00+00:00"}
    identity = {
        f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in fields.items()
    }
    command = command or ("commit", "--quiet", "--allow-empty")
    git(folder, environment | identity, *command, "-m", message)


def git(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    """Run git and return what it printed."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode("utf-8", "replace")
