"""`--exec`: what a command gets, what its end means, and what becomes of events that it fails on."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

import evlog as library
from evlog.cli._support import child
from evlog.subscriptions import retry
from tests.cli.conftest import Evlog, run_process

ID = "2f0a7d0c-6a39-4b55-8a6e-0d3a2f1b9c11"


@pytest.fixture
def filled(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> Evlog:
    """Five events, and next to no pauses between tries."""
    monkeypatch.setattr(retry, "FIRST_RETRY_SECONDS", 1e-6)
    with library.open(".evlog", create=True) as store:
        store.append("order-1", [library.NewEvent(f"T{n}", {"n": n}) for n in range(1, 6)])
    return evlog


def written(name: str = "out") -> list[str]:
    return Path(name).read_text().splitlines()


def test_a_command_gets_the_event_on_stdin_and_in_its_environment(evlog: Evlog, here: Path) -> None:
    evlog("append", "größe-1", "Größer", '{"n":1}', "--id", ID)
    line = evlog("read").out
    variables = "$EVLOG_POSITION $EVLOG_STREAM $EVLOG_TYPE $EVLOG_VERSION $EVLOG_ID $EVLOG_STORE"
    result = evlog("tail", "--exec", f'cat > out; echo "{variables}" > variables')
    assert (result.code, result.out, result.err) == (0, b"", "")
    assert Path("out").read_bytes() == line
    assert written("variables") == [f"1 größe-1 Größer 1 {ID} {here / '.evlog'}"]


def test_ctrl_c_at_the_moment_of_the_end_of_a_command_ends_the_run(
    filled: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was lost once: the command was waited for again, and that failure was tried again."""
    wait = os.waitpid

    def interrupted(pid: int, options: int) -> tuple[int, int]:
        found = wait(pid, options)
        if found[0]:
            signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(os, "waitpid", interrupted)
    assert filled("tail", "--retries", "3", "--exec", "echo $EVLOG_POSITION >> out; exit 1").code == 130
    assert written() == ["1"]


def test_a_command_is_run_once_for_each_event_in_order(filled: Evlog) -> None:
    assert filled("tail", "-n", "3", "--exec", "echo $EVLOG_POSITION >> out").code == 0
    assert written() == ["3", "4", "5"]


def test_a_command_need_not_read_its_stdin(evlog: Evlog) -> None:
    evlog("append", "s", "T", json.dumps("x" * 1_000_000))
    assert evlog("tail", "--exec", "exec 0<&-; true").code == 0
    assert evlog("tail", "--exec", "wc -c > out").code == 0
    assert int(written()[0]) > 1_000_000


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "signal SIGKILL"),
        ("no-such-program", "exit code 127: command not found"),
        ("./out", "exit code 126: cannot be run"),
    ],
)
def test_a_command_that_fails_stops_the_run_at_its_event(filled: Evlog, command: str, reason: str) -> None:
    script = f"echo $EVLOG_POSITION >> out; [ $EVLOG_POSITION != 3 ] || {{ {command}; }} 2>/dev/null"
    result = filled("tail", "--name", "a", "--exec", script)
    assert (result.code, result.out) == (1, b"")
    assert written() == ["1", "2", "3", "3", "3"]
    *notes, error = result.err.splitlines()
    assert len(notes) == 2
    assert f"--exec failed 3 times at position 3 (T3 in 'order-1'): {reason}; " in error
    assert filled("subscriptions", "show", "a").line["position"] == 2
    assert filled("tail", "--name", "a", "--exec", "echo $EVLOG_POSITION >> again").code == 0
    assert written("again") == ["3", "4", "5"]


@pytest.mark.parametrize(("retries", "tries"), [("0", 1), ("1", 1), ("2", 2), ("5", 5)])
def test_a_run_stops_after_so_many_failures(filled: Evlog, retries: str, tries: int) -> None:
    result = filled("tail", "-n", "1", "--exec", "echo x >> out; exit 1", "--retries", retries)
    assert result.code == 1
    assert written() == ["x"] * tries


def test_a_command_that_works_the_second_time_has_worked(filled: Evlog) -> None:
    script = 'echo $EVLOG_POSITION >> out; [ -e "done-$EVLOG_ID" ] || { touch "done-$EVLOG_ID"; exit 1; }'
    assert filled("tail", "-n", "2", "--exec", script).code == 0
    assert written() == ["4", "4", "5", "5"]


def test_pauses_grow(filled: Evlog) -> None:
    result = filled("tail", "-n", "1", "--exec", "exit 1", "--retries", "5")
    pauses = [float(text) for text in re.findall(r"next try in (\S+) s$", result.err, re.MULTILINE)]
    assert len(pauses) == 4
    assert pauses == sorted(set(pauses))


