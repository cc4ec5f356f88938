"""`evlog transact`: what the command gets, what becomes of its output, and when it is run again."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

import evlog as library
from tests.cli.conftest import Evlog, start
from tests.support.programs import ROOT

EVLOG = f"PYTHONPATH={shlex.quote(str(ROOT))}:$PYTHONPATH {shlex.quote(sys.executable)} -m evlog"
PAID = 'echo \'{"type":"Paid","data":{"amount":5}}\''


@pytest.fixture
def account(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> Evlog:
    """A store with one event in the stream `a`."""
    for name in ("EVLOG_CORRELATION_ID", "EVLOG_CAUSATION_ID"):
        monkeypatch.delenv(name, raising=False)
    evlog("append", "a", "Opened", '{"n":1}')
    return evlog


def test_a_command_gets_the_history_and_its_output_is_appended(account: Evlog, here: Path) -> None:
    history = account("read", "a").out
    variables = "$EVLOG_STREAM $EVLOG_VERSION $EVLOG_STORE"
    result = account("transact", "a", "--exec", f"cat > in; echo {variables} > variables; {PAID}; echo")
    assert (result.code, result.err) == (0, "")
    assert Path("in").read_bytes() == history
    assert Path("variables").read_text() == f"a 1 {here / '.evlog'}\n"
    event = account("read", "a").lines[1]
    assert (event["type"], event["data"], event["metadata"]) == ("Paid", {"amount": 5}, {})
    place = {name: event[name] for name in ("stream", "version", "position", "id")}
    assert result.line == place | {"duplicate": False}


def test_a_stream_need_not_exist_and_its_name_is_the_default(evlog: Evlog) -> None:
    evlog("init")
    lines = ['{"type":"T"}', '{"type":"T","stream":"other","metadata":{"a":1}}', '{"type":"T","id":"%s"}']
    id = "2f0a7d0c-6a39-4b55-8a6e-0d3a2f1b9c11"
    Path("out").write_text("\n".join(lines) % id)  # the last line has no end
    result = evlog("transact", "new", "--exec", 'test "$EVLOG_VERSION" = 0 && cat out')
    assert [(line["stream"], line["version"]) for line in result.lines] == [
        ("new", 1),
        ("other", 1),
        ("new", 2),
    ]
    assert result.lines[2]["id"] == id
    assert evlog("transact", "another", "--exec", "tail -n 1 out").code == 7  # the id is known, in `new`


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("true", 0, ""),
        ("echo; echo ' '", 0, ""),
        (f"{PAID}; exit 3", 1, "--exec failed on 'a': exit code 3; nothing was appended"),
        (f"{PAID}; kill -9 $$", 1, "--exec failed on 'a': signal SIGKILL; nothing was appended"),
        ("no-such-program 2> /dev/null", 1, "--exec failed on 'a': exit code 127: command not found"),
        (f"{PAID}; echo x", 2, "line 2 of what --exec printed is not JSON"),
        ("echo '{}'", 2, "line 1 of what --exec printed has no field `type`; nothing was appended"),
        ('echo \'{"type":""}\'', 2, "line 1 of what --exec printed holds no event: event type is empty"),
        ('echo \'{"type":"T","x":1}\'', 2, "line 1 of what --exec printed has the unknown field `x`"),
        (
            'echo \'{"type":"T","stream":"$x"}\'',
            2,
            "line 1 of what --exec printed holds no event: stream name",
        ),
        ('printf \'{"type":"\\303"}\'', 2, "line 1 of what --exec printed is not UTF-8"),
        ("yes", 1, "--exec failed on 'a': ended, because it wrote more than 1000 bytes"),
    ],
)
def test_nothing_is_appended_unless_the_command_succeeds_with_events(
    account: Evlog, command: str, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.cli.transact.MAX_OUTPUT_BYTES", 1000)
    result = account("transact", "a", "--exec", command)
    assert (result.code, result.out) == (code, b"")
    assert result.err.startswith(f"evlog: {message}" if message else "")
    assert bool(result.err) == bool(message)
    assert len(account("read").lines) == 1


def test_the_command_is_run_again_when_another_writer_was_first(account: Evlog) -> None:
    interfere = f"test -e once || {{ touch once; {EVLOG} append a Other > /dev/null; }}"
    result = account("transact", "a", "--exec", f"{interfere}; wc -l >> seen; {PAID}")
    assert result.line["version"] == 3
    assert Path("seen").read_text().split() == ["1", "2"]


def test_a_race_that_is_always_lost_is_a_conflict(account: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"{EVLOG} append a Other > /dev/null; {PAID}"
    result = account("transact", "a", "--exec", command, "--retries", "1")
    assert (result.code, result.out) == (3, b"")
    assert result.err == (
        "evlog: other writers of 'a' were first in 2 of 2 tries; run it again, or increase --retries\n"
    )
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    error = json.loads(account("transact", "a", "--exec", command, "--retries", "0").err)
    assert (error["stream"], error["expected"], error["actual"], error["tries"]) == ("a", 3, 4, 1)
    assert [event["type"] for event in account("read").lines] == ["Opened", "Other", "Other", "Other"]


def test_a_decision_with_a_key_is_made_once(account: Evlog) -> None:
    first = account("transact", "a", "--idempotency-key", "k", "--exec", f"{PAID}; {PAID}")
    again = account("transact", "a", "--idempotency-key", "k", "--exec", "exit 1")
    assert again.code == 0
    assert again.lines == [line | {"duplicate": True} for line in first.lines]
    events = account("read", "a").lines[1:]
    assert [event["metadata"] for event in events] == [
        {"$idempotencyKey": f"k/{n}", "$decidedFrom": "a"} for n in (1, 2)
    ]
    other = account("transact", "b", "--idempotency-key", "k", "--exec", PAID)
    assert (other.code, other.out) == (7, b"")
    assert "idempotency key 'k'" in other.err
    assert [event["id"] for event in events] == [str(library.idempotency_id(f"k/{n}")) for n in (1, 2)]


def test_what_is_appended_is_linked_to_what_it_reacts_to(account: Evlog) -> None:
    command = f"{EVLOG} transact b --exec {shlex.quote(PAID)} --idempotency-key $EVLOG_ID"
    assert account("tail", "a", "--exec", command).code == 0
    opened, paid = account("read").lines
    assert paid["metadata"] == {
        "$correlationId": opened["id"],
        "$causationId": opened["id"],
        "$idempotencyKey": f"{opened['id']}/1",
        "$decidedFrom": "b",
    }


def test_people_are_told_in_words(account: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"evlog.cli._support.console.{stream}_is_terminal", lambda: True)
    assert account("transact", "a", "--exec", PAID).out == b"appended to a: version 2, position 2\n"
    assert account("transact", "a", "--exec", "true").err == "evlog: nothing was decided\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a"],
        ["a", "--exec", ""],
        ["a", "--exec", " "],
        ["", "--exec", "true"],
        ["$a", "--exec", "true"],
        ["a", "--exec", "true", "--retries", "-1"],
        ["a", "--exec", "true", "--idempotency-key", ""],
        ["a", "b", "--exec", "true"],
    ],
)
def test_what_is_wrong_with_the_command_line_is_said_first(account: Evlog, arguments: list[str]) -> None:
    result = account("transact", *arguments)
    assert (result.code, result.out) == (2, b"")
    assert result.err.count("\n") == 1


def test_a_missing_store_is_not_created(evlog: Evlog) -> None:
    assert evlog("transact", "a", "--exec", PAID).code == 5
    assert not Path(".evlog").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_appends_nothing(account: Evlog, here: Path, signum: int) -> None:
    os.mkfifo("begun")
    process = start("transact", "a", "--exec", f"{PAID}; echo > begun; exec sleep 1000", cwd=here)
    Path("begun").read_text()  # waits for the command
    process.send_signal(signum)
    process.communicate(timeout=60)
    assert process.returncode == -signum
    assert len(account("read").lines) == 1
