"""Every way out of evlog: exit codes, errors, closed pipes, Ctrl-C; and what a call must not cost."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

import evlog as library
from evlog import errors
from evlog.cli import app
from evlog.cli._support.commands import COMMANDS
from evlog.files.disk.file_lock import FileLock
from tests.cli.conftest import NO_BYTECODE, Evlog, as_lines, command, run_process, start
from tests.support.helpers import flip_bit
from tests.support.programs import environment, run_python

EXAMPLE = re.compile(r"    (evlog|date|echo|seq) ")
EXAMPLE_ID = "019ac5d0-3b1c-7c3e-9a55-0123456789ab"  # as the examples in help have it
ID = "2f0a7d0c-6a39-4b55-8a6e-0d3a2f1b9c11"


def nothing() -> None:
    """Prepare nothing: the store has one event as it is."""


def damage_the_event() -> None:
    (log,) = Path("x/segments").glob("*.log")
    flip_bit(log, b"payload")


def make_it_newer() -> None:
    path = Path("x/manifest.json")
    body = path.read_bytes().rpartition(b',"crc32"')[0].replace(b'"format":1', b'"format":99')
    path.write_bytes(body + b',"crc32":"%08x"}\n' % crc32(body))


def fill_the_disk() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))


@pytest.mark.parametrize(
    ("code", "arguments", "prepare", "error"),
    [
        (0, ["append", "s", "T"], nothing, None),
        (0, ["append", "s", "T", '"payload"', "--id", ID], nothing, None),
        (2, ["append", "s", "T", "{"], nothing, "InvalidEvent"),
        (2, ["append", "$s", "T"], nothing, "InvalidStreamName"),
        (2, ["read", "--no-such-option"], nothing, "InvalidArgument"),
        (2, ["no-such-command"], nothing, "InvalidArgument"),
        (3, ["append", "s", "T", "--expect", "none"], nothing, "WrongExpectedVersion"),
        (4, ["read"], damage_the_event, "CorruptionError"),
        (5, ["read", "nothing"], nothing, "StreamNotFound"),
        (5, ["read", "--store", "nothing"], nothing, "StoreNotFound"),
        (5, ["append", "--store", "/dev/null", "s", "T"], nothing, "NotAStore"),
        (7, ["append", "s", "T", "{}", "--id", ID], nothing, "IdConflict"),
        (10, ["read"], make_it_newer, "UnsupportedFormat"),
        (10, ["append", "s", "T"], make_it_newer, "UnsupportedFormat"),
        (10, ["init"], make_it_newer, "UnsupportedFormat"),
    ],
)
def test_every_end_has_its_exit_code_and_one_line(
    evlog: Evlog,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    arguments: list[str],
    prepare: Callable[[], None],
    error: str | None,
) -> None:
    evlog("append", "--store", "x", "s", "T", '"payload"', "--id", ID)
    prepare()
    monkeypatch.setenv("EVLOG_STORE", "x")
    result = evlog(*arguments)
    assert result.code == code
    if error is None:
        assert result.err == ""
        return
    assert result.out == b""
    assert result.err.startswith("evlog: ")
    assert result.err.count("\n") == 1
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    found = json.loads(evlog(*arguments).err)
    assert found["error"] == error
    assert f"evlog: {found['message']}\n" == result.err


def test_a_lock_that_is_not_free_in_time_is_busy(evlog: Evlog, here: Path) -> None:
    evlog("append", "s", "T")
    before = evlog("read").out
    with (here / ".evlog" / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = evlog("append", "s", "T", "--lock-timeout", "0")
        assert evlog("read").out == before
    assert result.code == 6
    assert "was locked by another writer" in result.err
    assert evlog("append", "s", "T", "--lock-timeout", "0").code == 0
    assert evlog("append", "s", "T", "--lock-timeout", "1m30s").code == 0


def test_a_full_disk_is_full_and_the_store_goes_on_afterwards(here: Path) -> None:
    assert run_process("append", "s", "T").code == 0
    result = run_process(
        "append", "s", "T", json.dumps("x" * 1000), env=NO_BYTECODE, preexec_fn=fill_the_disk
    )
    assert (result.code, result.out) == (9, b"")
    assert result.err.startswith("evlog: no space to write")
    assert result.err.count("\n") == 1
    assert run_process("append", "s", "T").line["position"] == 2


def test_an_error_has_its_attributes_as_json(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    evlog("append", "-s", "x", "s", "T")
    found = json.loads(evlog("append", "-s", "x", "s", "T", "--expect", "3").err)
    assert list(found) == ["error", "message", "stream", "expected", "actual"]
    assert (found["stream"], found["expected"], found["actual"]) == ("s", 3, 1)


def test_notes_are_json_where_errors_are(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    assert json.loads(evlog("append", "s", "T").err) == {"note": "created the store ./.evlog"}


def test_every_exit_code_of_the_contract_has_a_class() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {value.exit_code for value in classes if issubclass(value, errors.EvlogError)}
    assert codes == {1, 2, 3, 4, 5, 6, 7, 9, 10, 12}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            ZeroDivisionError("by zero"),
            "(ZeroDivisionError: by zero); please report this as a bug, unless `evlog verify` finds damage",
        ),
        (OSError(5, "Input/output error", "there"), "Input/output error: there; check it and try again"),
        (RecursionError("deep"), "failed unexpectedly (RecursionError"),
        (MemoryError(), "out of memory; raise the limit"),
        (RuntimeError("can't start new thread"), "cannot start a thread; raise the limit"),
        (
            ImportError("libx.so: no such file", name="x.lib"),
            "cannot load x.lib (libx.so: no such file); install",
        ),
        (ImportError("no name", name="evlog.x"), "failed unexpectedly (ImportError"),
    ],
)
def test_what_nobody_foresaw_is_one_line_too(
    evlog: Evlog, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    def fail(_arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(app, "_invoke", fail)
    result = evlog("read")
    assert result.code == 1
    assert text in result.err
    assert result.err.count("\n") == 1


def test_no_message_can_break_its_line(evlog: Evlog) -> None:
    result = evlog("read", "a\nb\x1b[31m", "--store", "no\nwhere")
    assert result.err.count("\n") == 1
    assert "\x1b" not in result.err


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["read", "--type"], "evlog read"),
        (["append", "s", "T", "--meta"], "evlog append"),
        (["tail", "--name"], "evlog tail"),
        (["read", "--no-such"], "evlog read"),
        (["read", "a", "b"], "evlog read"),
        (["delete"], "evlog delete"),
        (["subscriptions", "show"], "evlog subscriptions show"),
        (["--store"], "evlog"),
    ],
)
def test_a_usage_error_names_the_help_of_its_command(
    evlog: Evlog, arguments: list[str], command: str
) -> None:
    result = evlog(*arguments)
    assert result.code == 2
    assert f"; `{command} --help` shows how it is used" in result.err


def test_evlog_alone_and_help_name_every_command(evlog: Evlog) -> None:
    alone, asked = evlog(), evlog("--help")
    assert alone.code == asked.code == 0
    assert alone.out == asked.out
    lines = [line.split(maxsplit=1) for line in alone.out.decode().splitlines() if line.startswith("  ")]
    assert [line for line in lines if line[0] in COMMANDS] == [[*each] for each in COMMANDS.items()]


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
def test_help_shows_examples_that_work(evlog: Evlog, here: Path, arguments: list[str]) -> None:
    text = evlog(*arguments, "--help").out.decode()
    examples = [line.strip() for line in text.split("Options:")[0].splitlines() if EXAMPLE.match(line)]
    assert 2 <= len(examples) <= 8
    assert all(len(line) <= 80 for line in text.splitlines())
    if arguments not in ([], ["append"]):  # these begin with an empty store, the others with something to see
        for store in (".evlog", "orders"):
            key = ("--idempotency-key", "payment-7")
            evlog("append", "--store", store, "order-42", "OrderPaid", '{"amount":1}', *key)
        known = [{"stream": "order-42", "type": "OrderPaid", "id": EXAMPLE_ID} | {"data": {"n": 1}}]
        others = [{"stream": "order-42", "type": "OrderPaid", "data": {"n": 1}}] * 20  # 17 is a position
        evlog("append", "--lines", stdin=as_lines([*known, *others]))
    (here / "evlog").write_text(f'#!/bin/sh\nexec {sys.executable} -m evlog "$@"\n')
    (here / "evlog").chmod(0o755)
    for name in ("sales.py", "send"):
        (here / name).write_text("#!/bin/sh\ncat > /dev/null\necho 0\n")
        (here / name).chmod(0o755)
    (here / "report.sql").write_text("select count(*) from events")
    (here / "paid.schema.json").write_text('{"type":"object"}')
    script = "\n".join(["set -e -o pipefail", *examples]).replace("/var/lib", str(here))
    # A server runs until it is stopped, with exit code 124 of timeout: its other exit codes are failures.
    script = re.sub(
        r"^(evlog .*--no-browser)$", r"timeout 3 \1 || [ $? -eq 124 ]", script, flags=re.MULTILINE
    )
    script = script.replace("17200", "1")  # a position that the store has
    done = subprocess.run(
        ["bash", "-c", script],
        env=environment({"PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_packages(evlog: Evlog) -> None:
    assert evlog("--version").out.decode() == f"evlog {library.__version__}\n"


def test_python_m_evlog_is_evlog(here: Path) -> None:
    result = run_process("--version")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(b"evlog ")


IMPORTS = """
import sys
sys.argv = ["evlog", *sys.argv[1:]]
from evlog.cli import app
code = app.run(sys.argv[1:])
found = {"rich", "msgspec", "filelock", "csv", "hashlib", "dataclasses"} & set(sys.modules)
if "typer" in sys.modules:  # it imports traceback, which from Python 3.14 on imports dataclasses
    found.discard("dataclasses")
