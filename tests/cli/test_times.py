"""`append --lines --time-field`: events get the times that they had elsewhere."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Evlog, as_lines, run_process, start

HISTORY = as_lines(
    [
        {"stream": "a-1", "type": "T", "at": {"time": "2023-01-01T01:00:00.1234567+01:00"}, "id": "k1"},
        {"stream": "a-2", "type": "T", "at": {"time": 1672531201.5}, "id": "k2"},
    ]
)


@pytest.mark.parametrize(
    "shape",
    [
        ["--id-field", "id"],
        ["--stream-field", "stream", "--type-field", "type", "--id-field", "id"],
    ],
)
def test_a_field_of_the_line_is_the_time(evlog: Evlog, shape: list[str]) -> None:
    for appended in (2, 0):
        done = evlog("append", "--lines", *shape, "--time-field", "at.time", stdin=HISTORY)
        assert done.line["appended"] == appended
    assert [event["time"] for event in evlog("read").lines] == [
        "2023-01-01T00:00:00.123456Z",
        "2023-01-01T00:00:01.500000Z",
    ]
    assert len(evlog("read", "--since", "2023-01-01T00:00:01Z").lines) == 1
    assert evlog("append", "a-1", "T").line["version"] == 2


def test_a_copy_by_lines_can_have_the_times_of_its_source(evlog: Evlog) -> None:
    for number in range(3):
        evlog("append", f"s-{number}", "T", str(number), "--tag", "x")
    printed = evlog("read").out
    evlog("--store", "copy", "append", "--lines", "--time-field", "time", stdin=printed)
    assert evlog("--store", "copy", "read").out == printed


def test_events_of_other_producers_keep_their_time(evlog: Evlog) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "T", "subject": "a"}
    lines = as_lines([event | {"time": "2023-01-01T00:00:00Z"}])
    evlog("append", "--lines", "--format", "cloudevents", "--time-field", "time", stdin=lines)
    assert evlog("read").line["time"] == "2023-01-01T00:00:00.000000Z"


def test_times_that_go_back_are_told(evlog: Evlog) -> None:
    lines = as_lines({"stream": "a", "type": "T", "time": seconds} for seconds in (5, 3, 4, 6))
    done = evlog("append", "--lines", "--time-field", "time", stdin=lines)
    assert done.line["appended"] == 4
    assert done.err.endswith("evlog: 2 events were earlier than the event before, and got its time\n")
    assert [event["time"][17:19] for event in evlog("read").lines] == ["05", "05", "05", "06"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("soon", "has no time in `time`; use ISO 8601 or seconds since 1970"),
        ("2023-01-01T00:00:00", "has a time without a zone in `time`; add one, such as Z for UTC"),
        ("2999-01-01T00:00:00Z", "has a time after now in `time`"),
        (1700000000000, "has a time after now in `time`; a number is of seconds since 1970"),
        (-1e9, "has a time before 1970 in `time`"),
        (True, "has no time in `time`"),
        (None, "has null in `time`"),
    ],
)
def test_a_line_without_a_time_is_bad(evlog: Evlog, value: object, reason: str) -> None:
    good = {"stream": "a", "type": "T", "time": 5}
    lines = as_lines([good, good | {"time": value}])
    done = evlog("append", "--lines", "--time-field", "time", stdin=lines)
    assert done.code == 2
    assert f"line 2 {reason}" in done.err
    skipped = evlog("append", "--lines", "--time-field", "time", "--skip-bad", stdin=lines).line
    assert (skipped["appended"], skipped["skipped"]) == (1, 1)


def test_a_number_with_a_huge_exponent_is_bad_at_once(evlog: Evlog) -> None:
    line = b'{"stream":"a","type":"T","time":1e999999999}'
    done = evlog("append", "--lines", "--time-field", "time", stdin=line)
    assert "time" in done.err
    assert done.code == 2


@pytest.mark.parametrize("option", [["--atomic"], ["--text", "a", "T"]])
def test_a_time_needs_lines_with_fields_one_by_one(evlog: Evlog, option: list[str]) -> None:
    done = evlog("append", "--lines", "--time-field", "time", *option, stdin=b"")
    assert done.code == 2


def test_each_line_of_a_pipe_may_have_the_time_at_which_it_comes(here: Path) -> None:
    with start("append", "--lines", "--time-field", "time", "--ack") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for position in (1, 2):  # the second time is after the command has begun, and taken in a line
            process.stdin.write(as_lines([{"stream": "a", "type": "T", "time": time.time()}]))
            process.stdin.flush()
            assert b'"position":%d' % position in process.stdout.readline()
        during = run_process("info").line
        assert (during["importing"], during.get("mirror_of")) == (True, None)
        process.stdin.close()
        assert process.wait(60) == 0
    assert "importing" not in run_process("info").line


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_import_that_a_signal_ends_lets_the_store_take_appends(here: Path, signum: int) -> None:
    with start("append", "--lines", "--time-field", "time", "--ack") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(as_lines([{"stream": "a", "type": "T", "time": 5}]))
        process.stdin.flush()
        assert b'"position":1' in process.stdout.readline()
        refused = run_process("append", "a", "T")
        assert refused.code == 10
        process.send_signal(signum)
        assert process.wait(60) == -signum
        assert b'interrupted; so far {"appended":1,' in process.stderr.read()
    assert run_process("append", "a", "T").code == 0
