"""Completion: what can follow a line, and the scripts in the shells themselves."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import evlog as library
from evlog.cli._support import complete, names
from evlog.cli._support.commands import COMMANDS
from tests.cli.conftest import Evlog, run_process
from tests.support.programs import environment, run_python
from tests.support.terminal import TerminalSession


@pytest.fixture
def filled(evlog: Evlog) -> Evlog:
    evlog("append", "order-1", "OrderPaid", '{"n":"first"}')
    evlog("append", "user-2", "UserNamed")
    evlog("append", "it's-3", "Odd", '{"n":"odd"}')
    evlog("tail", "--name", "audit", "-n", "all")
    return evlog


def words(evlog: Evlog, *line: str) -> list[str]:
    result = evlog("completion", "words", "--", *line)
    assert (result.code, result.err) == (0, "")
    return [found.partition("\t")[0] for found in result.out.decode().splitlines()]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (["inf"], ["info"]),
        (["--ver"], ["--version"]),
        (["read", "--li"], ["--limit"]),
        (["read", "--limit", "3", "--li"], []),
        (["read", "--type", "a", "--ty"], ["--type"]),
        (["read", ""], ["it's-3", "order-1", "user-2"]),
        (["read", "o"], ["order-1"]),
        (["read", "order-1", ""], []),
        (["read", "-o", "c"], ["csv"]),
        (["read", "--output=c"], ["--output=csv"]),
        (["read", "--output", ""], ["json", "pretty", "table", "data", "csv"]),
        (["read", "--fields", "id,ty"], ["id,type"]),
        (["read", "--type", "User"], ["UserNamed"]),
        (["tail", "--until-type=O"], ["--until-type=Odd", "--until-type=OrderPaid"]),
        (["streams", "--category", ""], ["it's", "order", "user"]),
        (["append", "user-2", "Or"], ["OrderPaid"]),
        (["append", "-e", "n"], ["none"]),
        (["tail", "--name", ""], ["audit"]),
        (["subscriptions", "sh"], ["show"]),
        (["subscriptions", "show", ""], ["audit"]),
        (["subscriptions", "reset", "--t"], ["--to"]),
        (["subscriptions", "--out"], ["--output"]),
        (["help", "conce"], ["concepts"]),
        (["help", "append"], ["append", "append"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["--store", ""], [":files"]),
        (["info", "-s", ""], [":files"]),
        (["-s", "nowhere", "read", ""], []),
        (["read", "-s", "nowhere", ""], []),
        (["read", "--no-such", ""], ["it's-3", "order-1", "user-2"]),
        (["nothing", ""], []),
        (["read", "--", "--"], []),
    ],
)
def test_what_can_follow(filled: Evlog, line: list[str], found: list[str]) -> None:
    assert words(filled, *line) == found


def test_everything_in_the_tables_is_offered(filled: Evlog) -> None:
    assert words(filled, "")[: len(COMMANDS)] == list(COMMANDS)
    from evlog.cli._support.plain import load

    for name in COMMANDS:
        assert words(filled, name, "-")
        for parameter in getattr(load(name), "PARAMETERS", ()):
            if parameter.flags and len(max(parameter.flags, key=len)) > 2:
                assert max(parameter.flags, key=len) in words(filled, name, "--")
            for choice in parameter.choices:
                assert choice in words(filled, name, max(parameter.flags, key=len), "")


@pytest.mark.parametrize(
    ("line", "word", "found"),
    [
        ("evlog read ord", "ord", ["order-1"]),
        ("evlog read 'ord", "ord", ["order-1"]),
        ("evlog read --output=", "", ["json", "pretty", "table", "data", "csv"]),
        ("evlog read --output=c", "c", ["csv"]),
        ("evlog read 'order-1' --lim", "--lim", ["--limit"]),
    ],
)
def test_bash_asks_with_its_whole_line(filled: Evlog, line: str, word: str, found: list[str]) -> None:
    result = filled("completion", "line", "--", line, word)
    assert [text.partition("\t")[0] for text in result.out.decode().splitlines()] == found


def test_very_many_streams_are_shown_by_how_they_go_on(here: Path) -> None:
    with library.open(".evlog", create=True) as store:
        store.append_many(
            [(f"{kind}-{n % 9}-{n}", [library.NewEvent("T")]) for kind in "ab" for n in range(300)]
        )
    assert complete.candidates(["read", ""]) == ["a-", "b-"]
    assert complete.candidates(["read", "a-"]) == [f"a-{n}-" for n in range(9)]
    assert len(complete.candidates(["read", "a-3-"])) == 34 - 1


def test_an_unknown_shell_is_refused(evlog: Evlog) -> None:
    result = evlog("completion", "tcsh")
    assert (result.code, result.out) == (2, b"")
    assert "bash, zsh or fish" in result.err


def test_an_answer_imports_no_typer(tmp_path: Path) -> None:
    """It comes after every press of Tab, and has a fifth of a second."""
    script = (
        "import sys; from evlog.cli import app; app.run(sys.argv[1:]);"
        "print(*{'typer', 'rich', 'msgspec', 'inspect'} & set(sys.modules))"
    )
    with library.open(str(tmp_path / "x"), create=True) as store:
        store.append("s-1", [library.NewEvent("T")])
    line = ["-s", str(tmp_path / "x"), "read", "s"]
    assert run_python("-c", script, "completion", "words", "--", *line).stdout == "s-1\n\n"


# --- in the shells

SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], ". <(evlog completion bash)"),
    "zsh": (["-f", "-i"], "autoload -U compinit && compinit -u -D && . <(evlog completion zsh)"),
    "fish": (["--no-config", "-i"], "evlog completion fish | source"),
}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, filled: Evlog, here: Path) -> Iterator[TerminalSession]:
    """A shell that has loaded the script, at its prompt."""
    name = str(request.param)
    if shutil.which(name) is None:
        if os.environ.get("EVLOG_TEST_SERVERS") or os.environ.get("CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    (here / "bin").mkdir()
    (here / "bin" / "evlog").write_text(f'#!/bin/sh\nexec {sys.executable} -m evlog "$@"\n')
    (here / "bin" / "evlog").chmod(0o755)
    env = environment(
        {"TERM": "xterm", "NO_COLOR": "1", "PS1": "$ ", "HOME": str(here), "EVLOG_PAGER": "cat"}
    )
    env["PATH"] = f"{here / 'bin'}{os.pathsep}{env['PATH']}"
    options, load = SHELLS[name]
    with TerminalSession([name, *options], env, columns=120) as session:
        session.type(f"{load}; echo load''ed\n")
        session.wait_for("loaded")
        yield session


def test_a_shell_completes_streams_and_options(shell: TerminalSession) -> None:
    shell.type("evlog inf\t-o csv --fie\tevents; echo e''nd\n")
    shell.wait_for("events\n3\n")
    shell.wait_for("end\n")
    shell.type("evlog read ord\t-o js\t--fie\tdata.n\n")
    shell.wait_for('{"data.n":"first"}')


def test_a_shell_quotes_what_it_completes(shell: TerminalSession) -> None:
    shell.type("evlog read it\t-o json --fields data.n\n")
    shell.wait_for('{"data.n":"odd"}')


def test_a_shell_completes_files_where_a_file_belongs(shell: TerminalSession, here: Path) -> None:
    shell.type("evlog --store .evl\t\t info -o csv --fields events; echo e''nd\n")
    shell.wait_for("events\n3\n")
    shell.wait_for("end\n")


# --- the names in a large store


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "evlog"


def fill(store: library.EventStore, count: int) -> None:
    store.append_many([(f"{'ab'[n % 2]}-{n}", [library.NewEvent(f"T{n % 3}")]) for n in range(count)])


def test_the_cache_knows_the_names_that_no_time_is_left_for(
    here: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_READ_SECONDS", 0)
    with library.open(".evlog", create=True) as store:
        fill(store, 3000)
        found, is_stale = names.find_names(store)
        assert (found.streams("a-1"), is_stale) == ([], True)
        names.update(store)
        found, is_stale = names.find_names(store)
        assert found.streams() == sorted(f"{'ab'[n % 2]}-{n}" for n in range(3000))
        assert found.streams("a-299") == ["a-2990", "a-2992", "a-2994", "a-2996", "a-2998"]
        assert (found.categories, found.types, is_stale) == ({"a", "b"}, {"T0", "T1", "T2"}, False)
        store.append("ü-1", [library.NewEvent("New")])
        monkeypatch.setattr(names, "_READ_SECONDS", 60)
        found, _ = names.find_names(store)
        assert (found.streams("ü"), "New" in found.types, found.categories) == (
            ["ü-1"],
            True,
            {"a", "b", "ü"},
        )
        names.update(store)
        assert names.find_names(store)[0].streams("ü") == ["ü-1"]
    (kept,) = cache.glob("*.names")
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff\n", b'{"position":99999,"categories":["x"],"types":[]}\nx']
)
def test_a_cache_that_makes_no_sense_is_not_used(here: Path, cache: Path, content: bytes) -> None:
    with library.open(".evlog", create=True) as store:
        fill(store, 3000)
        names.update(store)
        (kept,) = cache.glob("*.names")
        kept.write_bytes(content)
        assert names.find_names(store)[0].streams("x") == []
        names.update(store)
        assert len(names.find_names(store)[0].streams()) == 3000


def test_the_first_tab_has_the_cache_filled(here: Path, cache: Path) -> None:
    with library.open(".evlog", create=True) as store:
        fill(store, 3000)
    done = run_process("completion", "words", "--", "read", "a-1")
    assert (done.code, done.err) == (0, "")
    last_moment = time.monotonic() + 60
    while not list(cache.glob("*.names")):
        assert time.monotonic() < last_moment
        time.sleep(0.01)


def test_without_a_home_there_are_names_all_the_same(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with library.open(".evlog", create=True) as store:
        fill(store, 3)
        names.update(store)
    assert words(evlog, "read", "") == ["a-0", "a-2", "b-1"]
