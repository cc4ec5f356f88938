"""Long output on a terminal goes through the pager, and nothing is lost if there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import evlog as library
from tests.cli.conftest import command
from tests.support.helpers import flip_bit
from tests.support.programs import environment
from tests.support.terminal import CTRL_C, TerminalSession

# It waits for a Ctrl-C, and takes the rest of the output after it.
PATIENT_PAGER = """\
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("ready", flush=True)
signal.sigwait([signal.SIGINT])
print("got it", flush=True)
sys.stdin.buffer.read()
"""


@pytest.fixture
def store(here: Path) -> Path:
    with library.open(".evlog", create=True) as opened:
        opened.append("long", [library.NewEvent("T", {"n": number}) for number in range(3000)])
        opened.append("short", [library.NewEvent("T", {"n": number}) for number in range(5)])
    return here


def session(*arguments: str, **settings: str) -> TerminalSession:
    env = environment({"TERM": "xterm", "NO_COLOR": "1"} | settings)
    return TerminalSession(command(*arguments), env)


def shown(*arguments: str, code: int = 0, **settings: str) -> str:
    with session(*arguments, **settings) as terminal:
        assert terminal.wait() == code
        return terminal.shown


@pytest.mark.parametrize("form", ["table", "json", "csv", "pretty"])
def test_output_that_is_longer_than_the_screen_is_paged(store: Path, form: str) -> None:
    text = shown("read", "-o", form, EVLOG_PAGER="cat -n", PAGER="false")
    assert text.splitlines()[0].split()[0] == "1"
    assert int(text.splitlines()[-1].split()[0]) >= 3005


def test_short_output_is_not_paged(store: Path) -> None:
    assert "paged" not in shown("read", "short", EVLOG_PAGER="sed s/^/paged/")
    assert shown("read", "long", "-n", "100", EVLOG_PAGER="sed s/^/paged/").count("paged") == 101


def test_a_dumb_terminal_has_no_pager(store: Path) -> None:
    assert "paged" not in shown("read", "long", "-n", "100", EVLOG_PAGER="sed s/^/paged/", TERM="dumb")


def test_a_pager_that_the_user_leaves_ends_the_command_quietly(store: Path) -> None:
    assert shown("read", "-o", "json", EVLOG_PAGER="head -n 1").count("\n") == 1


@pytest.mark.parametrize("pager", ["no-such-pager", "exec /dev/null", "cat", ""])
def test_without_a_pager_nothing_is_lost(store: Path, pager: str) -> None:
    assert shown("read", "-o", "json", EVLOG_PAGER=pager).count('"position":') == 3005


def test_damage_is_reported_after_the_pager_has_ended(store: Path) -> None:
    (log,) = (store / ".evlog" / "segments").glob("*.log")
    flip_bit(log, b'{"n":4}', 5)
    text = shown("read", code=4, EVLOG_PAGER="cat")
    assert "is damaged" in shown("read", code=4, EVLOG_PAGER="sed s/^/paged/").splitlines()[-1]
    assert "is damaged" in text.splitlines()[-1]


def test_ctrl_c_is_the_pagers(store: Path) -> None:
    """less ends a search at Ctrl-C, so evlog must not leave it alone on the terminal."""
    (store / "pager.py").write_text(PATIENT_PAGER)
    with session("read", EVLOG_PAGER=f"exec {sys.executable} pager.py") as terminal:
        terminal.wait_for("ready\n")
        terminal.type(CTRL_C)
        terminal.wait_for("got it\n")
        assert terminal.wait() == 0
