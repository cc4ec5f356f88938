"""All bytes reach stdout, or the exit code says so, whatever stdout is and however Python buffers it."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import resource
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import evlog as library
from evlog.cli._support import console
from evlog.files.disk import file_lock
from tests.cli.conftest import NO_BYTECODE, Evlog, command, run_process
from tests.support.helpers import flip_bit
from tests.support.programs import environment, run_python

HOSTILE = '{"x":"\\u001b]0;TITLE\\u0007","c1":"\x9b 31m","bidi":"\u202e","emoji":"\U000e0001","tab":\t1}'
RAW = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")


@pytest.fixture(params=[None, "1"], ids=["buffered", "unbuffered"])
def buffering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test twice: as Python is at a desk, and as it is in most container images."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    if request.param is not None:
        monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


pytestmark = pytest.mark.usefixtures("buffering")


@pytest.fixture
def large(here: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A store whose events are more than a pipe takes; their lines."""
    monkeypatch.setenv("EVLOG_STORE", str(here / "x"))
    with library.open("x", create=True) as store:
        store.append("s-1", [library.NewEvent("T", "x" * 1000) for _ in range(400)])
        store.append_many([(f"t-{n}", [library.NewEvent("T")]) for n in range(400)])
    return run_process("read").out


READING = [["read"], ["read", "-o", "csv"], ["read", "-o", "data"], ["streams"], ["tail", "-n", "all"]]


@pytest.mark.parametrize("arguments", READING)
def test_a_file_that_takes_only_a_part_is_an_error(large: bytes, here: Path, arguments: list[str]) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    with (here / "out").open("wb") as out:
        done = subprocess.run(
            command(*arguments),
            env=environment(NO_BYTECODE),
            stdout=out,
            stderr=subprocess.PIPE,
            preexec_fn=limit,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"evlog: cannot write the output: File too large")
    assert (here / "out").stat().st_size == 20_000


@pytest.mark.parametrize("arguments", READING)
def test_a_non_blocking_pipe_gets_all_bytes(large: bytes, arguments: list[str]) -> None:
    expected = run_process(*arguments).out
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = subprocess.Popen(command(*arguments), env=environment(), stdout=writing)
    os.close(writing)
    while select.select([], [], [], 0)[0]:
        pass
    found = b""
    with open(reading, "rb") as pipe:
        while piece := pipe.read(1000):
            found += piece
    assert process.wait(30) == 0
    assert found == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["read"],
        ["streams"],
        ["info"],
        ["tail"],
        ["retain", "s-1"],
        ["compact", "--dry-run"],
        ["mcp"],
        ["--help"],
    ],
)
def test_a_closed_stdout_is_an_error(large: bytes, arguments: list[str]) -> None:
    done = subprocess.run(
        command(*arguments),
        env=environment(),
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.close(1),
        check=False,
    )
    assert done.returncode == 1
    assert b"cannot write the output: it is closed" in done.stderr


CHANGES = (
    ("init -s new", "the store is created"),
    ("init", "the store exists"),
    ("append s-1 T", "the event is appended, at position"),
    ("append --lines s-1 T", "1 event is appended"),
    ("transact s-1 --exec 'cat line'", "the decision is appended"),
    ("retain s-1 --max-count 1", "the rule is set"),
    ("redact 1 --reason test", "the events are redacted"),
    ("schema set T schema.json", "the schema is set"),
    ("subscriptions reset sub --to 1", "the subscription is reset"),
    ("subscriptions drop sub 2", "the events are dropped"),
    ("subscriptions wait sub --position 1", "the subscription has passed the position"),
    ("subscriptions check --max-lag 9", "the subscriptions are checked"),
    ("export out.csv", "the file is written"),
    ("fork forked", "the store is made"),
    ("backup copied", "the backup is made"),
    ("mirror .evlog mirrored", "the events are copied"),
    ("mirror .evlog mirrored --check", "the stores are the same"),
    ("verify", "no damage is found"),
    ("verify --repair", "the repair is done"),
    ("verify --salvage salvaged", "the copy is made"),
    ("delete s-1", "the stream is deleted"),
    ("compact --force", "the compaction is done"),
)


