"""`evlog tail -f` as the process that a user starts: what comes live, and everything that ends it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import evlog as library
from tests.cli.conftest import command, run_process, start
from tests.support.programs import environment
from tests.support.terminal import PATIENCE_SECONDS, TerminalSession


@contextmanager
def tail(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a running `evlog tail`, which is killed if a test forgets to end it."""
    process = start("tail", *arguments, **options)
    assert process.stdin
    process.stdin.close()
    limit = threading.Timer(PATIENCE_SECONDS, process.kill)
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def next_number(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout
    return int(json.loads(process.stdout.readline())["data"]["n"])


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Return the exit code, and what was left on stdout and stderr."""
    assert process.stdout
    assert process.stderr
    out = b"" if process.stdout.closed else process.stdout.read()
    return process.wait(), out, process.stderr.read()


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"], autouse=True)
def unbuffered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with and without PYTHONUNBUFFERED, which container images set."""
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


@pytest.fixture
def store(here: Path) -> Iterator[library.EventStore]:
    with library.open(".evlog", create=True, segment_events=8) as opened:
        add(opened, 1)
        yield opened


def add(store: library.EventStore, *numbers: int, stream: str = "order-1", type: str = "Seen") -> None:
    for n in numbers:
        store.append(stream, [library.NewEvent(type, {"n": n})])


def test_what_comes_is_printed_as_it_comes(store: library.EventStore) -> None:
    with tail("-f") as process:
        for n in range(1, 40):  # over some rolls
            assert next_number(process) == n
            add(store, n + 1)
        process.send_signal(signal.SIGINT)
        assert end_of(process)[0] == -signal.SIGINT


def test_many_at_once_come_in_order(store: library.EventStore) -> None:
    with tail("-f", "--count", "5001") as process:
        assert next_number(process) == 1
        for begin in range(2, 5002, 500):
            store.append("s", [library.NewEvent("T", {"n": n}) for n in range(begin, begin + 500)])
        assert [next_number(process) for _ in range(5000)] == list(range(2, 5002))
        assert end_of(process) == (0, b"", b"")


def test_only_what_is_asked_for_comes(store: library.EventStore) -> None:
    with tail("order-2", "-f", "--count", "2") as process, tail("-f", "--type", "Paid") as other:
        add(store, 2, 3)
        add(store, 4, 5, stream="order-2")
        add(store, 6, type="Paid")
        assert [next_number(process), next_number(process)] == [4, 5]
        assert end_of(process) == (0, b"", b"")
        assert next_number(other) == 6


def test_a_barrier_opens_with_the_event(store: library.EventStore) -> None:
    with tail("build-1", "-f", "--until-type", "BuildFinished", "--timeout", "10m") as process:
        add(store, 2, stream="build-1", type="BuildStarted")
        assert next_number(process) == 2
        add(store, 3, stream="build-1", type="BuildFinished")
        assert next_number(process) == 3
        assert end_of(process) == (0, b"", b"")


def test_a_barrier_that_nobody_opens_is_a_timeout(store: library.EventStore) -> None:
    result = run_process("tail", "build-1", "-f", "--until-type", "BuildFinished", "--timeout", "0.3")
    assert (result.code, result.out) == (8, b"")
    assert result.err.startswith("evlog: --timeout 0.3 ran out before an event of type 'BuildFinished' came;")
    assert result.err.count("\n") == 1


def test_a_store_that_does_not_exist_yet_is_waited_for(here: Path) -> None:
    with tail("-f", "--store", "new", "--count", "1") as process:
        assert process.stderr
        assert process.stderr.readline() == b"evlog: no store at new yet; waiting for it\n"
        with library.open("new", create=True) as store:
            add(store, 7)
        assert next_number(process) == 7
        assert end_of(process) == (0, b"", b"")


@pytest.mark.parametrize("idle", ["0", "0.1"])
def test_waiting_for_a_store_ends_when_nothing_comes(here: Path, idle: str) -> None:
    result = run_process("tail", "-f", "--store", "new", "--idle", idle)
    assert result.code == 8
    assert result.err.splitlines()[1:] == [f"evlog: --idle {idle} ran out; run it again to continue"]


def test_waiting_for_a_store_ends_like_any_waiting(here: Path) -> None:
    with tail("-f", "--store", "new") as process:
        assert process.stdout
        process.stdout.close()
        code, _, err = end_of(process)
        assert (code, err) == (0, b"evlog: no store at new yet; waiting for it\n")
    with tail("-f", "--store", "new", "--timeout", "0.3") as process:
        assert end_of(process)[0] == 8
    for signum, code in ((signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM)):
        with tail("-f", "--store", "new") as process:
            assert process.stderr
            process.stderr.readline()
            process.send_signal(signum)
            assert end_of(process) == (code, b"", b"")


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGINT, -signal.SIGINT),
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGHUP, -signal.SIGHUP),
    ],
)
def test_a_signal_ends_it_at_once_and_quietly_with_the_checkpoint_saved(
    store: library.EventStore, signum: int, code: int
) -> None:
    with tail("-f", "--name", "a") as process:
        assert next_number(process) == 1
        add(store, 2)
        assert next_number(process) == 2
        add(store, 3)
        assert next_number(process) == 3  # asking for it acknowledged the one before
        process.send_signal(signum)
        assert end_of(process) == (code, b"", b"")
    assert store.subscription("a").position >= 2
    assert not store.subscription("a").running


