from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from evlog import open as open_store
from evlog.files.disk.file_lock import FileLock, SharedLock
from tests.cli.conftest import Evlog, command, on_terminal
from tests.support.helpers import fill, flip_bit, small_store
from tests.support.programs import environment, next_line, start_python
from tests.support.terminal import TerminalSession


@pytest.fixture
def path(memory_path: Path) -> str:
    with small_store(memory_path / "store") as store:
        fill(store, 20)
    return str(memory_path / "store")


def damage(path: str, first_position: int = 1, at: int = -1) -> None:
    log = Path(path, "segments", f"{first_position:020d}.0.log")
    flip_bit(log, at)


def test_a_sound_store_is_exit_code_0_and_a_report(evlog: Evlog, path: str) -> None:
    done = evlog("verify", "-s", path)
    assert done.code == 0
    report = json.loads(done.out)
    assert list(report) == ["ok", "events", "segments", "bytes", "digest", "findings"]
    assert (report["ok"], report["events"], report["segments"], report["findings"]) == (True, 20, 3, [])
    assert evlog("verify", "-s", path, "--against", report["digest"]).code == 0


def test_a_finding_is_exit_code_4_and_says_where(evlog: Evlog, path: str) -> None:
    damage(path)
    done = evlog("verify", "-s", path)
    assert done.code == 4
    assert done.err == ""
    (finding,) = json.loads(done.out)["findings"]
    assert list(finding) == ["kind", "severity", "file", "offset", "position", "detail"]
    assert (finding["kind"], finding["position"]) == ("frame", 8)
    assert finding["file"] == "segments/00000000000000000001.0.log"


@pytest.mark.parametrize("options", [[], ["--quick"], ["--repair"], ["--salvage", "out"]])
def test_a_file_is_no_store(evlog: Evlog, here: Path, options: list[str]) -> None:
    (here / "file").write_bytes(b"content")
    for path, problem in (("file", "it is a file"), ("file/store", "no store at file/store")):
        done = evlog("verify", "-s", path, *options)
        assert done.code == 5
        assert problem in done.err


def test_a_writer_that_keeps_the_lock_is_waited_for_once_without_a_note(
    evlog: Evlog, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    enter = SharedLock.__enter__

    def note(lock: SharedLock) -> bool:
        waited.append(lock._timeout_seconds)
        return enter(lock)

    monkeypatch.setattr("evlog.files.disk.file_lock._REPORT_SECONDS", 0.0)
    monkeypatch.setattr("evlog.files.check.files._LOCK_SECONDS", 0.05)
    monkeypatch.setattr(SharedLock, "__enter__", note)
    with FileLock(f"{path}/lock", 0):
        done = evlog("verify", "-s", path)
    assert (done.code, done.err) == (0, "")
    assert sum(waited) == 0.05


def test_quick_does_not_read_what_is_sealed(evlog: Evlog, path: str) -> None:
    damage(path)
    done = evlog("verify", "-s", path, "--quick")
    assert done.code == 0
    assert json.loads(done.out)["digest"] is None
    os.truncate(f"{path}/segments/00000000000000000001.0.log", 200)
    assert evlog("verify", "-s", path, "--quick").code == 4


def test_another_history_than_the_pinned_one_is_exit_code_4(evlog: Evlog, path: str) -> None:
    done = evlog("verify", "-s", path, "--against", f"5:{'0' * 64}")
    assert done.code == 4
    assert [finding["kind"] for finding in json.loads(done.out)["findings"]] == ["digest"]


def test_repair_says_what_it_did_and_what_is_lost(evlog: Evlog, path: str) -> None:
    Path(path, "segments", "00000000000000000001.0.ids").unlink()
    done = evlog("verify", "-s", path, "--repair")
    assert done.code == 0
    report = json.loads(done.out)
    assert [finding["kind"] for finding in report["repaired"]] == ["missing"]
    assert (report["ok"], report["lost"]) == (True, [])
    damage(path)
    done = evlog("verify", "-s", path, "--repair")
    assert done.code == 4
    (lost,) = json.loads(done.out)["lost"]
    assert (lost["first_position"], lost["events"], lost["streams"]) == (8, 1, {"s-1": [3]})


def test_salvage_copies_what_is_whole_and_lists_the_rest(evlog: Evlog, path: str, memory_path: Path) -> None:
    out = str(memory_path / "out")
    damage(path)
    done = evlog("verify", "-s", path, "--salvage", out)
    assert done.code == 4
    report = json.loads(done.out)
    assert (report["path"], report["events"]) == (out, 19)
    assert [lost["first_position"] for lost in report["lost"]] == [8]
    assert evlog("verify", "-s", out).code == 0
    with open_store(out) as store:
        assert [event.position for event in store.read_all()] == [*range(1, 8), *range(9, 21)]
    done = evlog("verify", "-s", path, "--salvage", out)
    assert done.code == 5
    assert "already" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--against", "5:abc"),
        ("--quick", "--repair"),
        ("--repair", "--salvage", "x"),
        ("--quick", "--against", f"5:{'0' * 64}"),
    ],
)
def test_what_makes_no_sense_is_exit_code_2(evlog: Evlog, path: str, arguments: tuple[str, ...]) -> None:
    assert evlog("verify", "-s", path, *arguments).code == 2


