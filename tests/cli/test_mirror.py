"""`evlog mirror`: results, refusals, signals, and the bar on a terminal."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import evlog as library
from evlog.model.history import HistoryPiece, Standing
from tests.cli.conftest import Evlog, command, start
from tests.support.programs import environment
from tests.support.terminal import TerminalSession


@pytest.fixture(autouse=True)
def source(here: Path) -> Path:
    """A store of three events in the current directory."""
    with library.open("source", create=True) as store:
        store.append("a-1", [library.NewEvent("T", n) for n in range(3)])
    return here / "source"


def answer(result: Any) -> dict[str, Any]:
    assert result.code == 0, result.err
    (line,) = result.out.splitlines()
    return dict(json.loads(line))


def test_the_result_is_one_line_of_json(evlog: Evlog) -> None:
    done = answer(evlog("mirror", "source", "copy"))
    assert list(done) == [
        *("source", "destination", "position", "events", "duplicates", "removed", "lost"),
        *("subscriptions", "moved"),
    ]
    assert (done["position"], done["events"], done["moved"]) == (3, 3, False)
    assert done["destination"] == os.path.abspath("copy")
    assert answer(evlog("mirror", "source", "copy"))["events"] == 0
    assert evlog("read", "-s", "copy").out == evlog("read", "-s", "source").out
    found = answer(evlog("mirror", "source", "copy", "--check"))
    assert (found["ok"], found["events"], found["behind"], found["difference"]) == (True, 3, 0, None)


def test_a_dry_run_writes_nothing(evlog: Evlog, here: Path) -> None:
    plan = answer(evlog("mirror", "source", "copy", "--dry-run"))
    assert (plan["after"], plan["position"], plan["events"], plan["dry_run"]) == (0, 3, 3, True)
    assert not (here / "copy").exists()
    evlog("mirror", "source", "copy")
    assert answer(evlog("mirror", "source", "copy", "--dry-run"))["events"] == 0


def test_a_difference_is_named_and_is_damage(evlog: Evlog) -> None:
    with library.open("source") as source, library.open("copy", create=True) as copy:
        id = source.engine.store_id
        events = [event for _, event in source.engine.read_frames(0, 3)]
        events[1] = library.Event((*events[1][:7], b"9", None))
        copy.engine.change_standing(Standing(), Standing(mirror_of=id))
        copy.engine.append_history(HistoryPiece(id, 0, 3, events, [1, 1, 1]))
    result = evlog("mirror", "source", "copy", "--check")
    assert result.code == 4
    found = json.loads(result.out)
    assert found["difference"]["position"] == 2
    assert "another data" in found["difference"]["detail"]
    with TerminalSession(command("mirror", "source", "copy", "--check"), environment()) as session:
        assert session.wait() == 4
        assert "different at position 2: event" in session.shown


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["source"], 2, "DESTINATION is missing"),
        (["source", ""], 2, "is empty"),
        (["source", "source"], 2, "the same store"),
        (["nowhere", "copy"], 5, "no store at"),
        (["source", "nowhere", "--check"], 5, "no store at"),
        (["source", "other"], 3, "it holds other events"),
        (["source", "copy", "--check", "--dry-run"], 2, "exclude each other"),
        (["source", "copy", "--follow", "--cutover"], 2, "--cutover"),
        (["source", "copy", "--merge", "--cutover"], 2, "exclude each other"),
        (["source", "copy", "--promote"], 2, "takes one store"),
        (["source", "--promote"], 2, "takes appends already"),
        (["source", "mongodb://x/y"], 2, "unknown scheme"),
    ],
)
def test_what_cannot_be_is_refused(evlog: Evlog, words: list[str], code: int, text: str) -> None:
    evlog("append", "-s", "other", "x", "T")
    before = evlog("read", "-s", "other").out
    result = evlog("mirror", *words)
    assert (result.code, result.out) == (code, b"")
    assert text in result.err
    assert evlog("read", "-s", "other").out == before
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("flags", [["-s", "x"], ["--store=x"], ["--store", "x"]])
def test_a_mirror_takes_no_store_beside_its_two(evlog: Evlog, here: Path, flags: list[str]) -> None:
    evlog("append", "-s", "one", "s", "T")
    for line in ([*flags, "mirror", "one", "two"], ["mirror", "one", "two", *flags]):
        refused = evlog(*line)
        assert (refused.code, refused.out, refused.err.count("\n")) == (2, b"", 1)
    assert "name both stores as arguments" in evlog(*flags, "mirror", "one", "two").err
    assert not (here / "two").exists()


def test_a_merge_appends(evlog: Evlog) -> None:
    evlog("append", "-s", "other", "a-1", "T", "9")
    assert answer(evlog("mirror", "source", "other", "--merge"))["events"] == 3
    assert evlog("read", "-s", "other", "a-1", "-o", "data").out.split() == [b"9", b"0", b"1", b"2"]
    assert answer(evlog("mirror", "source", "other", "--merge", "--check"))["ok"]


def test_a_cutover_names_the_new_address_to_later_writers(evlog: Evlog) -> None:
    assert answer(evlog("mirror", "source", "copy", "--cutover"))["moved"]
    refused = evlog("append", "-s", "source", "a-1", "T")
    assert refused.code == 10
    assert os.path.abspath("copy") in refused.err
    assert json.loads(evlog("info", "-s", "source").out)["moved_to"] == os.path.abspath("copy")
    assert json.loads(evlog("append", "-s", "copy", "a-1", "T").out)["position"] == 4
    assert answer(evlog("mirror", "--promote", "source"))["promoted"]
    assert evlog("append", "-s", "source", "a-1", "T").code == 0


def test_a_mirror_says_what_it_is(evlog: Evlog) -> None:
    evlog("mirror", "source", "copy")
    for words in (["append", "-s", "copy", "x", "T"], ["tail", "-s", "copy", "--name", "n"]):
        refused = evlog(*words)
        assert refused.code == 10
        assert "is a mirror of store" in refused.err
    with library.open("source") as store:
        assert json.loads(evlog("info", "-s", "copy").out)["mirror_of"] == str(store.id)
    assert evlog("mirror", "--promote", "copy").code == 0
    assert evlog("append", "-s", "copy", "x", "T").code == 0


def test_a_file_with_a_url_is_a_store(evlog: Evlog, here: Path) -> None:
    (here / ".evlog").write_text("postgresql://127.0.0.1:1/x\n")
    result = evlog("mirror", ".evlog", "copy")
    assert result.code == 12
    assert not (here / "copy").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_following_ends_cleanly_at_a_signal(here: Path, signum: int) -> None:
    process = start("mirror", "source", "copy", "--follow")
    assert library.wait_for_store(here / "copy", 60)
    with library.open("source") as source, library.open("copy") as copy:
        with copy.subscribe() as run:
            assert [int(run.next_event(60).data) for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
            for n in range(3, 6):
                source.append("a-1", [library.NewEvent("T", n)])
            assert [int(run.next_event(60).data) for _ in range(3)] == [3, 4, 5]  # type: ignore[union-attr]
        process.send_signal(signum)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (-signum, b"")
        assert 3 <= json.loads(out)["events"] <= 6  # the signal may come before the last ones are counted
        with library.Mirror(source, copy) as mirror:  # the lock is free
            assert mirror.copy().events == 0


def test_the_bar_is_gone_before_the_result() -> None:
    with library.open("source") as store:
        for n in range(40):
            store.append("b", [library.NewEvent("T", n)])
    slow = (
        "import time, evlog.transfer.mirrors as m; m.PIECE_EVENTS = 2\n"
        "from evlog.transfer.targets import IdenticalTarget as T; append = T.append\n"
        "T.append = lambda *a: (time.sleep(0.05), append(*a))[1]\n"
        "m.Mirror.__init__.__kwdefaults__['piece_events'] = 2\n"
        "import sys; sys.argv = ['evlog', 'mirror', 'source', 'copy']\n"
        "from evlog.cli.app import main; main()\n"
    )
    env = environment({"TERM": "xterm-256color"})
    with TerminalSession([sys.executable, "-c", slow], env) as session:
        assert session.wait() == 0
        assert " of 43  " in session.shown
        assert session.shown.endswith("\x1b[K43 events copied, up to position 43\n")
