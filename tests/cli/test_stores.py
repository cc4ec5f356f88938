"""init, streams, info, and which store a command finds."""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import pytest

import evlog as library
from tests.cli.conftest import Evlog, command, run_process
from tests.support.programs import environment


def test_init_makes_a_store_here(evlog: Evlog, here: Path) -> None:
    line = evlog("init").line
    assert list(line) == ["path", "id", "created"]
    assert (line["path"], line["created"]) == (".evlog", True)
    assert library.exists(here / ".evlog")
    assert evlog("read").out == b""


def test_init_leaves_a_store_as_it_is_and_says_so(evlog: Evlog) -> None:
    first = evlog("init").line
    evlog("append", "s", "T")
    again = evlog("init", "--segment-events", "5")
    assert again.code == 0
    assert again.line == first | {"created": False}
    assert "the store .evlog exists already" in again.err
    assert len(evlog("read").lines) == 1


def test_init_sets_the_size_of_segments(evlog: Evlog) -> None:
    evlog("init", "--segment-events", "10", "--segment-bytes", "1000000")
    evlog("append", "--lines", "--batch", "5", "s", "T", stdin=b"1\n" * 95)
    assert evlog("info").line["segments"] > 5


@pytest.mark.parametrize(
    "arguments", [["--segment-events", "0"], ["--segment-bytes", "-1"], ["--segment-bytes", "many"], ["x"]]
)
def test_init_refuses_what_cannot_be(evlog: Evlog, here: Path, arguments: list[str]) -> None:
    result = evlog("init", *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert list(here.iterdir()) == []


def test_init_leaves_other_directories_alone(evlog: Evlog, here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "file").write_text("x")
    result = evlog("init", "--store", "mine")
    assert (result.code, result.out) == (5, b"")
    assert [path.name for path in (here / "mine").iterdir()] == ["file"]


@pytest.mark.parametrize("path", ["loop", "loop/store"])
@pytest.mark.parametrize(
    "arguments",
    [["init"], ["append", "s", "T"], ["read"], ["verify"], ["verify", "--repair"], ["backup", "o"]],
)
def test_a_path_whose_links_never_end_is_no_store(evlog: Evlog, arguments: list[str], path: str) -> None:
    Path("loop").symlink_to("loop")
    result = evlog("-s", path, *arguments)
    assert (result.code, result.out) == (5, b"")
    assert f"{path} is not an evlog store: the symbolic links in its path never end" in result.err


def test_streams_are_listed_by_name(evlog: Evlog) -> None:
    for stream in ("b-2", "a-1", "b-1", "a-1", "c"):
        evlog("append", stream, "T")
    lines = evlog("streams").lines
    assert [(line["stream"], line["events"]) for line in lines] == [
        ("a-1", 2),
        ("b-1", 1),
        ("b-2", 1),
        ("c", 1),
    ]
    assert list(lines[0]) == ["stream", "events", "first_version", "last_version", "last_time"]
    assert (lines[0]["first_version"], lines[0]["last_version"]) == (1, 2)
    assert lines[0]["last_time"] == evlog("read", "a-1").lines[-1]["time"]


def test_streams_are_chosen_by_category_or_prefix(evlog: Evlog) -> None:
    for stream in ("order-1", "order-2", "orders", "order"):
        evlog("append", stream, "T")

    def names(*arguments: str) -> list[str]:
        return [line["stream"] for line in evlog("streams", *arguments).lines]

    assert names("--category", "order") == ["order", "order-1", "order-2"]
    assert names("--prefix", "order-") == ["order-1", "order-2"]
    assert names("--prefix", "x") == []


def test_info_is_one_object(evlog: Evlog) -> None:
    evlog("init")
    empty = evlog("info").line
    assert list(empty) == [
        *("path", "id", "format", "events", "streams", "bytes", "segments"),
        *("first_position", "last_position", "first_time", "last_time"),
        *("policies", "deleted_streams", "compressed_segments", "saved_bytes", "clock_ahead_seconds"),
        "capabilities",
    ]
    assert empty["capabilities"]["engine"] == "directory"
    assert "returns when" in empty["capabilities"]["durability"]
    assert (empty["events"], empty["first_position"], empty["last_time"]) == (0, 0, None)
    evlog("append", "a", "T")
    evlog("append", "b", "T")
    info = evlog("info").line
    assert (info["events"], info["streams"], info["first_position"], info["last_position"]) == (2, 2, 1, 2)
    events = evlog("read").lines
    assert (info["first_time"], info["last_time"]) == (events[0]["time"], events[1]["time"])
    assert uuid.UUID(info["id"]) == uuid.UUID(empty["id"])


def test_a_store_without_its_manifest_is_not_to_be_created_again(evlog: Evlog, here: Path) -> None:
    evlog("append", "s", "T")
    (here / ".evlog" / "manifest.json").unlink()
    result = evlog("read", "-s", ".evlog")
    assert (result.code, result.out) == (5, b"")
    assert "evlog init" not in result.err
    assert "it has segments and no manifest.json; run `evlog verify --salvage OUT`" in result.err
    assert evlog("verify", "-s", ".evlog", "--salvage", "rescued").code == 0
    assert evlog("read", "-s", "rescued").line["stream"] == "s"


@pytest.mark.parametrize("command", [["read"], ["append", "s", "T"], ["init"], ["verify"]])
def test_a_manifest_that_was_overwritten_is_damage(evlog: Evlog, here: Path, command: list[str]) -> None:
    evlog("append", "s", "T")
    (here / ".evlog" / "manifest.json").write_text('{"name":"of another program"}')
    result = evlog(*command)
    assert result.code == 4
    assert b"it is not a manifest, though there are segments" in result.out + result.err.encode()
    assert "another directory" not in result.err


@pytest.mark.parametrize("named", ["nowhere", "./nowhere", "/nowhere/at-all"])
def test_a_missing_store_that_the_environment_names_is_called_so(
    evlog: Evlog, here: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("EVLOG_STORE", named)
    assert ", which EVLOG_STORE names; create it with `evlog init`" in evlog("read").err
    assert "EVLOG_STORE" not in evlog("read", "--store", "nowhere").err
    monkeypatch.setenv("EVLOG_STORE", "")
    assert "EVLOG_STORE" not in evlog("read").err


@pytest.mark.parametrize("command", ["read", "streams", "info"])
def test_a_command_that_only_reads_makes_no_store(evlog: Evlog, here: Path, command: str) -> None:
    for arguments in ([command], [command, "--store", "x"]):
        result = evlog(*arguments)
        assert (result.code, result.out) == (5, b"")
        assert "no store at" in result.err
    assert list(here.iterdir()) == []


def where(evlog: Evlog, *arguments: str) -> str:
    """Return the stream that the store has: each store here holds one of its own name."""
    return str(evlog(*arguments, "streams").line["stream"])


@pytest.fixture
def several(evlog: Evlog, here: Path) -> Evlog:
    for name in (".evlog", "named", "from-env"):
        evlog("append", "--store", name, name, "T")
    (here / "a" / "b").mkdir(parents=True)
    return evlog


def test_the_nearest_store_upwards_is_found(
    several: Evlog, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert where(several) == ".evlog"
    monkeypatch.chdir(here / "a" / "b")
    assert where(several) == ".evlog"
    several("append", "--store", "../.evlog", "nearer", "T")
    assert where(several) == "nearer"


def test_append_finds_the_nearest_store_too(
    several: Evlog, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here / "a")
    assert several("append", ".evlog", "T").line["version"] == 2
    assert not (here / "a" / ".evlog").exists()


def test_the_variable_goes_before_the_nearest(several: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLOG_STORE", "from-env")
    assert where(several) == "from-env"
    monkeypatch.setenv("EVLOG_STORE", "")
    assert where(several) == ".evlog"


def test_the_option_goes_before_the_variable(several: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLOG_STORE", "from-env")
    assert where(several, "--store", "named") == "named"
    assert where(several, "-s", "named") == "named"


def test_the_option_may_stand_before_or_after_the_commands_name(several: Evlog) -> None:
    assert several("streams", "--store", "named").line["stream"] == "named"
    assert several("-s", "from-env", "streams", "-s", "named").line["stream"] == "named"


def test_the_variable_names_the_store_that_append_makes(
    evlog: Evlog, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVLOG_STORE", str(here / "new"))
    assert evlog("append", "s", "T").err == f"evlog: created the store {here}/new\n"
    assert [path.name for path in here.iterdir()] == ["new"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
@pytest.mark.parametrize("name", ["append", "read", "info", "tail"])
@pytest.mark.parametrize("is_link", [False, True])
def test_a_store_of_another_user_is_used_only_if_it_is_named(
    evlog: Evlog, here: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_link: bool
) -> None:
    evlog("append", "--store", ".evlog", "bait", "T")
    if is_link:
        (here / ".evlog").rename(here / "elsewhere")
        (here / ".evlog").symlink_to("elsewhere")
        os.lchown(here / ".evlog", 65534, 65534)
    else:
        os.chown(here / ".evlog", 65534, 65534)
    (here / "below").mkdir()
    arguments = [name, "secret", "T"] if name == "append" else [name]
    for folder in (here / "below", here):
        monkeypatch.chdir(folder)
        result = evlog(*arguments)
        assert (result.code, result.out) == (1, b"")
        assert "--store or EVLOG_STORE" in result.err
        assert "another user" in result.err
    assert [event["stream"] for event in evlog("read", "-s", ".evlog").lines] == ["bait"]
    monkeypatch.setenv("EVLOG_STORE", str(here / ".evlog"))
    assert evlog(*arguments).code == 0


@pytest.mark.parametrize(
    "arguments", [["read"], ["append", "s", "T"], ["info", "-s", "x"], ["init", "-s", "x"]]
)
def test_a_removed_current_directory_is_not_found(here: Path, arguments: list[str]) -> None:
    folder = here / "removed"
    folder.mkdir()
    script = 'cd removed && rmdir ../removed && exec "$@"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *command(*arguments)],
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (5, b"")
    assert b"the current directory was removed" in done.stderr
    named = [*arguments[:1], "-s", str(here / "x"), *(arguments[1:] if arguments[0] == "append" else [])]
    run_process("init", "-s", "x")
    folder.mkdir()
    done = subprocess.run(
        ["bash", "-c", script, "bash", *command(*named)], env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0
