from __future__ import annotations

import json
from pathlib import Path

import pytest

import evlog as library
from tests.cli.conftest import Evlog
from tests.support.helpers import flip_bit


@pytest.fixture
def filled(evlog: Evlog) -> Evlog:
    """Seven events: order-1 has versions 1 to 4, order-2 1 and 2, user 1."""
    with library.open(".evlog", create=True) as store:
        for stream, type, data in (
            ("order-1", "Placed", {"n": 1}),
            ("order-2", "Placed", {"n": 2}),
            ("order-1", "Paid", {"n": 3}),
            ("user", "Named", {"n": 4}),
            ("order-1", "Sent", {"n": 5}),
            ("order-2", "Paid", {"n": 6}),
            ("order-1", "Closed", {"n": 7}),
        ):
            store.append(stream, [library.NewEvent(type, data)])
    return evlog


def numbers(evlog: Evlog, *arguments: str) -> list[int]:
    result = evlog("read", *arguments)
    assert (result.code, result.err) == (0, "")
    return [event["data"]["n"] for event in result.lines]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [1, 2, 3, 4, 5, 6, 7]),
        (["order-1"], [1, 3, 5, 7]),
        (["user"], [4]),
        (["--from", "3"], [3, 4, 5, 6, 7]),
        (["--to", "3"], [1, 2, 3]),
        (["--from", "3", "--to", "4"], [3, 4]),
        (["--from", "0"], [1, 2, 3, 4, 5, 6, 7]),
        (["--to", "0"], []),
        (["--after", "5"], [6, 7]),
        (["--after", "0"], [1, 2, 3, 4, 5, 6, 7]),
        (["--after", "99"], []),
        (["order-1", "--from", "2"], [3, 5, 7]),
        (["order-1", "--from", "2", "--to", "3"], [3, 5]),
        (["order-1", "--after", "2"], [5, 7]),
        (["order-1", "--after", "4"], []),
        (["--category", "order"], [1, 2, 3, 5, 6, 7]),
        (["--category", "nothing"], []),
        (["--type", "Paid"], [3, 6]),
        (["--type", "Paid", "--type", "Sent"], [3, 5, 6]),
        (["order-1", "--type", "Paid"], [3]),
        (["--category", "order", "--type", "Placed", "-n", "1"], [1]),
        (["--limit", "2"], [1, 2]),
        (["-n", "0"], []),
        (["-n", "9223372036854775808"], [1, 2, 3, 4, 5, 6, 7]),
        (["-n", "9" * 5000], [1, 2, 3, 4, 5, 6, 7]),
        (["--from", "9223372036854775807"], []),
        (["--after", "9223372036854775808"], []),
        (["--to", "9223372036854775808"], [1, 2, 3, 4, 5, 6, 7]),
        (["order-1", "--from", "9223372036854775808"], []),
        (["order-1", "--after", "9223372036854775807"], []),
        (["order-1", "--to", "9223372036854775808", "-r"], [7, 5, 3, 1]),
        (["--reverse"], [7, 6, 5, 4, 3, 2, 1]),
        (["-r", "-n", "2"], [7, 6]),
        (["order-1", "-r", "-n", "2"], [7, 5]),
        (["--since", "yesterday", "--until", "-1h"], []),
        (["--since", "-1h"], [1, 2, 3, 4, 5, 6, 7]),
        (["order-1", "--since", "-1h", "--until", "2999-01-01"], [1, 3, 5, 7]),
        (["--until", "-1d"], []),
    ],
)
def test_a_selection_gives_these_events(filled: Evlog, arguments: list[str], expected: list[int]) -> None:
    assert numbers(filled, *arguments) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["order-1", "--category", "order"],
        ["--from", "1", "--after", "1"],
        ["--from", "x"],
        ["--from", "-1"],
        ["--limit", "-1"],
        ["--since", "soon"],
        ["--until", ""],
        ["-o", "xml"],
        ["-o", "data", "--fields", "id"],
        ["--fields", "amount"],
        ["--fields", ""],
        ["--fields", "id,id"],
        ["--fields", "data.\udcff"],
        ["--fields", "data.\udcff", "-o", "csv"],
        ["--category", "\udcff"],
        ["--type", "\udcff"],
        ["--since", "\udcff"],
        ["--category", "a", "--category", "b"],
        ["-n", "1", "--limit", "2"],
        ["--since", "6M"],
        [""],
        ["a\udcff"],
        ["a", "b"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_line(filled: Evlog, arguments: list[str]) -> None:
    result = filled("read", *arguments)
    assert (result.code, result.out) == (2, b"")
    assert result.err.startswith("evlog: ")
    assert result.err.count("\n") == 1


def test_a_stream_that_is_not_there_is_not_found(filled: Evlog) -> None:
    for stream in ("order-3", "order", "$system"):
        result = filled("read", stream)
        assert (result.code, result.out) == (5, b"")
        assert f"no stream '{stream}'" in result.err


def test_a_stream_without_events_in_the_selection_is_not_an_error(filled: Evlog) -> None:
    result = filled("read", "order-1", "--type", "Nothing")
    assert (result.code, result.out, result.err) == (0, b"", "")


@pytest.fixture
def mixed(evlog: Evlog) -> Evlog:
    """An event of each content type, with what output forms stumble over."""
    evlog("append", "a-1", "Json", '{"n":1.10,"s":"a,\\"b\\"\\u001b","o":{"x":null}}', "--meta", "user=ann")
    evlog("append", "b-1", "Text", "two\nlines \x1b[31m\u2028ü", "--content-type", "text")
    with library.open(".evlog") as store:
        store.append("c-1", [library.NewEvent("Binary", b"\x00\xff", content_type="binary")])
    return evlog


def test_data_is_the_bytes_and_a_line_break(mixed: Evlog) -> None:
    assert mixed("read", "-o", "data").out == (
        b'{"n":1.10,"s":"a,\\"b\\"\\u001b","o":{"x":null}}\n'
        + "two\nlines \x1b[31m\u2028ü\n".encode()
        + b"\x00\xff\n"
    )


def test_csv_is_read_back_by_a_csv_reader(mixed: Evlog) -> None:
    import csv
    import io

    text = mixed("read", "-o", "csv").out.decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["position"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["data"] == '{"n":1.10,"s":"a,\\"b\\"\\u001b","o":{"x":null}}'
    assert rows[0]["metadata"] == '{"user":"ann"}'
    assert rows[1]["data"] == "two\nlines \x1b[31m\u2028ü"
    assert (rows[2]["content_type"], rows[2]["data"]) == ("binary", "AP8=")
    assert list(rows[0]) == [
        *("position", "stream", "version", "id", "type"),
        *("time", "content_type", "data", "metadata", "tags", "redacted"),
    ]


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (["state", "--at", "9223372036854775808"], "'9223372036854775808'"),
        (["append", "s", "T", "--after", "9" * 5000], "'" + "9" * 59 + "…" + "9" * 9 + "'"),
        (["append", "s", "T", "-e", "9" * 30], "'" + "9" * 30 + "'"),
        (["init", "--segment-bytes", "9" * 30], "'" + "9" * 30 + "'"),
    ],
)
def test_a_number_beyond_every_position_is_refused_where_it_is_not_a_bound(
    evlog: Evlog, arguments: list[str], number: str
) -> None:
    result = evlog(*arguments)
    assert result.code == 2
    assert result.err == f"evlog: the number {number} is too large; use at most 9223372036854775807\n"