def test_a_failed_event_is_parked_and_the_run_goes_on(filled: Evlog) -> None:
    script = "echo $EVLOG_POSITION >> out; [ $EVLOG_POSITION != 2 ] || exit 7"
    result = filled("tail", "--name", "a", "--exec", script, "--on-failure", "park", "--retries", "2")
    assert result.code == 0
    assert written() == ["1", "2", "2", "3", "4", "5"]
    assert "parked position 2" in result.err
    assert filled("subscriptions", "show", "a").line["parked"] == 1
    parked = filled("subscriptions", "parked", "a").line
    assert (parked["position"], parked["stream"], parked["version"], parked["type"]) == (
        2,
        "order-1",
        2,
        "T2",
    )
    assert (parked["error"], parked["attempts"]) == ("exit code 7", 2)


def test_replay_takes_off_the_list_what_works_now(filled: Evlog) -> None:
    filled("tail", "--name", "a", "--exec", "exit 7", "--on-failure", "park", "--retries", "0")
    replay = ("subscriptions", "replay", "a", "--exec")
    result = filled(*replay, "echo $EVLOG_POSITION >> out; [ $EVLOG_POSITION != 2 ] || exit 8")
    assert (result.code, result.out) == (1, b"")
    assert written() == ["1", "2", "3", "4", "5"]
    assert "position 2 failed again: exit code 8" in result.err
    assert "1 of 5 parked events failed again" in result.err
    left = filled("subscriptions", "parked", "a").line
    assert (left["position"], left["attempts"], left["error"]) == (2, 2, "exit code 8")
    assert filled(*replay, "true").code == 0
    assert filled("subscriptions", "parked", "a").out == b""


def test_replay_without_a_command_prints_and_forgets_nothing(filled: Evlog) -> None:
    filled(
        "tail", "--name", "a", "--exec", "exit 7", "--on-failure", "park", "--retries", "0", "--count", "2"
    )
    result = filled("subscriptions", "replay", "a")
    assert result.code == 0
    assert result.out == filled("read", "--to", "2").out
    assert "2 events stay parked" in result.err
    assert len(filled("subscriptions", "parked", "a").lines) == 2


def test_count_counts_handled_events(filled: Evlog) -> None:
    assert filled("tail", "--name", "a", "--exec", "true", "--count", "2").code == 0
    assert filled("subscriptions", "show", "a").line["position"] == 2


# ---- What a command leaves behind


def test_a_process_that_the_command_leaves_behind_does_not_hold_up_the_run(evlog: Evlog, here: Path) -> None:
    """Its stdin holds more than a pipe takes, and what it left behind keeps stdin and stderr open."""
    evlog("append", "s", "T", json.dumps("x" * 1_000_000))
    left = "sleep 100 & echo $! >> left"
    options = ("--name", "a", "--on-failure", "park", "--retries", "1")
    for script, parked in ((left, 0), (f"{left}; echo bad >&2; exit 3", 1)):
        evlog("subscriptions", "delete", "a")
        assert evlog("tail", *options, "--exec", script).code == 0
        assert len(evlog("subscriptions", "parked", "a").lines) == parked
    for pid in written("left"):
        os.kill(int(pid), signal.SIGKILL)


def test_a_command_that_writes_without_end_to_stderr_keeps_only_the_end(filled: Evlog) -> None:
    script = "yes 0123456789 | head -c 3000000 >&2; echo the end >&2; exit 3"
    result = filled(
        *("tail", "--name", "a", "--count", "1", "--exec", script, "--on-failure", "park", "--retries", "1")
    )
    assert result.code == 0
    assert result.err.count("0123456789") > 270_000  # all of it is shown
    error = filled("subscriptions", "parked", "a").line["error"]
    assert error.startswith("exit code 3: ")
    assert error.endswith("the end")
    assert len(error) < 2100


# ---- Parked events


def test_a_parked_event_says_why(filled: Evlog) -> None:
    script = "printf 'HTTP 503 f\\374r \\303\\274\\n' >&2; exit 22"
    park = ("--on-failure", "park", "--retries", "2", "--count", "1")
    result = filled("tail", "--name", "a", "--exec", script, *park)
    parked = filled("subscriptions", "parked", "a").line
    assert (parked["error"], parked["attempts"]) == ("exit code 22: HTTP 503 f\ufffdr ü", 2)
    notes = [line for line in result.err.splitlines() if line.startswith("evlog: ")]
    assert [note.partition("; ")[0] for note in notes] == [
        "evlog: --exec failed at position 1: exit code 22",
        "evlog: parked position 1 after 2 failures: exit code 22",
    ]
    filled("subscriptions", "replay", "a", "--exec", "echo still bad >&2; exit 23")
    parked = filled("subscriptions", "parked", "a").line
    assert (parked["error"], parked["attempts"]) == ("exit code 23: still bad", 3)


