"""Stores on a server: how a command finds the URL, what it prints of it, and how it fails."""

from __future__ import annotations

import itertools
import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from tests.cli.conftest import Evlog

NUMBERS = itertools.count()


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a store that is not there yet, of an engine that is installed."""
    point = EntryPoint("memory", "tests.support.memory_engine:open_engine", "evlog.engines")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints([point]))
    return f"memory://cli{next(NUMBERS)}"


def test_a_url_names_a_store_by_an_option_or_a_variable(
    evlog: Evlog, url: str, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    created = evlog("init", "--store", url).line
    assert (created["path"], created["created"]) == (url, True)
    evlog("append", "--store", url, "a", "T", "1")
    monkeypatch.setenv("EVLOG_STORE", url)
    assert [event["data"] for event in evlog("read", "a").lines] == [1]
    assert [event["data"] for event in evlog("tail", "--after", "0").lines] == [1]
    assert evlog("info").line["capabilities"]["engine"] == "memory"
    assert list(here.iterdir()) == []


def test_a_file_names_the_store_of_the_folders_below_it(
    evlog: Evlog, url: str, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    (here / ".evlog").write_text(f"{url}\n")
    assert evlog("init").line["path"] == url
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    assert evlog("append", "a", "T").code == 0
    assert len(evlog("read").lines) == 1
    assert evlog("read", "--store", url).lines == evlog("read").lines


@pytest.mark.parametrize("content", [b"", b"elsewhere", b"\xff://x", b"memory://a\nmemory://b", b"a" * 9999])
def test_a_file_that_holds_no_url_is_not_a_store(evlog: Evlog, here: Path, content: bytes) -> None:
    (here / ".evlog").write_bytes(content)
    for arguments in (("read",), ("append", "a", "T"), ("init",)):
        result = evlog(*arguments)
        assert (result.code, result.err.count("\n")) == (5, 1)
    assert (here / ".evlog").read_bytes() == content


def test_a_command_of_exec_finds_the_same_store(evlog: Evlog, url: str, here: Path) -> None:
    evlog("append", "--store", url, "a", "T")
    evlog("tail", "--store", url, "--after", "0", "--exec", f'printf %s "$EVLOG_STORE" > {here}/seen')
    assert (here / "seen").read_text() == url


def test_verify_of_a_url_refuses_what_is_for_a_directory(evlog: Evlog, url: str, here: Path) -> None:
    evlog("init", "--store", url)
    assert evlog("verify", "--store", url, "--repair").code == 10
    assert evlog("verify", "--store", url, "--salvage", "out").code == 10
    assert list(here.iterdir()) == []


def test_a_store_that_is_not_on_the_server_is_not_waited_for(evlog: Evlog, url: str) -> None:
    assert evlog("tail", "-f", "--store", url).code == 5


def test_an_unknown_scheme_is_a_usage_error_that_names_the_known_ones(evlog: Evlog) -> None:
    result = evlog("read", "--store", "x://u:secret@h")
    assert result.code == 2
    assert "postgresql://" in result.err
    assert "secret" not in result.err


def test_a_server_that_does_not_answer_is_exit_code_12(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    result = evlog("append", "--store", "postgresql://u:secret@127.0.0.1:1/db", "a", "T")
    assert result.code == 12
    error = json.loads(result.err)
    assert error["error"] == "StoreUnreachable"
    assert error["address"] == "postgresql://u@127.0.0.1:1/db"
    assert "secret" not in result.err