def test_a_signal_that_was_ignored_stays_ignored(store: library.EventStore) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with tail("-f", preexec_fn=ignore) as process:
        assert next_number(process) == 1
        process.send_signal(signal.SIGHUP)
        add(store, 2)
        assert next_number(process) == 2


def test_a_reader_that_leaves_ends_it_though_nothing_comes(store: library.EventStore) -> None:
    with tail("-f", "--name", "a") as process:
        assert next_number(process) == 1
        assert process.stdout
        process.stdout.close()
        assert end_of(process) == (0, b"", b"")
    assert not store.subscription("a").running


@pytest.mark.parametrize("condition", [["--until-type", "Gone"], ["--count", "99"]])
def test_a_reader_that_leaves_before_what_is_waited_for_is_not_success(
    store: library.EventStore, condition: list[str]
) -> None:
    with tail("-f", *condition) as process:
        assert next_number(process) == 1
        assert process.stdout
        process.stdout.close()
        code, _, err = end_of(process)
        assert (code, err.count(b"\n")) == (1, 1)
        assert err.startswith(b"evlog: the reader of the output left before ")


def test_a_reader_that_leaves_after_what_is_waited_for_is_success(store: library.EventStore) -> None:
    for _ in range(10):  # the reader leaves while evlog ends
        with tail("-f", "--until-type", "Seen") as process:
            assert next_number(process) == 1
            assert process.stdout
            process.stdout.close()
            assert end_of(process) == (0, b"", b"")


NO_THREAD = """
import sys, threading
threading.stack_size(1 << 46)  # more than there is: no thread can be started
from evlog.cli import app
sys.exit(app.run(sys.argv[1:]))
"""