@pytest.mark.parametrize("command", ["no-such-program", "./not-executable"])
def test_a_command_that_cannot_be_run_stops_the_run_instead_of_parking_all(
    filled: Evlog, here: Path, command: str
) -> None:
    (here / "not-executable").write_text("true\n")
    result = filled("tail", "--name", "a", "--exec", command, "--on-failure", "park", "--retries", "2")
    assert result.code == 1
    assert "--exec failed 2 times at position 1" in result.err
    assert filled("subscriptions", "show", "a").line["position"] == 0
    assert filled("subscriptions", "parked", "a").out == b""


def test_a_command_that_cannot_be_started_stops_the_run(filled: Evlog) -> None:
    result = filled("tail", "--name", "a", "--exec", "x" * 200_000, "--on-failure", "park", "--retries", "1")
    assert result.code == 1
    assert "not started: Argument list too long; fix the command and run again" in result.err
    assert filled("subscriptions", "parked", "a").out == b""


def test_replay_prints_the_stores_own_events_too(filled: Evlog) -> None:
    filled("retain", "order-1", "--max-count", "4")
    park = ("--on-failure", "park", "--retries", "1")
    filled("tail", "$$order-1", "--name", "a", "--exec", "exit 1", *park)
    assert filled("subscriptions", "replay", "a").line["stream"] == "$$order-1"


@pytest.mark.parametrize("command", ["", "  ", "\n"])
def test_replay_refuses_a_command_that_does_nothing(filled: Evlog, command: str) -> None:
    filled("tail", "--name", "a", "--exec", "exit 1", "--on-failure", "park", "--retries", "1")
    assert filled("subscriptions", "replay", "a", "--exec", command).code == 2
    assert len(filled("subscriptions", "parked", "a").lines) == 5


# ---- Other locales


@pytest.mark.parametrize("name", ["größe-1", "m-😀"])
def test_names_are_utf8_in_every_locale(here: Path, name: str) -> None:
    with library.open(".evlog", create=True) as store:
        store.append(name, [library.NewEvent("Größer")])
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    script = 'cat > line; printf %s "$EVLOG_STREAM/$EVLOG_TYPE" > names'
    result = run_process("tail", name, "--exec", script, env=ascii_only)
    assert (result.code, result.err) == (0, "")
    assert Path("names").read_bytes() == f"{name}/Größer".encode()
    assert json.loads(Path("line").read_bytes())["stream"] == name


def test_a_command_that_takes_too_long_is_ended_and_has_failed(
    evlog: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, now = child.Child._read_stderr, time.monotonic

    def read_and_pass_an_hour(command: child.Child) -> None:
        read(command)
        if command.kept:
            monkeypatch.setattr(time, "monotonic", lambda: now() + 3600)

    monkeypatch.setattr(child.Child, "_read_stderr", read_and_pass_an_hour)
    evlog("append", "s", "T")
    run = ["tail", "--name", "slow", "--exec", "echo begun >&2; exec sleep 100", "--exec-timeout", "1h"]
    result = evlog(*run, "--retries", "1", "--on-failure", "park")
    assert (result.code, result.out) == (0, b"")
    assert "parked position 1 after 1 failure: ended, because it took longer than 3600 s" in result.err
    error = evlog("subscriptions", "parked", "slow").line["error"]
    assert error == "ended, because it took longer than 3600 s: begun"


def test_no_handler_of_sigchld_is_removed(filled: Evlog) -> None:
    heard: list[int] = []

    def hear(signum: int, _frame: object) -> None:
        heard.append(signum)

    former = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        assert filled("tail", "--exec", "true").code == 0
        assert callable(signal.getsignal(signal.SIGCHLD))
        signal.signal(signal.SIGCHLD, hear)
        assert filled("tail", "--exec", "true").code == 0
        assert signal.getsignal(signal.SIGCHLD) is hear
        assert len(heard) >= 5
    finally:
        signal.signal(signal.SIGCHLD, former)


def test_the_pause_between_two_tries_can_be_chosen(evlog: Evlog) -> None:
    evlog("append", "s", "T")
    result = run_process("tail", "--exec", "exit 3", "--retries", "3", "--retry-delay", "0")
    assert result.code == 1
    assert result.err.count("next try in 0 s") == 2
    for option in (["--retry-delay", "1"], ["--exec-timeout", "1"]):
        assert evlog("tail", *option).code == 2


def test_an_exec_timeout_of_0_is_refused(evlog: Evlog) -> None:
    evlog("append", "s", "T")
    result = evlog("tail", "--exec", "true", "--exec-timeout", "0")
    assert (result.code, result.err[:37]) == (2, "evlog: --exec-timeout 0 leaves no tim")