def test_csv_and_fields_tell_a_redacted_event(mixed: Evlog) -> None:
    mixed("append", "order-9", "T", "{}", "--tag", "a:b")
    mixed("redact", "1", "4", "--reason", "erasure")
    rows = mixed("read", "--to", "4", "-o", "csv", "--fields", "position,tags,redacted").out
    assert rows == b"position,tags,redacted\n1,,true\n2,,false\n3,,false\n4,,true\n"
    lines = mixed("read", "--to", "2", "--fields", "redacted").lines
    assert lines == [{"redacted": True}, {"redacted": False}]


def test_csv_quotes_a_bare_carriage_return(evlog: Evlog) -> None:
    evlog("append", "s", "T", '{"a":"x\\ry"}')
    evlog("append", "s", "T", '{"a":""}')
    assert evlog("read", "-o", "csv", "--fields", "data.a").out == b'data.a\n"x\ry"\n""\n'


def test_csv_without_events_is_its_heading(mixed: Evlog) -> None:
    assert mixed("read", "-o", "csv", "--fields", "id,data.n", "-n", "0").out == b"id,data.n\n"


def test_fields_are_an_object_with_just_these(mixed: Evlog) -> None:
    result = mixed("read", "--fields", "version,data.n,data.o,metadata.user,data")
    first, second, third = result.lines
    assert list(first) == ["version", "data.n", "data.o", "metadata.user", "data"]
    assert b'{"version":1,"data.n":1.10,"data.o":{"x":null},"metadata.user":"ann","data":{' in result.out
    assert second == {
        "version": 1,
        "data.n": None,
        "data.o": None,
        "metadata.user": None,
        "data": "two\nlines \x1b[31m\u2028ü",
    }
    assert third["data_base64"] == "AP8="