print(code, sorted(found), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["append", "s", "T", '{"a":1}', "--meta", "a=b"],
        ["info"],
        ["streams"],
        ["tail", "-f", "--count", "1"],
        ["subscriptions"],
    ],
)
def test_a_small_command_imports_nothing_dear(here: Path, arguments: list[str]) -> None:
    run_process("append", "s", "T")
    assert run_python("-c", IMPORTS, *arguments).stderr == "0 []\n"


def test_one_command_does_not_import_the_others(here: Path) -> None:
    script = IMPORTS + "print(sorted(name for name in sys.modules if name.startswith('evlog.cli.')))"
    run_process("append", "s", "T")
    done = run_python("-c", script, "info")
    commands = {f"evlog.cli.{name}" for name in COMMANDS}
    assert commands & set(eval(done.stdout.splitlines()[-1])) == {"evlog.cli.info"}


@pytest.fixture
def large(here: Path) -> Path:
    """A store whose events are more than a pipe takes."""
    with library.open("x", create=True) as store:
        for _ in range(3):
            store.append("s", [library.NewEvent("T", "x" * 1000) for _ in range(500)])
    return here


@pytest.mark.parametrize(
    "arguments", [["read"], ["read", "-o", "csv"], ["read", "-o", "pretty"], ["read", "-o", "table"]]
)
def test_a_closed_pipe_ends_a_command_quietly(large: Path, arguments: list[str]) -> None:
    with start(*arguments, "-s", "x") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "arguments", [["read"], ["streams"], ["info"], ["--help"], ["read", "--help"], ["--version"], []]
)
def test_a_pipe_that_is_closed_from_the_start_is_not_an_error(large: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            command(*arguments),
            env=environment({"EVLOG_STORE": "x"}),
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["read"], ["info"], ["streams"], ["--help"], ["append", "s", "T"]])
def test_output_that_cannot_be_written_is_an_error(large: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            command(*arguments),
            env=environment({"EVLOG_STORE": "x"}),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert result.returncode == 1
    assert b"No space left on device" in result.stderr
    assert result.stderr.count(b"\n") == 1
    assert (b"the event is appended, at position 1501" in result.stderr) == (arguments[0] == "append")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_streams_do_no_harm(here: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for fd in closed:
            os.close(fd)

    subprocess.run(command("append", "s", "T", '"one"'), env=environment(), check=True, preexec_fn=close)
    lines = subprocess.run(
        command("append", "--lines", "s", "T"),
        env=environment(),
        stdin=subprocess.DEVNULL,
        check=False,
        preexec_fn=close,
    )
    assert lines.returncode == (2 if 0 in closed else 0)  # no input is more often a mistake than an empty one
    with library.open(".evlog") as store:
        assert [event.data for event in store.read_all()] == [b'"one"']


def test_a_command_needs_no_device(here: Path) -> None:
    """There may be none in a directory that `chroot` was given."""
    script = "import os, sys; os.devnull = '/nothing'; from evlog.cli.app import main; main()"
    run_python("-c", script, "append", "s", "T")
    assert '"stream":"s"' in run_python("-c", script, "read").stdout


def test_ctrl_c_ends_a_command_with_130_and_no_word(large: Path) -> None:
    with start("read", "-s", "x") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)  # it is writing now, into a pipe that takes no more
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        assert process.wait(30) in {0, -signal.SIGINT}
        assert process.stderr.read() == b""


INITIALIZE = (
    '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},'
    '"clientInfo":{"name":"n","version":"1"}}}'
)


@pytest.mark.parametrize(
    ("line", "request_line"),
    [("append --lines s T --ack", "{}"), ("mcp", INITIALIZE), ("tail -f", None)],
    ids=["append", "mcp", "tail"],
)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_first_process_of_a_container_ends_by_a_signal(
    here: Path, line: str, request_line: str | None, signum: int
) -> None:
    """For that process the kernel drops every signal whose action is the default one."""
    alone = ["unshare", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no process namespace can be made here")
    with library.open(".evlog", create=True) as store:
        store.append("s", [library.NewEvent("T")])
    pipe = subprocess.PIPE
    arguments = [*alone, *command(*line.split())]
    with subprocess.Popen(arguments, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if request_line is not None:
            process.stdin.write(f"{request_line}\n".encode())
            process.stdin.flush()
        assert process.stdout.readline().startswith(b"{")
        (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(pid), signum)
        try:
            assert process.wait(30) == 128 + signum
        finally:
            process.kill()


def test_an_interrupt_is_130(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    evlog("append", "s", "T")
    monkeypatch.setattr(library.EventStore, "read_all", interrupt)
    result = evlog("read")
    assert (result.code, result.err) == (130, "")


def test_no_locale_changes_the_bytes(here: Path) -> None:
    env = {"LC_ALL": "C", "LANG": "C"}
    text = json.dumps("ü☃", ensure_ascii=False)
    assert run_process("append", "größe-1", "T", text, env=env).code == 0
    result = run_process("read", "größe-1", env=env)
    assert '"stream":"größe-1"'.encode() in result.out
    assert text.encode() in result.out
    assert run_process("append", "s", "T", "@größe", env=env).err.count("\n") == 1


def test_arguments_that_are_not_unicode_are_a_usage_error(here: Path) -> None:
    for arguments in (
        [b"\xff", b"T"],
        [b"s", b"\xff"],
        [b"s", b"T", b'"\xff"'],
        [b"s", b"T", b"{}", b"--meta", b"a=\xff"],
    ):
        done = subprocess.run(
            [*map(os.fsencode, command("append")), *arguments],
            env=environment(),
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.count(b"\n") == 1


def test_a_path_that_is_not_unicode_is_a_path(here: Path) -> None:
    store = os.fsencode(here) + b"/\xff"
    for arguments, note in (([b"append", b"s", b"T"], b"created the store"), ([b"info"], b"")):
        done = subprocess.run(
            [*map(os.fsencode, command("-s")), store, *arguments],
            env=environment(),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0
        assert note in done.stderr
        assert json.loads(done.stdout)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_long_wait_for_the_lock_is_a_note_of_one_line(
    evlog: Evlog, here: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    store = here / "a\nstore"
    library.open(store, create=True).close()
    monkeypatch.setenv("EVLOG_ERRORS", form)
    monkeypatch.setattr("evlog.files.disk.file_lock._REPORT_SECONDS", 0.05)
    with FileLock(str(store / "lock"), 0):
        result = evlog("append", "a", "T", "--store", str(store), "--lock-timeout", "0.3")
    note, error = result.err.splitlines()
    if form == "json":
        note, error = json.loads(note)["note"], json.loads(error)["message"]
        assert note.startswith(f"waiting for the lock {store}/lock, held by ")
    else:
        assert note.startswith(f"evlog: waiting for the lock {here}/a store/lock, held by ")
    assert "lock" in error