@pytest.mark.parametrize(("line", "done"), CHANGES, ids=[line for line, _ in CHANGES])
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "full"])
def test_a_change_is_a_success_without_stdout_and_is_named_when_the_output_fails(
    evlog: Evlog, here: Path, monkeypatch: pytest.MonkeyPatch, line: str, done: str, closed: bool
) -> None:
    from evlog.cli import app

    for number in (1, 2, 3):
        evlog("append", "s-1", "T", str(number))
    evlog("tail", "--name", "sub", "--exec", "false", "--retries", "1", "--on-failure", "park")
    evlog("mirror", ".evlog", "mirrored")
    (here / "schema.json").write_text("{}")
    (here / "line").write_text('{"type":"T","data":{}}')
    errors = io.BytesIO()
    with (
        monkeypatch.context() as patch,
        (here / "line").open() as stdin,
        open("/dev/full", "w", encoding="utf-8") as stdout,
    ):
        patch.setattr(sys, "stdin", stdin)
        patch.setattr(sys, "stdout", None if closed else stdout)
        patch.setattr(sys, "stderr", io.TextIOWrapper(errors, write_through=True))
        patch.setattr(file_lock, "say", file_lock.say)  # restored: the library logs
        code = app.run(shlex.split(line))
        message = errors.getvalue().decode()
    assert code == (0 if closed else 1), message
    assert ("cannot write the output" in message) is not closed
    assert (f"No space left on device (but {done}" in message) is not closed


def damage(path: Path, place: bytes) -> None:
    (log,) = (path / "segments").glob("*.log")
    flip_bit(log, place, 5)