def test_a_store_too_damaged_to_be_opened_is_verified(evlog: Evlog, path: str) -> None:
    Path(path, "manifest.json").write_bytes(b"")
    done = evlog("verify", "-s", path)
    assert done.code == 4
    assert [finding["kind"] for finding in json.loads(done.out)["findings"]] == ["manifest"]
    assert evlog("verify", "-s", path + "x").code == 5


def test_on_a_terminal_it_is_a_report_for_people(path: str) -> None:
    damage(path)
    readable = on_terminal("verify", "-s", path, "--repair", columns=200, code=4, NO_COLOR="1", TERM="dumb")
    assert readable.startswith("damage: frame: segments/00000000000000000001.0.log at offset")
    assert "damaged in 1 place: 19 events in 3 segments" in readable
    assert "lost: 1 event at positions 8 to 8" in readable
    assert "  s-1 version 3" in readable


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("option", [[], ["--quick"], ["--repair"], ["--salvage", "out"], ["--against"]])
def test_a_reader_that_has_left_does_not_hide_the_verdict(
    here: Path, path: str, option: list[str], unbuffered: str
) -> None:
    if option == ["--against"]:
        option = ["--against", f"5:{'0' * 64}"]
    elif option == ["--quick"]:
        os.truncate(f"{path}/segments/00000000000000000001.0.log", 200)
    else:
        damage(path)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command("verify", "-s", path, *option),
            env=environment({"PYTHONUNBUFFERED": unbuffered}),
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (4, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("option", [[], ["--repair"], ["--salvage", "out"]])
def test_the_progress_bar_is_removed_before_the_report(
    here: Path, path: str, option: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys, evlog.cli._support.progress as progress\n"
        "progress._EVERY_SECONDS = 0\n"  # draw it at once, not after a while
        "from evlog.cli.app import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    env = environment({"PYTHONUNBUFFERED": unbuffered, "TERM": "xterm", "NO_COLOR": "1"})
    arguments = [command()[0], "-c", program, "verify", "-s", path, *option]
    with TerminalSession(arguments, env, columns=120) as terminal:
        assert terminal.wait() == 0
    bar, erased, report = terminal.shown.rpartition("\x1b[K")  # the line is erased
    assert erased
    assert "░" in bar or "█" in bar
    assert "░" not in report
    assert "\x1b" not in report
    assert "events" in report


def test_ctrl_c_is_quiet_and_leaves_no_helper(path: str) -> None:
    program = (
        "import evlog.files.check.verify as v, os, sys\n"
        "v._BYTES_FOR_HELPERS = 0\n"
        "v.core_count = lambda: 3\n"
        "check = v._check_across\n"
        "def wait(workers, *_):\n"
        "    print(*[h.process.pid for h in workers._helpers], flush=True)\n"
        "    sys.stdin.read()\n"
        "v._check_across = wait\n"
        "from evlog.cli.app import run\n"
        f"sys.exit(run(['verify', '-s', {path!r}]))\n"
    )
    process = start_python("-c", program, stderr=subprocess.PIPE)
    helpers = [int(pid) for pid in next_line(process).split()]
    assert len(helpers) == 2
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
    for pid in helpers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