@pytest.mark.parametrize("form", ["pretty", "table"])
@pytest.mark.parametrize("fields", [[], ["--fields", "stream,data,metadata"]])
def test_what_is_for_eyes_obeys_no_control_character(mixed: Evlog, form: str, fields: list[str]) -> None:
    text = mixed("read", "-o", form, *fields).out.decode()
    assert "\x1b" not in text
    assert "\u2028" not in text
    assert "\\x1b[31m" in text
    assert "1.10" in text


def test_pretty_is_a_paragraph_for_each_event(mixed: Evlog) -> None:
    paragraphs = mixed("read", "-o", "pretty").out.decode().rstrip().split("\n\n")
    assert [paragraph.split("  ")[:3] for paragraph in paragraphs] == [
        ["1", "a-1", "version 1"],
        ["2", "b-1", "version 1"],
        ["3", "c-1", "version 1"],
    ]
    assert '      "n": 1.10,' in paragraphs[0]
    assert '      "user": "ann"' in paragraphs[0]
    assert "    two\n    lines" in paragraphs[1]
    assert "    2 bytes: 00 ff" in paragraphs[2]


def test_pretty_with_fields_is_a_name_and_a_value_a_line(mixed: Evlog) -> None:
    assert (
        mixed("read", "-n", "1", "-o", "pretty", "--fields", "type,data.n").out
        == b"type: Json\ndata.n: 1.10\n\n"
    )


def test_a_table_in_a_pipe_cuts_nothing(evlog: Evlog) -> None:
    long = "x" * 500
    evlog("append", "stream-1", "T", json.dumps(long))
    heading, row = evlog("read", "-o", "table").out.decode().splitlines()
    assert heading.split() == ["position", "stream", "version", "type", "time", "data"]
    assert long in row
    assert row.index("stream-1") == heading.index("stream")


def test_a_table_keeps_its_columns_over_many_rows(evlog: Evlog) -> None:
    evlog("append", "--lines", "numbers", "Counted", stdin=b"".join(b"%d\n" % n for n in range(1000)))
    lines = evlog("read", "-o", "table").out.decode().splitlines()
    assert len(lines) == 1001
    ends = {len(line) - len(line.split()[-1]) for line in lines[1:]}
    assert len(ends) == 1


