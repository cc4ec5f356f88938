"""`evlog tail` where it ends by itself: what it begins with, what it says, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evlog as library
from evlog.cli import tail
from tests.cli.conftest import Evlog, as_lines


@pytest.fixture
def filled(evlog: Evlog) -> Evlog:
    """Positions 1 to 15 hold n 1 to 15: odd ones in order-1, even ones in order-2; every fifth is Paid."""
    with library.open(".evlog", create=True) as store:
        for n in range(1, 16):
            store.append(f"order-{2 - n % 2}", [library.NewEvent("Paid" if n % 5 == 0 else "Seen", {"n": n})])
    return evlog


def numbers(evlog: Evlog, *arguments: str, code: int = 0) -> list[int]:
    result = evlog("tail", *arguments)
    assert result.code == code, result.err
    return [event["data"]["n"] for event in result.lines]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [*range(6, 16)]),
        (["-n", "3"], [13, 14, 15]),
        (["-n", "0"], []),
        (["-n", "all"], [*range(1, 16)]),
        (["-n", "99"], [*range(1, 16)]),
        (["-n", "9" * 30], [*range(1, 16)]),
        (["--after", "9" * 30], []),
        (["order-1"], [1, 3, 5, 7, 9, 11, 13, 15]),
        (["order-1", "-n", "2"], [13, 15]),
        (["--category", "order", "-n", "2"], [14, 15]),
        (["--category", "other"], []),
        (["--type", "Paid"], [5, 10, 15]),
        (["--type", "Paid", "-n", "1"], [15]),
        (["order-2", "--type", "Paid"], [10]),
        (["--after", "2"], [*range(3, 16)]),
        (["--after", "12", "-n", "2"], [14, 15]),
        (["--after", "14", "-n", "5"], [15]),
        (["--after", "15"], []),
        (["--after", "99"], []),
        (["order-1", "--after", "6"], [13, 15]),  # versions here, as in read
        (["order-1", "--after", "6", "-n", "1"], [15]),
        (["order-1", "--after", "99"], []),
        (["--since", "-1h"], [*range(1, 16)]),
        (["--since", "-1h", "-n", "1"], [15]),
        (["--since", "2999-01-01"], []),
        (["--count", "2"], [1, 2]),
        (["--count", "12"], [*range(1, 13)]),
        (["-n", "3", "--count", "2"], [13, 14]),
        (["--until-type", "Paid"], [1, 2, 3, 4, 5]),
        (["order-2", "--until-type", "Paid"], [2, 4, 6, 8, 10]),
        (["--until-type", "Gone", "--until-type", "Paid"], [1, 2, 3, 4, 5]),
        (["--until-type", "Paid", "--until-type", "Gone"], [1, 2, 3, 4, 5]),
        (["--until-type", "Paid", "--until-type", "Seen"], [1]),
        (["--type", "Paid", "--type", "Seen", "--until-type", "Paid"], [1, 2, 3, 4, 5]),
        (["--after", "5", "--until-type", "Paid"], [6, 7, 8, 9, 10]),
        (["--since", "-1h", "--count", "1"], [1]),
        (["-n", "all", "--count", "2"], [1, 2]),
        (["-n", "4", "--until-type", "Paid"], [12, 13, 14, 15]),
        (["-n", "all", "--until-type", "Paid"], [1, 2, 3, 4, 5]),
        (["-n", "all", "--count", "3", "--until-type", "Paid"], [1, 2, 3]),
        (["--timeout", "1h", "-n", "1"], [15]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_a_tail_begins_and_ends_here(filled: Evlog, arguments: list[str], expected: list[int]) -> None:
    assert numbers(filled, *arguments) == expected


def test_the_same_events_come_with_follow_and_no_patience(filled: Evlog) -> None:
    for arguments in (
        [],
        ["order-1", "-n", "2"],
        ["--type", "Paid"],
        ["-n", "0"],
        ["order-1", "--after", "6"],
    ):
        assert numbers(filled, *arguments, "-f", "--idle", "0", code=8) == numbers(filled, *arguments)


def test_what_is_waited_for_in_a_stream_counts_however_old_it_is(evlog: Evlog) -> None:
    evlog("append", "build-1", "Finished", '{"n":1}')
    with library.open(".evlog") as store:
        store.append("build-1", [library.NewEvent("Uploaded", {"n": n}) for n in range(2, 30)])
    assert numbers(evlog, "build-1", "-f", "--until-type", "Finished") == [1]
    assert numbers(evlog, "-f", "--until-type", "Finished") == [1]
    assert numbers(evlog, "build-1", "-f", "--count", "29") == [*range(1, 30)]
    assert (
        len(numbers(evlog, "build-1", "-f", "--until-type", "Finished", "-n", "5", "--idle", "0", code=8))
        == 5
    )


def test_a_line_is_what_read_prints(filled: Evlog) -> None:
    assert filled("tail", "-n", "all").out == filled("read").out


def test_a_stream_that_is_not_there_is_not_found_unless_it_may_come(filled: Evlog) -> None:
    result = filled("tail", "order-3")
    assert (result.code, result.out) == (5, b"")
    assert "no stream 'order-3'" in result.err
    assert filled("tail", "order-3", "-f", "--idle", "0").code == 8


def test_nothing_comes_before_a_moment_that_lies_ahead(
    filled: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "start_position", lambda *_, **__: 0)  # as if all were appended meanwhile
    assert numbers(filled, "-f", "--since", "2999-01-01", "--idle", "0", code=8) == []
    assert len(numbers(filled, "-f", "--since", "-1h", "--idle", "0", code=8)) == 15


def test_what_retention_hides_of_a_stream_is_left_out(filled: Evlog) -> None:
    filled("retain", "order-1", "--max-count", "2")
    for arguments in ([], ["-n", "all"], ["--name", "a"], ["-n", "all", "--after", "3"]):
        assert numbers(filled, "order-1", *arguments) == [13, 15]
    filled("delete", "order-1")
    assert filled("tail", "order-1").code == 5
    assert numbers(filled, "order-1", "-n", "all", "-f", "--idle", "0", code=8) == []


def test_the_stores_own_events_come_only_by_the_name_of_their_stream(filled: Evlog) -> None:
    filled("retain", "order-1", "--max-count", "2")
    assert numbers(filled, "-n", "1") == [15]
    assert filled("tail", "$$order-1").line["type"] == "$metadata"


def test_a_store_that_is_not_there_is_not_found_without_follow(evlog: Evlog) -> None:
    result = evlog("tail", "--store", "nowhere")
    assert (result.code, result.out) == (5, b"")


def test_a_file_is_no_store_and_will_not_become_one(evlog: Evlog, here: Path) -> None:
    (here / "file").touch()
    result = evlog("tail", "-f", "--store", "file")
    assert (result.code, result.out) == (5, b"")
    assert "it is a file" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["order-1", "--category", "order"],
        ["-n", "some"],
        ["-n", "-1"],
        ["-n", ""],
        ["--after", "-1"],
        ["--since", "soon"],
        ["--timeout", "10 years"],
        ["--timeout", "0"],
        ["--timeout", "-5"],
        ["--idle", ""],
        ["--count", "0"],
        ["--type", "Seen", "--until-type", "Paid"],
        ["--type", "Seen", "--until-type", "Seen", "--until-type", "Paid"],
        ["--type", ""],
        ["--until-type", ""],
        ["--exec", ""],
        ["--exec", " \t\n"],
        ["--exec", "true", "--exec", "true"],
        ["--name", "a", "--name", "b"],
        ["--count", "1", "--count", "2"],
        ["-n", "1", "-n", "2"],
        ["--idle", "1", "--idle", "2"],
        ["--retries", "1"],
        ["--on-failure", "park"],
        ["--on-failure", "park", "--exec", "true"],
        ["--on-failure", "panic", "--exec", "true", "--name", "x"],
        ["--name", ""],
        ["--name", "a\nb"],
        ["--name", "x", "--since", "2999-01-01"],
        ["a", "b"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_line(filled: Evlog, arguments: list[str]) -> None:
    result = filled("tail", *arguments)
    assert (result.code, result.out) == (2, b"")
    assert result.err.startswith("evlog: ")
    assert result.err.count("\n") == 1
    assert not filled("subscriptions").out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-f", "--idle", "0"], "--idle 0 ran out; run it again to continue"),
        (
            ["-f", "--idle", "0", "--until-type", "Gone"],
            "--idle 0 ran out before an event of type 'Gone' came; increase --idle, or check the producer",
        ),
        (
            ["-f", "--idle", "0", "--until-type", "Gone", "--until-type", "Lost"],
            "--idle 0 ran out before an event of type 'Gone' or 'Lost' came; ",
        ),
        (["-f", "--idle", "0s", "--count", "99"], "--idle 0s ran out before 99 events came; "),
        (["-f", "--timeout", "1"], "--timeout 1 ran out; "),
        (["--until-type", "Gone"], "an event of type 'Gone' not found; use -f to wait for it"),
    ],
)
def test_time_that_runs_out_is_said_in_one_line(filled: Evlog, arguments: list[str], text: str) -> None:
    result = filled("tail", "-n", "10", *arguments)
    assert result.code == 8
    assert len(result.lines) == 10
    assert result.err.startswith(f"evlog: {text}")
    assert result.err.count("\n") == 1


def test_time_that_runs_out_has_its_attributes(filled: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    found = json.loads(filled("tail", "-f", "--idle", "0", "--until-type", "Gone").err)
    assert found["error"] == "NotInTime"
    assert (found["option"], found["duration"], found["until_types"], found["count"]) == (
        "--idle",
        "0",
        ["Gone"],
        None,
    )


def test_a_name_goes_on_where_it_stopped(filled: Evlog) -> None:
    assert numbers(filled, "--name", "a", "--count", "4") == [1, 2, 3, 4]
    assert numbers(filled, "--name", "a", "--count", "2") == [5, 6]
    assert numbers(filled, "--name", "a", "-n", "2") == [*range(7, 16)]  # -n is for a new one
    assert numbers(filled, "--name", "a") == []
    with library.open(".evlog") as store:
        store.append("order-1", [library.NewEvent("Seen", {"n": 16})])
    assert numbers(filled, "--name", "a", "-f", "--count", "1") == [16]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [*range(1, 16)]),
        (["-n", "2"], [14, 15]),
        (["-n", "0"], []),
        (["--after", "12"], [13, 14, 15]),
        (["order-1", "--after", "6"], [13, 15]),
        (["--since", "-1h"], [*range(1, 16)]),
        (["--until-type", "Paid"], [1, 2, 3, 4, 5]),
        (["--type", "Paid"], [5, 10, 15]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_a_new_name_begins_where_it_is_told(filled: Evlog, arguments: list[str], expected: list[int]) -> None:
    assert numbers(filled, "--name", "a", *arguments) == expected


def test_a_name_keeps_its_filter(filled: Evlog) -> None:
    assert numbers(filled, "--name", "a", "--type", "Paid") == [5, 10, 15]
    result = filled("tail", "--name", "a", "--type", "Seen")
    assert (result.code, result.err.count("\n")) == (2, 1)


def test_a_name_that_is_running_is_busy(filled: Evlog) -> None:
    with library.open(".evlog") as store, store.subscribe("a"):
        result = filled("tail", "--name", "a")
        assert (result.code, result.out) == (6, b"")
        assert result.err.count("\n") == 1
    assert filled("tail", "--name", "a").code == 0


@pytest.mark.parametrize("name", [[], ["--name", "a"]])
@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_damage_is_reported_after_what_is_whole(
    filled: Evlog, here: Path, name: list[str], follow: list[str]
) -> None:
    (log,) = (here / ".evlog" / "segments").glob("*.log")
    whole = log.read_bytes()
    content = bytearray(whole)
    content[content.rindex(b'{"n":8}') + 5] ^= 1
    log.write_bytes(content)
    result = filled("tail", "-n", "all", *name, *follow)
    assert result.code == 4
    assert [event["data"]["n"] for event in result.lines] == [*range(1, 8)]
    assert "is damaged" in result.err
    log.write_bytes(whole)
    assert [info["position"] for info in filled("subscriptions").lines] == ([7] if name else [])


def test_an_event_of_a_fail_type_ends_a_barrier_as_a_failure(evlog: Evlog) -> None:
    for type in ("Done", "Done", "Failed", "Done"):
        evlog("append", "jobs", type)
    barrier = ["tail", "-f", "--timeout", "60", "--fail-type", "Failed"]
    result = evlog(*barrier, "--count", "4")
    assert (result.code, len(result.lines)) == (1, 3)
    assert "Failed came at position 3, in 'jobs'; `evlog show 3` shows it" in result.err
    assert evlog(*barrier, "--count", "2").code == 0
    assert evlog(*barrier).code == 1
    assert evlog("tail", "--fail-type", "Failed").code == 1
    assert evlog("tail", "--fail-type", "Other").code == 0
    left_out = evlog(*barrier, "--type", "Done", "--count", "4")
    assert (left_out.code, left_out.out) == (2, b"")


def test_a_subscription_goes_on_behind_the_event_that_failed_it(evlog: Evlog) -> None:
    for type in ("Done", "Failed", "Done"):
        evlog("append", "jobs", type)
    assert evlog("tail", "--name", "barrier", "--fail-type", "Failed").code == 1
    assert evlog("tail", "--name", "barrier", "--fail-type", "Failed").line["position"] == 3


def test_to_ends_a_run_at_a_position(evlog: Evlog) -> None:
    for number in range(1, 7):
        evlog("append", f"order-{number}", "T" if number % 2 else "U", str(number))

    def tail(*arguments: str) -> list[int]:
        result = evlog("tail", *arguments)
        assert result.code == 0, result.err
        return [event["data"] for event in result.lines]

    assert tail("-f", "--to", "3") == [1, 2, 3]
    assert tail("--to", "5", "-n", "2") == [4, 5]
    assert tail("--to", "5", "-n", "0", "--name", "none") == []
    assert tail("--name", "none") == [6]
    assert tail("--name", "n", "--type", "U", "--after", "2", "--to", "3") == []
    assert tail("--name", "n", "-f", "--to", "5") == [4]
    assert evlog("subscriptions", "show", "n").line["position"] == 5
    assert tail("--name", "n", "--to", "3") == []
    assert tail("--name", "n", "--to", "100") == [6]


def test_to_is_waited_for(evlog: Evlog) -> None:
    evlog("append", "a", "T")
    late = evlog("tail", "-f", "--to", "2", "--idle", "0")
    assert (late.code, late.err) == (
        8,
        "evlog: --idle 0 ran out before position 2 came; increase --idle, or check the producer\n",
    )
    missing = evlog("tail", "--to", "1", "--until-type", "U")
    assert (missing.code, missing.err) == (
        8,
        "evlog: an event of type 'U' not found; use -f, or a later --to or --until\n",
    )
    assert evlog("tail", "-f", "--to", "1", "--until-type", "U").code == 8
    refused = evlog("tail", "a", "--to", "1")
    assert (refused.code, "leave STREAM out" in refused.err) == (2, True)


def test_until_is_a_time_in_the_past(evlog: Evlog) -> None:
    times = (1, 2, 2, 3)
    lines = as_lines({"stream": f"s-{n % 2}", "type": "T", "time": at} for n, at in enumerate(times))
    evlog("append", "--lines", "--time-field", "time", stdin=lines)

    def positions(*options: str) -> list[int]:
        result = evlog("tail", *options)
        assert result.code == 0, result.err
        return [event["position"] for event in result.lines]

    assert positions("--until", "@3") == [1, 2, 3]
    assert positions("--until", "@3", "-n", "1") == [3]
    assert positions("--until", "@3", "-f") == [1, 2, 3]
    assert positions("--until", "@3", "--to", "2") == [1, 2]
    assert positions("s-1", "--until", "@3", "-n", "1") == [2]
    assert positions("--since", "@2", "--until", "@3") == [2, 3]
    assert positions("--until", "@1") == positions("-f", "--until", "@1") == []
    assert positions("--name", "x", "--until", "@2") == [1]
    assert positions("--name", "x") == [2, 3, 4]
    ahead = evlog("tail", "--until", "2999-01-01")
    assert (ahead.code, ahead.out) == (2, b"")
    assert "--until must be in the past; use --timeout" in ahead.err