def gone_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("padding", [0, 40_000], ids=["small", "larger than the buffer"])
def test_a_reader_that_left_does_not_hide_damage(here: Path, padding: int) -> None:
    with library.open("x", create=True) as store:
        for n in range(5):
            store.append("s", [library.NewEvent("T", {"n": n, "padding": "x" * padding})])
    damage(here / "x", b'{"n":3,')
    for arguments in (["read"], ["read", "-o", "csv"], ["read", "-o", "table"]):
        writing = gone_reader()
        done = subprocess.run(
            command(*arguments, "-s", "x"),
            env=environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.close(writing)
        assert done.returncode == 4


def test_a_verdict_outlives_the_output(monkeypatch: pytest.MonkeyPatch, evlog: Evlog) -> None:
    from evlog.cli import app

    for error, code in (
        (console.ClosedPipe(), 4),
        (console.OutputFailed("full"), 4),
        (KeyboardInterrupt(), 130),
    ):

        def find(_arguments: list[str], error: BaseException = error) -> int:
            console.set_verdict(4)
            raise error

        monkeypatch.setattr(app, "_invoke", find)
        assert evlog("verify").code == code
    monkeypatch.undo()
    assert evlog("--version").code == 0


@pytest.mark.parametrize("arguments", [["--ack"], ["--ack", "--batch", "1"]])
def test_acknowledgements_that_nobody_reads_are_no_success(here: Path, arguments: list[str]) -> None:
    for lines in (b"1\n", b"1\n2\n3\n"):
        writing = gone_reader()
        done = subprocess.run(
            command("append", "-s", "x", "--lines", *arguments, "s", "T"),
            env=environment(),
            input=lines,
            stdout=writing,
            check=False,
        )
        os.close(writing)
        assert done.returncode == 1


def test_a_summary_that_nobody_reads_is_a_success(here: Path) -> None:
    writing = gone_reader()
    done = subprocess.run(
        command("append", "-s", "x", "--lines", "s", "T"),
        env=environment(),
        input=b"1\n",
        stdout=writing,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0


@pytest.mark.parametrize("arguments", [["s", "T", "-", "--content-type", "text"], ["--lines", "s", "T"]])
def test_a_non_blocking_stdin_is_read_to_its_end(here: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.write(writing, b'"first half, ')
    process = subprocess.Popen(
        command("append", "-s", "x", *arguments), env=environment(), stdin=reading, stdout=subprocess.PIPE
    )
    wait_until_it_reads(process.pid)
    os.write(writing, b'second half"')
    os.close(writing)
    os.close(reading)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert run_process("read", "-s", "x", "-o", "data").out == b'"first half, second half"\n'


def wait_until_it_reads(pid: int) -> None:
    """Wait until the process waits in select: it has taken what the pipe had, and wants more."""
    path = Path(f"/proc/{pid}/syscall")
    numbers = {"23", "270", "72"}  # select and pselect6, on x86 and on ARM
    try:
        while path.read_text().split()[0] not in numbers:
            pass
    except OSError:
        pytest.skip("needs /proc/PID/syscall")


class Screen:
    """What a command prints on a terminal."""

    def __init__(self, *arguments: str, columns: int = 80, env: dict[str, str] | None = None) -> None:
        pid, fd = pty.fork()
        if pid == 0:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
            line = command(*arguments)
            os.execve(line[0], line, environment({"TERM": "xterm", **(env or {})}))
        self.bytes = b""
        try:
            while piece := os.read(fd, 4096):
                self.bytes += piece
        except OSError:
            pass  # the end, as Linux tells it
        os.close(fd)
        self.code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.text = re.sub(r"\x1b\[[0-9;]*m", "", self.bytes.decode().replace("\r\n", "\n"))


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_sentence_about_the_store_is_not_broken_within_a_word(here: Path, columns: int) -> None:
    library.open(".evlog", create=True).close()
    *_, end = Screen("info", columns=columns, env={"NO_COLOR": "1"}).text.split("capabilities")
    lines = end.splitlines()
    assert all(len(line) <= columns for line in lines[1:])
    with library.open(".evlog") as store:
        words = f"directory: {store.capabilities.durability}".split()
    assert end.split() == words
    assert {len(line) - len(line.lstrip()) for line in lines[1:]} == {21}


@pytest.fixture
def hostile(here: Path) -> Path:
    with library.open("x", create=True) as store:
        store.append("a-\u202e1", [library.NewEvent("T\u202e", HOSTILE.encode())])
        store.append("b-1", [library.NewEvent("T", "red \x1b[31m\x9b\x07\r", content_type="text")])
        store.append("c-1", [library.NewEvent("T", b"\x1b[2J\xff\x9b", content_type="binary")])
        store.set_retention("a-\u202e1", max_count=5)
    return here


@pytest.mark.parametrize(
    ("arguments", "errors"),
    [
        *((["read", "-o", form], "") for form in ("json", "csv", "data", "table", "pretty")),
        (["read", "-o", "json", "--fields", "stream,data"], ""),
        (["read", "-o", "csv", "--fields", "stream,data.c1"], ""),
        (["streams"], ""),
        (["retain"], ""),
        (["tail"], ""),
        (["tail", "a-\u202e1"], ""),
        (["compact", "--dry-run"], ""),
        *((["read", "no-\u202estream"], errors) for errors in ("", "json")),
        *((["read", "--fields", "\x1b[31m\u202e"], errors) for errors in ("", "json")),
        (["no\x1b[31mcommand"], "json"),
    ],
)
def test_no_control_character_of_others_reaches_a_terminal(
    hostile: Path, arguments: list[str], errors: str
) -> None:
    screen = Screen("-s", "x", *arguments, columns=200, env={"EVLOG_ERRORS": errors})
    assert screen.text
    assert RAW.search(screen.text.replace("\t", "")) is None


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f469\u200d\U0001f4bb \u2764\ufe0f\u200d\U0001f525",
        "\u0645\u06cc\u200c\u062e\u0648",
        "क्\u200dष",
        "1\u202f000\u00a0€",
        "東\u3000京",
    ],
)
def test_emoji_and_scripts_are_shown_as_they_are(here: Path, text: str) -> None:
    with library.open("x", create=True) as store:
        store.append("s", [library.NewEvent("T", text)])
    for form in ("json", "pretty"):
        assert text in Screen("-s", "x", "read", "-o", form, columns=200).text


@pytest.mark.parametrize(
    "text", ["a\u200db", "é\u200d", "\u200dé", "é\u200d\u200dé", "é\u200da", "é\u200bé", "é\u2066é"]
)
def test_what_only_hides_in_a_text_is_escaped(text: str) -> None:
    assert all(char.isprintable() for char in console.printable(text))


def test_json_on_a_terminal_is_still_the_same_json(hostile: Path) -> None:
    lines = Screen("-s", "x", "read", "-o", "json", columns=200).text.splitlines()
    assert [json.loads(line) for line in lines] == run_process("read", "-s", "x").lines


def test_a_pipe_gets_the_bytes_as_they_are(hostile: Path) -> None:
    out = run_process("read", "-s", "x", "-o", "data").out
    assert out == HOSTILE.encode() + b"\nred \x1b[31m\xc2\x9b\x07\r\n" + b"\x1b[2J\xff\x9b\n"
    assert "\u202e".encode() in run_process("streams", "-s", "x").out


@pytest.mark.parametrize("arguments", [["read"], ["tail"], ["streams"], ["read", "a-1"], ["retain"]])
def test_a_terminal_that_reports_no_width_shows_a_table(here: Path, arguments: list[str]) -> None:
    with library.open("x", create=True) as store:
        store.append("a-1", [library.NewEvent("T", {"n": 1})])
        store.set_retention("a-1", max_count=5)
    screen = Screen("-s", "x", *arguments, columns=0)
    assert (screen.code, "unexpectedly" in screen.text) == (0, False)
    heading, row = screen.text.splitlines()
    assert re.search("stream|position", heading)
    assert "a-1" in row or '{"n":1}' in row


@pytest.mark.parametrize("arguments", [["read"], ["streams"], ["tail"]])
def test_the_time_of_day_fits_80_columns(here: Path, arguments: list[str]) -> None:
    with library.open("x", create=True) as store:
        store.append("order-42", [library.NewEvent("OrderPlacedByCustomer", {"total": 30, "by": "Ann" * 20})])
    row = Screen("-s", "x", *arguments).text.splitlines()[1]
    assert re.search(r"\d\d:\d\d:\d\d", row)
    assert len(row) <= 80


@pytest.mark.parametrize("arguments", ["tail -f", "append --lines s T"])
def test_one_ctrl_c_ends_a_shell_loop(here: Path, arguments: str) -> None:
    library.open("x", create=True).close()
    evlog = " ".join(command())
    script = f'for i in 1 2 3; do echo "round $i"; {evlog} -s x {arguments}; done; echo "the end"'
    pid, fd = pty.fork()
    if pid == 0:
        os.execve("/bin/bash", ["bash", "-c", script], environment())
    out = os.read(fd, 4096)
    while b"round 1" not in out:
        out += os.read(fd, 4096)
    wait_for_children_to_wait(pid)
    os.write(fd, b"\x03")
    try:
        while b"round 2" not in out and (piece := os.read(fd, 4096)):
            out += piece
    except OSError:
        pass  # the end, as Linux tells it
    os.close(fd)  # hangs up: the shell ends
    os.waitpid(pid, 0)
    assert (out.count(b"round"), b"the end" in out) == (1, False)


def wait_for_children_to_wait(pid: int) -> None:
    """Wait until the shell's child, evlog, has imported its modules and waits for input or for events."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("needs /proc")
    while not (found := children.read_text().split()):
        pass
    process = Path("/proc") / found[0]
    while "_cmsgpack" not in (process / "maps").read_text():
        pass
    while (process / "stat").read_text().rpartition(")")[2].split()[0] != "S":
        pass


def test_arguments_are_utf8_in_every_locale(here: Path) -> None:
    path = here / "locale"
    path.mkdir()
    made = subprocess.run(
        ["localedef", "-c", "-i", "en_US", "-f", "ISO-8859-1", str(path / "en_US.ISO-8859-1")],
        capture_output=True,
        check=False,
    )
    if not (path / "en_US.ISO-8859-1").exists():
        pytest.skip(f"no such locale can be made: {made.stderr!r}")
    env = {"LOCPATH": str(path), "LC_ALL": "en_US.ISO-8859-1"}
    assert run_process("-s", "größe", "append", "grün-😀", "T", '"ü"', env=env).code == 0
    result = run_process("-s", "größe", "read", "grün-😀", env=env)
    assert (result.line["stream"], result.line["data"]) == ("grün-😀", "ü")
    assert (here / "größe" / "manifest.json").exists()
    assert sys.getfilesystemencoding() == "utf-8"


ORDER = """
import sys
from evlog.cli import app

class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "msgspec":
            print("datetime" in sys.modules, file=sys.stderr)

sys.meta_path.insert(0, Spy())
sys.exit(app.run(sys.argv[1:]))
"""


@pytest.mark.parametrize("arguments", [["verify"], ["backup", "copy"], ["read", "-o", "pretty"]])
def test_an_interrupt_while_msgspec_is_imported_cannot_crash_the_process(
    evlog: Evlog, arguments: list[str]
) -> None:
    """Its C code imports datetime, and goes on without it."""
    evlog("append", "s", "T")
    assert run_python("-c", ORDER, *arguments).stderr == "True\n"


INTERRUPTED = """
import os, signal, sys

class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == INTERRUPTED:
            os.kill(os.getpid(), signal.SIGINT)

INTERRUPTED = sys.argv.pop(1)
sys.meta_path.insert(0, Spy())
from evlog.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["errors", "cli", "cli.app", "cli._support.plain", "store", "cli.info"])
def test_ctrl_c_while_a_command_is_imported_is_quiet(evlog: Evlog, module: str) -> None:
    evlog("append", "s", "T")
    done = run_python("-c", INTERRUPTED, f"evlog.{module}", "info", code=-signal.SIGINT)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_background_command_ignores_ctrl_c_while_it_is_imported(evlog: Evlog) -> None:
    evlog("append", "s", "T")
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + INTERRUPTED
    assert run_python("-c", ignoring, "evlog.errors", "info").stderr == ""
