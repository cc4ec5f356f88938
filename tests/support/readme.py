"""README.md cut into its code blocks, and a shell session that runs them against this checkout.

A `text` or `json` block right after a block of code is what that code prints; `…` in it stands for anything
within a line. It knows Markdown only as far as README.md uses it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
CODE = ("sh", "python")
OUTPUT = ("text", "json")


class Block(NamedTuple):
    """One piece of code, the heading it stands under, and what it should print (None: not said)."""

    language: str
    heading: str
    line: int
    code: str
    output: str | None


def blocks(language: str) -> list[Block]:
    """The README's blocks of one language, in order."""
    found: list[Block] = []
    heading = ""
    fence: tuple[int, str] | None = None
    for number, line in enumerate(README.splitlines(), 1):
        if fence is None and line.startswith("#"):
            heading = line.lstrip("# ")
        elif fence is None and line.startswith("```"):
            fence = (number + 1, line[3:])
        elif fence is not None and line == "```":
            start, kind = fence
            fence = None
            text = "".join(f"{line}\n" for line in README.splitlines()[start - 1 : number - 1])
            if kind in OUTPUT:
                found[-1] = found[-1]._replace(output=text)
            else:
                assert kind in CODE, f"README.md:{start}: a block in {kind or 'no language'}"
                found.append(Block(kind, heading, start, text, None))
    assert fence is None, "README.md: a block without an end"
    return [block for block in found if block.language == language]


def assert_printed(block: Block, printed: str) -> None:
    """Compare what a block printed with what the README shows, if it shows anything."""
    if block.output is None:
        return
    pattern = "[^\n]*".join(re.escape(part) for part in block.output.split("…"))
    assert re.fullmatch(pattern, printed), (
        f"README.md:{block.line} shows\n{block.output}but this was printed:\n{printed}"
    )


def shell_environment(folder: Path) -> dict[str, str]:
    """An environment in which `evlog` and `python3` are this checkout's, and git knows no settings."""
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
        # A checkout may belong to another user than the one who tests it.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }


def run_session(scripts: Iterable[str], folder: Path, environment: dict[str, str]) -> list[str]:
    """Run pieces of shell script one after the other in one shell; what each printed, stderr included."""
    mark = "\x1e\n"
    session = "set -eu\nexec 2>&1\n" + "".join(f"{script}printf '\\036\\n'\n" for script in scripts)
    done = subprocess.run(
        ["sh", "-c", session], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    printed = done.stdout.split(mark)
    assert done.returncode == 0, f"exit code {done.returncode} in piece {len(printed)}:\n{printed[-1]}"
    return printed[:-1]


def make_repository(folder: Path, environment: dict[str, str]) -> None:
    """A small git history with the commits that the README shows: five, two authors, one merge."""
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
    who = {"NAME": author, "EMAIL": "someone@example.org", "DATE": f"2026-01-05T{hour:02d}:00:00+00:00"}
    identity = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    command = command or ("commit", "--quiet", "--allow-empty")
    git(folder, environment | identity, *command, "-m", message)


def git(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    """Run git and return what it printed."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode("utf-8", "replace")
