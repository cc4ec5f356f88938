"""`evlog subscriptions`: what it tells of durable subscriptions, and what it does to them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evlog as library
from evlog.cli import subscriptions
from evlog.cli._support import console
from tests.cli.conftest import Evlog, start
from tests.support.programs import environment


@pytest.fixture
def filled(evlog: Evlog) -> Evlog:
    """Six events; subscription `all` has scanned four of them, `paid`, with a filter, all of them."""
    with library.open(".evlog", create=True) as store:
        store.append("order-1", [library.NewEvent("Paid" if n % 3 else "Placed", {"n": n}) for n in range(6)])
    assert evlog("tail", "--name", "all", "--count", "4").code == 0
    assert evlog("tail", "order-1", "--name", "paid", "--type", "Paid", "--type", "Lost").code == 0
    return evlog


def test_list_is_what_is_done_when_nothing_is_said(filled: Evlog) -> None:
    first, second = filled("subscriptions").lines
    assert filled("subscriptions", "list").lines[0]["name"] == "all"
    assert list(first) == [
        *("name", "filter", "position", "lag_events", "lag_seconds"),
        *("parked", "running", "saved_time"),
    ]
    assert (first["name"], first["position"], first["lag_events"], first["parked"], first["running"]) == (
        *("all", 4, 2, 0),
        False,
    )
    assert first["filter"] == {"stream": None, "category": None, "types": None}
    assert first["lag_seconds"] >= 0
    assert second["filter"] == {"stream": "order-1", "category": None, "types": ["Lost", "Paid"]}
    assert (second["position"], second["lag_events"], second["lag_seconds"]) == (6, 0, 0)
    assert second["saved_time"] >= filled("read", "-n", "1").line["time"]


def test_no_subscriptions_are_an_empty_list(evlog: Evlog) -> None:
    evlog("init")
    result = evlog("subscriptions")
    assert (result.code, result.out, result.err) == (0, b"", "")


def test_show_is_one_line_of_the_list(filled: Evlog) -> None:
    (shown,), listed = filled("subscriptions", "show", "paid").lines, filled("subscriptions").lines[1]
    assert shown == listed


def test_reset_has_the_next_run_begin_behind_a_position(filled: Evlog) -> None:
    result = filled("subscriptions", "reset", "all", "--to", "1")
    assert (result.code, result.line["position"], result.line["lag_events"]) == (0, 1, 5)
    assert [event["position"] for event in filled("tail", "--name", "all").lines] == [2, 3, 4, 5, 6]


def test_delete_forgets_a_subscription(filled: Evlog) -> None:
    result = filled("subscriptions", "delete", "all")
    assert (result.code, result.out, result.err) == (0, b"", "")
    assert [info["name"] for info in filled("subscriptions").lines] == ["paid"]
    assert len(filled("tail", "--name", "all", "--category", "order").lines) == 6


def test_parked_is_a_line_for_each_event_that_was_put_aside(filled: Evlog) -> None:
    filled("tail", "--name", "all", "--exec", "exit 4", "--on-failure", "park", "--retries", "1")
    first, second = filled("subscriptions", "parked", "all").lines
    event = filled("read", "--from", "5", "--to", "5").line
    assert {name: first[name] for name in ("position", "stream", "version", "type", "id")} == {
        name: event[name] for name in ("position", "stream", "version", "type", "id")
    }
    assert (first["error"], first["attempts"], second["position"]) == ("exit code 4", 1, 6)
    assert first["time"] >= event["time"]


@pytest.mark.parametrize("action", [["show"], ["reset", "--to", "0"], ["delete"], ["parked"], ["replay"]])
def test_a_subscription_that_is_not_there_is_not_found(filled: Evlog, action: list[str]) -> None:
    result = filled("subscriptions", action[0], "none", *action[1:])
    assert (result.code, result.out) == (5, b"")
    assert "no subscription 'none'" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["all"],
        ["list", "all"],
        ["show"],
        ["delete"],
        ["parked"],
        ["replay"],
        ["reset", "all"],
        ["reset", "--to", "1"],
        ["reset", "all", "--to", "-1"],
        ["reset", "all", "--to", "99"],
        ["show", "all", "--to", "1"],
        ["show", "all", "--exec", "true"],
        ["show", "a\nb"],
        ["show", "all", "paid"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_line(filled: Evlog, arguments: list[str]) -> None:
    before = filled("subscriptions").out
    result = filled("subscriptions", *arguments)
    assert (result.code, result.out) == (2, b"")
    assert result.err.startswith("evlog: ")
    assert result.err.count("\n") == 1
    assert positions(filled("subscriptions").out) == positions(before)


def positions(listed: bytes) -> list[int]:
    return [json.loads(line)["position"] for line in listed.splitlines()]


def test_a_terminal_gets_tables_and_words(filled: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    filled("tail", "--name", "all", "--exec", "exit 4", "--on-failure", "park", "--retries", "1")
    monkeypatch.setattr(console, "stdout_is_terminal", lambda: True)
    monkeypatch.setattr(console, "has_colour", lambda: False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _fd: os.terminal_size((120, 24)))
    heading, first, second = filled("subscriptions").out.decode().splitlines()
    assert heading.split() == [
        *("name", "filter", "position", "lag_events", "lag_seconds", "parked", "running")
    ]
    assert first.split() == ["all", "all", "6", "0", "0s", "2", "no"]
    assert second.split() == [
        "paid",
        "order-1",
        "--type",
        "Lost",
        "--type",
        "Paid",
        "6",
        "0",
        "0s",
        "0",
        "no",
    ]
    shown = filled("subscriptions", "show", "paid").out.decode()
    assert "filter       order-1 --type Lost --type Paid\n" in shown
    parked = filled("subscriptions", "parked", "all").out.decode().splitlines()
    assert parked[1].split()[:4] == ["5", "order-1", "5", "Paid"]
    assert parked[1].endswith("exit code 4")
    nothing = filled("subscriptions", "parked", "paid")
    assert (nothing.out, nothing.err) == (b"", "evlog: subscription 'paid' has no parked events\n")


def test_replay_does_not_take_a_look_for_dealing_with_it(
    filled: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled("tail", "--name", "all", "--exec", "exit 4", "--on-failure", "park", "--retries", "1")
    with monkeypatch.context() as patch:
        patch.setattr(console, "stdout_is_terminal", lambda: True)
        result = filled("subscriptions", "replay", "all")
    assert result.code == 0
    assert "2 events stay parked; use --exec COMMAND to handle them" in result.err
    assert len(filled("subscriptions", "parked", "all").lines) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.4, "0s"), (90, "90s"), (120, "2m"), (7199, "120m"), (7200, "2h"), (200_000, "2d")],
)
def test_an_age_is_short(seconds: float, text: str) -> None:
    assert subscriptions._age(seconds) == text


def test_looking_makes_nothing(evlog: Evlog, here: Path) -> None:
    evlog("init")
    before = sorted(path.name for path in (here / ".evlog").rglob("*"))
    evlog("subscriptions")
    evlog("subscriptions", "show", "x")
    evlog("subscriptions", "parked", "x")
    evlog("subscriptions", "delete", "x")
    assert sorted(path.name for path in (here / ".evlog").rglob("*")) == before


@pytest.mark.parametrize("action", subscriptions.SUBCOMMANDS)
def test_each_action_has_its_own_help_with_examples_that_work(filled: Evlog, here: Path, action: str) -> None:
    text = filled("subscriptions", action, "--help").out.decode()
    assert filled("subscriptions", action, "-h").out.decode() == text
    examples = [line.strip() for line in text.splitlines() if line.startswith("    evlog ")]
    assert examples
    assert all(len(line) <= 80 for line in text.splitlines())
    filled("tail", "--name", "audit", "--exec", "exit 1", "--on-failure", "park", "--retries", "1")
    filled("append", "order-1", "Paid")
    filled("tail", "--name", "audit")
    for example in examples:
        done = subprocess.run(
            ["sh", "-ec", example.replace("17", "1").replace("evlog", f"{sys.executable} -m evlog", 1)],
            env=environment(),
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr.count(b"evlog: ")) in {(0, 0), (0, 1)}, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["subscriptions", "-s", "store"],
        ["-s", "store", "subscriptions"],
        ["subscriptions", "-s", "store", "list"],
        ["subscriptions", "list", "-s", "store"],
        ["-s", "nowhere", "subscriptions", "list", "-s", "store"],
    ],
    ids=" ".join,
)
def test_the_store_can_be_named_at_every_place(filled: Evlog, here: Path, arguments: list[str]) -> None:
    (here / ".evlog").rename(here / "store")
    assert [info["name"] for info in filled(*arguments).lines] == ["all", "paid"]
    assert filled("subscriptions").code == 5
    assert filled("subscriptions", "-s", "store", "-s", "store").code == 2


def test_a_slip_names_the_action_that_was_meant(filled: Evlog) -> None:
    result = filled("subscriptions", "shwo")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "did you mean `evlog subscriptions show`?" in result.err
    assert "`evlog subscriptions show --help`" in filled("subscriptions", "show").err


def test_a_damaged_checkpoint_hides_no_other_subscription(filled: Evlog, here: Path) -> None:
    (here / ".evlog" / "subscriptions" / "all.json").write_bytes(b"")
    result = filled("subscriptions")
    assert result.code == 4
    assert [(info["name"], "damage" in info) for info in result.lines] == [("all", True), ("paid", False)]
    assert "reset the subscription to repair it" in result.err
    assert filled("subscriptions", "reset", "all", "--to", "4").code == 0
    assert [info["position"] for info in filled("subscriptions").lines] == [4, 6]


def test_a_checkpoint_that_the_restored_log_does_not_have_is_not_taken_for_done(
    filled: Evlog, here: Path
) -> None:
    assert filled("backup", "copy").code == 0
    filled("append", "order-1", "Paid")
    filled("tail", "--name", "all")
    shutil.copytree(here / ".evlog" / "subscriptions", here / "copy" / "subscriptions", dirs_exist_ok=True)
    for command in (["list"], ["check", "--max-lag", "9"], ["check", "all", "--max-lag", "9"]):
        result = filled("--store", "copy", "subscriptions", *command)
        assert (result.code, "subscription 'all' is at an event (position 7)" in result.err) == (4, True)
    assert filled("--store", "copy", "subscriptions", "show", "all").code == 4
    assert filled("--store", "copy", "subscriptions", "wait", "all").code == 4
    assert filled("--store", "copy", "subscriptions", "reset", "all", "--to", "6").line["position"] == 6
    assert filled("--store", "copy", "subscriptions", "check", "--max-lag", "0").code == 0


def test_the_filter_is_remembered_with_the_name(filled: Evlog) -> None:
    filled("append", "order-1", "Paid")
    filled("append", "order-2", "Paid")
    again = filled("tail", "--name", "paid")
    assert again.code == 0
    assert [event["stream"] for event in again.lines] == ["order-1"]
    assert filled("tail", "--name", "paid", "--type", "Other").code == 2


def park_all(evlog: Evlog) -> list[int]:
    evlog("subscriptions", "reset", "all", "--to", "0")
    evlog("tail", "--name", "all", "--exec", "exit 4", "--on-failure", "park", "--retries", "1")
    return [event["position"] for event in evlog("subscriptions", "parked", "all").lines]


def test_parked_events_are_replayed_and_dropped_by_position(filled: Evlog, here: Path) -> None:
    first, second, third, *rest = park_all(filled)
    replayed = filled("subscriptions", "replay", "all", str(second), "--exec", "cat >> out")
    assert replayed.code == 0
    assert json.loads((here / "out").read_text())["position"] == second
    assert [event["position"] for event in filled("subscriptions", "replay", "all", str(third)).lines] == [
        third
    ]
    dropped = filled("subscriptions", "drop", "all", str(first), str(third))
    assert (dropped.code, dropped.line["parked"]) == (0, len(rest))
    for action in (["drop"], ["replay"], ["replay", "--exec", "true"]):
        gone = filled("subscriptions", action[0], "all", str(first), *action[1:])
        assert (gone.code, gone.out) == (2, b"")
        assert f"at position {first}" in gone.err
    assert filled("subscriptions", "drop", "all").code == 2


@pytest.mark.parametrize(
    ("limits", "code", "told"),
    [
        (["--max-lag", "99", "--max-parked", "99"], 0, ""),
        (["--max-lag", "1"], 11, "subscription 'all' is 2 behind (at most 1 allowed)"),
        (["all", "--max-lag", "1"], 11, "subscription 'all' is 2 behind"),
        (["paid", "--max-lag", "1"], 0, ""),
        (["--max-parked", "0"], 11, "subscription 'all' has 6 parked (at most 0 allowed)"),
        (["nothing", "--max-lag", "1"], 5, "nothing"),
        ([], 2, "give --max-lag N, --max-parked N or both"),
    ],
)
def test_check_says_in_its_exit_code_what_is_behind(
    filled: Evlog, limits: list[str], code: int, told: str
) -> None:
    park_all(filled)
    filled("append", "order-1", "Paid")
    filled("append", "order-1", "Paid")
    filled("tail", "--name", "paid")
    result = filled("subscriptions", "check", *limits)
    assert result.code == code
    assert told in result.err
    assert (result.out == b"") == (code in {2, 5})


def test_wait_ends_when_the_subscription_has_come_there(filled: Evlog, here: Path) -> None:
    assert filled("subscriptions", "wait", "paid").line["position"] == 6
    assert filled("subscriptions", "wait", "nothing").code == 5
    assert filled("subscriptions", "wait", "paid", "--timeout", "0").code == 0
    for timeout in ("0", "0.01"):
        late = filled("subscriptions", "wait", "paid", "--position", "7", "--timeout", timeout)
        assert (late.code, late.out) == (8, b"")
        assert "is at position 6, not yet at 7" in late.err
    with start("subscriptions", "wait", "paid", "--position", "7") as waiting:
        filled("append", "order-1", "Paid")
        filled("tail", "--name", "paid")
        out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, err) == (0, b"")
    assert json.loads(out)["position"] == 7


def test_shards_share_a_name(evlog: Evlog) -> None:
    for number in range(6):
        evlog("append", f"order-{number}", "T", str(number))
    parts = [evlog("tail", "--name", "n", "--shard", f"{k}/3").lines for k in (1, 2, 3)]
    assert sorted(event["data"] for part in parts for event in part) == list(range(6))
    assert [line["name"] for line in evlog("subscriptions").lines] == ["n#1/3", "n#2/3", "n#3/3"]
    evlog("append", "order-1", "T", "6")  # a stream of n#2/3
    evlog("tail", "--name", "n", "--shard", "2/3")
    refused = evlog("tail", "--name", "n", "--shard", "1/2")
    assert refused.code == 3
    assert "n#1/3 is at 6, n#2/3 is at 7, n#3/3 is at 6; run each of them to" in refused.err
    assert "for example to 7" in refused.err
    assert evlog("subscriptions", "show", "n").line["lag_events"] == 1
    assert evlog("subscriptions", "check", "n", "--max-lag", "0").code == 11
    assert evlog("subscriptions", "wait", "n", "--timeout", "0.1").code == 8
    assert evlog("subscriptions", "delete", "n").code == 0
    assert evlog("subscriptions").lines == []


@pytest.mark.parametrize(
    "shard", ["", "1", "1/", "/3", "0/3", "4/3", "a/b", "-1/3", "1/3/3", "²/3", "1/" + "9" * 5000]
)
def test_a_shard_is_one_of_n(evlog: Evlog, shard: str) -> None:
    evlog("append", "s", "T")
    assert evlog("tail", "--name", "n", f"--shard={shard}").code == 2
    assert evlog("tail", "--shard", "1/3").code == 2
    assert evlog("subscriptions").lines == []