def test_deep_json_is_printed_in_every_form(evlog: Evlog) -> None:
    deep = "[" * 900 + "]" * 900
    with library.open(".evlog", create=True) as store:
        store.append("s", [library.NewEvent("T", deep.encode())])
    for form in ("json", "pretty", "table", "data", "csv"):
        result = evlog("read", "-o", form)
        assert result.code == 0
        assert result.out.count(b"[") == 900


def test_reading_many_events_is_reading_all_of_them(evlog: Evlog) -> None:
    evlog("append", "--lines", "numbers", "Counted", stdin=b"".join(b"%d\n" % n for n in range(5000)))
    assert [event["data"] for event in evlog("read").lines] == list(range(5000))
    assert evlog("read", "-o", "data").out == b"".join(b"%d\n" % n for n in range(5000))


@pytest.mark.parametrize(
    ("form", "lines"), [("json", 3), ("data", 3), ("csv", 4), ("table", 4), ("pretty", 3 * 6)]
)
def test_damage_is_reported_after_what_is_whole(filled: Evlog, here: Path, form: str, lines: int) -> None:
    (log,) = (here / ".evlog" / "segments").glob("*.log")
    flip_bit(log, b'{"n":4}', 5)
    result = filled("read", "-o", form)
    assert result.code == 4
    assert result.out.count(b"\n") == lines
    assert "is damaged" in result.err


def test_events_are_selected_by_correlation_metadata_and_pattern(evlog: Evlog) -> None:
    evlog("append", "s", "A", '{"text": "größe 17"}', "--correlation-id", "story", "--meta", "user=ann")
    evlog("append", "t", "B", '{"n": 18}', "--metadata", '{"user": "ben", "n": 3}')
    evlog("append", "t", "C", "--correlation-id", "story")

    def positions(*arguments: str) -> list[int]:
        return [line["position"] for line in evlog(*arguments).lines]

    for command in ("read", "tail"):
        assert positions(command, "--correlation", "story") == [1, 3]
        assert positions(command, "--meta", "user=ben", "--meta", "n=3") == [2]
        assert positions(command, "-g", "1[78]") == [1, 2]
        assert positions(command, "--grep", "größe", "--meta", "user=ann") == [1]
        assert positions(command, "t", "--grep", "ben") == [2]
        assert positions(command, "--correlation", "other") == []
        assert evlog(command, "-g", "(").code == 2
        assert evlog(command, "-g", "").code == 2
        assert evlog(command, "--meta", "user").code == 2
        assert evlog(command, "--meta", "user=a", "--meta", "user=b").code == 2
    assert positions("tail", "-n", "1", "--correlation", "story") == [3]
    assert positions("tail", "--name", "n", "--correlation", "story", "--grep", "story") == [1, 3]
    assert evlog("tail", "--name", "n", "--correlation", "story").code == 2
    table = evlog("subscriptions", "-o", "table").out.decode()
    assert "--grep story --meta $correlationId=story" in table
    assert evlog("state", "--correlation", "story").line["events"] == 2


def test_ages_after_the_last_nanosecond_that_python_counts(
    mixed: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow() -> int:
        raise OverflowError

    seconds = 10_000_000_000.0  # in 2286
    monkeypatch.setattr("time.time_ns", overflow)
    monkeypatch.setattr("time.clock_gettime", lambda _: seconds)
    everything = mixed("read").out
    assert mixed("read", "--until", "now").out == everything
    assert mixed("read", "--since", "-2h").out == b""
    seconds = 1e12
    assert mixed("read").out == everything
    ahead = mixed("read", "--since", "-2h")
    assert (ahead.code, "the system clock is" in ahead.err) == (1, True)


def test_all_times_of_a_command_refer_to_one_present(mixed: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1_000_000_000, 0])
    monkeypatch.setattr("time.time_ns", lambda: next(clock, 0))  # it is set back
    assert mixed("tail", "--since", "now", "--until", "now").code == 0
