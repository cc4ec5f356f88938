"""`--exec` on a terminal: a command can read it, Ctrl-C and Ctrl-Z reach evlog, and it comes back."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evlog as library
from tests.cli.conftest import command
from tests.support.programs import environment
from tests.support.terminal import CTRL_C, CTRL_Z, TerminalSession

# Changing a setting borrows the terminal, so that Ctrl-Z goes to the command alone.
HOLD = 'stty echo < /dev/tty; echo borrowed; read answer < /dev/tty && echo "answer: $answer"'
ASK = 'echo "event $EVLOG_POSITION"; read answer < /dev/tty && echo "answer: $answer"'


@pytest.fixture
def store(here: Path) -> Iterator[library.EventStore]:
    with library.open(".evlog", create=True) as opened:
        opened.append("s", [library.NewEvent("T"), library.NewEvent("T")])
        yield opened


@pytest.fixture(params=["", "1"])
def env(request: pytest.FixtureRequest) -> dict[str, str]:
    return environment({"PYTHONUNBUFFERED": request.param, "TERM": "xterm", "NO_COLOR": "1", "PS1": "$ "})


def test_a_command_can_read_the_terminal(store: library.EventStore, env: dict[str, str]) -> None:
    with TerminalSession(command("tail", "--name", "ask", "--exec", ASK), env) as terminal:
        for number in (1, 2):
            terminal.wait_for(f"event {number}\n")
            terminal.type(f"hello {number}\n")
            terminal.wait_for(f"answer: hello {number}\n")
        assert terminal.wait() == 0
    assert store.subscription("ask").position == 2


def test_a_command_can_change_the_terminals_settings(store: library.EventStore, env: dict[str, str]) -> None:
    script = "stty -echo < /dev/tty && stty echo < /dev/tty && echo changed"
    with TerminalSession(command("tail", "-n", "1", "--exec", script), env) as terminal:
        terminal.wait_for("changed\n")
        assert terminal.wait() == 0


def test_ctrl_c_that_the_command_gets_ends_evlog_too(store: library.EventStore, env: dict[str, str]) -> None:
    with TerminalSession(command("tail", "--name", "ask", "--exec", ASK), env) as terminal:
        terminal.wait_for("event 1\n")
        terminal.type("hello\n")
        terminal.wait_for("event 2\n")
        terminal.type("x")
        terminal.type(CTRL_C)
        assert terminal.wait() == -signal.SIGINT
        assert "evlog:" not in terminal.shown
    assert store.subscription("ask").position == 1


def test_the_terminal_comes_back_after_the_command(store: library.EventStore, env: dict[str, str]) -> None:
    script = f'[ "$EVLOG_POSITION" = 1 ] || {{ echo works; exec sleep 100; }}; {ASK}'
    with TerminalSession(command("tail", "-f", "--name", "ask", "--exec", script), env) as terminal:
        terminal.wait_for("event 1\n")
        terminal.type("hello\n")
        terminal.wait_for("works\n")  # without the terminal: Ctrl-C is for evlog
        terminal.type(CTRL_C)
        assert terminal.wait() == -signal.SIGINT
    assert store.subscription("ask").position == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="job control needs bash")
def test_ctrl_z_suspends_evlog_and_its_command_until_fg(
    store: library.EventStore, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "evlog").write_text(f'#!/bin/sh\nexec {" ".join(command())} "$@"\n')
    (tmp_path / "evlog").chmod(0o755)
    env["PATH"] = f"{tmp_path}{os.pathsep}{env['PATH']}"
    with TerminalSession(["bash", "--norc", "--noprofile", "--noediting", "-i"], env) as terminal:
        terminal.wait_for("$ ")
        terminal.type(f"evlog tail -n 1 --exec 'echo \"event $EVLOG_POSITION\"; {HOLD}'\n")
        terminal.wait_for("event 2\n")
        terminal.wait_for("borrowed\n")
        terminal.type(CTRL_Z)
        terminal.wait_for("Stopped")
        terminal.type("echo prompt $((20+3))\n")
        terminal.wait_for("prompt 23\n")
        terminal.type("fg\n")
        terminal.type("hello\n")
        terminal.wait_for("answer: hello\n")
        terminal.type("echo code $?\n")
        terminal.wait_for("code 0\n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="job control needs bash")
def test_in_the_background_evlog_says_why_the_command_cannot_have_the_terminal(
    store: library.EventStore, env: dict[str, str]
) -> None:
    options = ("--name", "n", "--on-failure", "park", "--exec", "'read x < /dev/tty'")
    line = " ".join([*command("tail"), *options])
    with TerminalSession(
        ["bash", "--norc", "--noprofile", "--noediting", "-i"], env, columns=500
    ) as terminal:
        terminal.wait_for("$ ")
        terminal.type(f"{line} &\n")
        terminal.wait_for("stopped, because it used the terminal while evlog runs in the background; ")
        terminal.type("wait %1; echo code $?\n")
        terminal.wait_for("code 1\n")
    assert store.subscription("n").position == store.subscription("n").parked == 0


@pytest.mark.parametrize("columns", [0, 1, 7])
def test_a_terminal_without_a_sensible_width_shows_the_rows(
    store: library.EventStore, env: dict[str, str], columns: int
) -> None:
    with TerminalSession(command("tail"), env, columns=columns) as terminal:
        assert terminal.wait() == 0
        assert "unexpectedly" not in terminal.shown
        assert terminal.shown.count("\n") >= 3


DRAWS_AT_ONCE = """
from evlog.cli import app
from evlog.cli._support import progress
progress._EVERY_SECONDS = 0
app.main()
"""


def test_an_export_shows_its_progress_in_events(store: library.EventStore, env: dict[str, str]) -> None:
    for _ in range(3):
        store.append("s", [library.NewEvent("T")] * 3000)
    with TerminalSession([sys.executable, "-c", DRAWS_AT_ONCE, "export", "x.csv"], env) as terminal:
        terminal.wait_for(" of 9,002  ")
        assert terminal.wait() == 0


@pytest.mark.parametrize(
    "arguments", [["append", "s", "T", "-"], ["append", "--lines", "s", "T"], ["schema", "set", "T", "-"]]
)
def test_a_command_that_reads_the_terminal_says_how_the_input_ends(
    store: library.EventStore, env: dict[str, str], arguments: list[str]
) -> None:
    with TerminalSession(command(*arguments), env) as terminal:
        terminal.wait_for("end it with Ctrl-D\n")
        terminal.type("{}\n\x04")
        assert terminal.wait() == 0