def test_without_a_thread_the_next_write_finds_out_that_the_reader_left(store: library.EventStore) -> None:
    process = subprocess.Popen(
        [command()[0], "-c", NO_THREAD, "tail", "-f"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert next_number(process) == 1
        assert process.stdout
        process.stdout.close()
        add(store, 2)
        assert end_of(process) == (0, b"", b"")


def test_head_ends_a_tail(store: library.EventStore) -> None:
    with (
        tail("-f") as process,
        subprocess.Popen(["head", "-n", "1"], stdin=process.stdout, stdout=subprocess.PIPE) as head,
    ):
        assert process.stdout
        process.stdout.close()
        assert head.communicate(timeout=PATIENCE_SECONDS)[0].count(b"\n") == 1
        assert end_of(process) == (0, b"", b"")


def test_a_reader_that_does_not_read_does_not_hold_up_the_end(store: library.EventStore) -> None:
    store.append("s", [library.NewEvent("T", "x" * 1000) for _ in range(1000)])
    for signum, code in ((signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM)):
        with tail("-f", "-n", "all") as process:
            assert process.stdout
            process.stdout.read(10)  # it writes into a pipe that is full now
            process.send_signal(signum)
            assert process.wait() == code
    with tail("-f", "-n", "all", "--timeout", "0.3") as process:
        assert process.wait() == 8


def test_what_a_reader_has_not_taken_is_not_taken_for_done(store: library.EventStore) -> None:
    store.append("s", [library.NewEvent("T", "x" * 1000) for _ in range(1000)])
    with tail("-f", "--name", "a") as process:
        assert process.stdout
        begun = process.stdout.read(10)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        whole = (begun + process.stdout.read()).count(b"\n")
    assert store.subscription("a").position <= whole < 1001


def test_a_run_that_was_killed_frees_its_name_and_repeats_little(store: library.EventStore) -> None:
    with tail("-f", "--name", "a") as process:
        assert next_number(process) == 1
        process.kill()
        process.wait()
    with tail("-f", "--name", "a") as process:
        assert next_number(process) == 1  # at least once


def test_a_second_run_of_a_name_is_busy(store: library.EventStore) -> None:
    with tail("-f", "--name", "a") as process:
        assert next_number(process) == 1
        result = run_process("tail", "-f", "--name", "a")
        assert (result.code, result.out, result.err.count("\n")) == (6, b"", 1)
        for action in (["reset", "a", "--to", "0"], ["delete", "a"], ["replay", "a", "--exec", "true"]):
            assert run_process("subscriptions", *action).code == 6
        assert run_process("subscriptions", "show", "a").line["running"] is True


# ---- Commands


def test_a_command_writes_to_the_same_places(store: library.EventStore) -> None:
    result = run_process("tail", "--exec", "echo out; echo err >&2")
    assert (result.code, result.out, result.err) == (0, b"out\n", "err\n")


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -1)],
)
def test_a_signal_ends_the_command_and_all_that_it_started(
    store: library.EventStore, signum: int, code: int
) -> None:
    with tail("-f", "--name", "a", "--exec", "sleep 1000 & echo $!; sleep 1000 & echo $!; wait") as process:
        assert process.stdout
        children = [int(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signum)
        assert end_of(process) == (code, b"", b"")
    assert not any(map(is_alive, children))
    assert store.subscription("a").position == 0


def is_alive(pid: int) -> bool:
    """Return whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_command_that_does_not_want_to_end_is_killed_and_impatience_changes_nothing(
    store: library.EventStore,
) -> None:
    with tail(
        "-f", "--exec", "exec 2>/dev/null; trap 'echo told' TERM; echo $$; while :; do sleep 0.1; done"
    ) as process:
        assert process.stdout
        shell = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"told\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert end_of(process) == (-signal.SIGTERM, b"", b"")
        assert not is_alive(shell)


def test_a_command_has_no_more_time_than_the_run(store: library.EventStore) -> None:
    with tail("-f", "--timeout", "1h", "--exec", "echo $$; exec sleep 1000") as process:
        assert process.stdout
        sleeper = int(process.stdout.readline())
        process.send_signal(signal.SIGALRM)  # as the timer does when the time is over
        assert end_of(process)[0] == 8
        assert not is_alive(sleeper)


def test_a_pause_between_tries_ends_at_once(store: library.EventStore) -> None:
    with tail("-f", "--retries", "99", "--exec", "echo $$; exit 1") as process:
        assert process.stdout
        for _ in range(4):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        code, _, errors = end_of(process)
        assert code == -signal.SIGINT, errors


def test_a_signal_interrupts_the_waiting_whichever_thread_is_idle(store: library.EventStore) -> None:
    """The one that watches stdout could get it, and a wait of the main thread would go on."""
    with tail("-f") as process:
        assert process.stdout
        process.stdout.readline()
        threads = [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]
        assert len(threads) > 1
        for thread in threads:
            status = Path(f"/proc/{process.pid}/task/{thread}/status").read_text("ascii")
            blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
            takes = not blocked >> (signal.SIGINT - 1) & 1
            assert takes == (thread == process.pid)
        process.send_signal(signal.SIGINT)
        assert end_of(process)[0] == -signal.SIGINT


def test_a_command_is_ended_by_what_ends_programs(store: library.EventStore) -> None:
    """A shell may ignore SIGPIPE and SIGINT only if it was started so: Python's own settings stay inside."""
    script = "trap; yes | head -n 1; kill -s INT $$; echo not reached"
    result = run_process("tail", "--retries", "0", "--exec", script)
    assert result.out == b"y\n"
    assert "signal SIGINT" in result.err


@pytest.fixture
def gate(here: Path) -> Iterator[int]:
    """A pipe in the file system at which a command can wait: each `read go < gate` takes a line."""
    os.mkfifo("gate")
    gate = os.open("gate", os.O_RDWR)
    yield gate
    os.close(gate)


def test_a_command_does_its_work_though_the_reader_has_left(store: library.EventStore, gate: int) -> None:
    add(store, 2)
    with tail("--name", "a", "--exec", "read go < gate; echo $EVLOG_POSITION >> done") as process:
        assert process.stdout
        process.stdout.close()
        os.write(gate, b"go\ngo\n")
        assert end_of(process) == (0, b"", b"")
    assert Path("done").read_text() == "1\n2\n"
    assert store.subscription("a").position == 2


def test_a_run_with_a_command_waits_on_though_the_reader_has_left(
    store: library.EventStore, gate: int
) -> None:
    with tail("-f", "--exec", "echo $EVLOG_POSITION > gate") as process:
        assert process.stdout
        process.stdout.close()
        for number in (1, 2, 3):
            assert select.select([gate], [], [], PATIENCE_SECONDS)[0]
            assert os.read(gate, 99) == b"%d\n" % number
            add(store, number + 1)
        process.send_signal(signal.SIGTERM)
        assert end_of(process)[0] == -signal.SIGTERM


def test_a_command_that_fails_because_the_reader_left_ends_the_run(
    store: library.EventStore, gate: int
) -> None:
    add(store, 2)
    options = ("--on-failure", "park", "--retries", "2")
    with tail("--name", "a", *options, "--exec", "read go < gate; echo $EVLOG_POSITION") as process:
        assert process.stdout
        process.stdout.close()
        os.write(gate, b"go\ngo\n")
        code, _, err = end_of(process)
    assert code == 1
    assert b"after the reader of stdout had left; fix the command and run again\n" in err
    assert (store.subscription("a").position, store.parked("a")) == (0, [])


def test_a_command_can_append_to_the_store_that_is_followed(here: Path) -> None:
    with library.open("shop", create=True) as store:
        add(store, 1, type="Placed")
        script = f"{' '.join(command('append'))} $EVLOG_STREAM Shipped --expect $EVLOG_VERSION"
        result = run_process("tail", "-s", "shop", "--type", "Placed", "--exec", script)
        assert (result.code, result.line["position"]) == (0, 2)
        assert [event.type for event in store.read_all()] == ["Placed", "Shipped"]


# ---- On a terminal


class Terminal(TerminalSession):
    """A terminal in which `evlog tail` runs."""

    def __init__(self, *arguments: str, columns: int = 120, **changes: str) -> None:
        super().__init__(command("tail", *arguments), environment({"TERM": "xterm", **changes}), columns)

    def read_until(self, text: str) -> list[str]:
        """Return the lines up to and with the one that holds the text."""
        return (self.wait_for(text) + self.wait_for("\n")).removesuffix("\n").split("\n")


def column_of(line: str, text: str) -> int:
    assert text in line
    return line.index(text)


def test_rows_that_come_live_line_up_with_earlier_ones(store: library.EventStore) -> None:
    with Terminal("-f", NO_COLOR="1") as terminal:
        heading, first = terminal.read_until('"n":1}')
        add(store, 100)
        (second,) = terminal.read_until('"n":100}')
        add(store, 101, stream="an-order-of-a-long-name", type="SomethingLonger")
        new_heading, third = terminal.read_until('"n":101}')
        add(store, 102)
        (fourth,) = terminal.read_until('"n":102}')
        assert heading.split() == ["position", "stream", "version", "type", "time", "data"]
        for row in (first, second):
            assert column_of(row, "order-1") == column_of(heading, "stream")
            assert column_of(row, "Seen") == column_of(heading, "type")
            assert column_of(row, '{"n"') == column_of(heading, "data")
        assert column_of(third, '{"n"') == column_of(fourth, '{"n"') == column_of(new_heading, "data")
        assert "\x1b" not in f"{heading}{first}{second}{third}{fourth}"


def test_the_heading_is_there_before_anything_comes(store: library.EventStore) -> None:
    with Terminal("--type", "Paid", "-f", NO_COLOR="1") as terminal:
        heading = terminal.read_until("data")[0]
        assert heading.split() == ["position", "stream", "version", "type", "time", "data"]


def test_a_stream_that_does_not_exist_yet_is_named_to_a_person(store: library.EventStore) -> None:
    with Terminal("order-9", "-f", NO_COLOR="1") as terminal:
        assert terminal.read_until("waiting") == ["evlog: no stream 'order-9' yet; waiting for it"]


def test_colours_are_for_terminals_that_want_them(store: library.EventStore) -> None:
    with Terminal() as terminal:
        assert "\x1b[1morder-1\x1b[0m" in terminal.read_until('"n":1}')[-1]
    with Terminal(NO_COLOR="1") as terminal:
        assert "\x1b" not in terminal.read_until('"n":1}')[-1]
    with Terminal(TERM="dumb") as terminal:
        assert "\x1b" not in terminal.read_until('"n":1}')[-1]


def test_rows_fit_a_terminal_that_changes_its_size(store: library.EventStore) -> None:
    store.append("order-1", [library.NewEvent("Seen", {"n": 2, "text": "x" * 300})])
    with Terminal("-f", columns=100, NO_COLOR="1") as terminal:
        lines = terminal.read_until("…")
        assert max(map(len, lines)) == 100
        for columns in (60, 140):
            terminal.resize(columns)
            store.append("order-1", [library.NewEvent("Seen", {"n": 3, "text": "x" * 300})])
            lines = terminal.read_until("…")
            assert max(map(len, lines)) == columns


def test_ctrl_c_on_a_terminal_leaves_nothing_but_the_rows(store: library.EventStore) -> None:
    with Terminal("-f", NO_COLOR="1") as terminal:
        terminal.read_until('"n":1}')
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == -signal.SIGINT
        assert terminal.shown == ""


def test_what_there_is_to_see_cannot_drive_the_terminal(store: library.EventStore) -> None:
    store.append("a", [library.NewEvent("T", b"\x1b[2J", content_type="text")])
    with Terminal(NO_COLOR="1") as terminal:
        assert "\\x1b[2J" in terminal.read_until("\\x1b[2J")[-1]


@pytest.mark.parametrize("name", [[], ["--name", "n"]])
def test_a_follower_says_that_its_store_was_moved(tmp_path: Path, name: list[str]) -> None:
    path = tmp_path / "store"
    with library.open(path, create=True) as store:
        store.append("s", [library.NewEvent("T", {"n": 1})])
    with tail("-s", str(path), "-n", "1", "-f", *name) as follower:
        assert next_number(follower) == 1
        os.rename(path, tmp_path / "elsewhere")
        code, _, err = end_of(follower)
    assert code == 5
    assert b"was moved or removed while it was open; open it where it is now" in err
    assert b"init" not in err
