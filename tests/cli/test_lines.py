from __future__ import annotations

import bz2
import gzip
import json
import lzma
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import zstandard

import evlog as library
from evlog.cli import lines as module
from evlog.cli._support import stdin as stdin_module
from evlog.cli._support.console import count_of
from tests.cli.conftest import NO_BYTECODE, Evlog, as_lines, run_process, start

ID = "2f0a7d0c-6a39-4b55-8a6e-0d3a2f1b9c11"


def own(count: int, **changes: Any) -> bytes:
    return as_lines(
        {"stream": f"s-{n % 3}", "type": "T", "data": {"n": n}} | changes for n in range(1, count + 1)
    )


def test_lines_that_were_read_go_in_as_they_are(evlog: Evlog) -> None:
    evlog("append", "a-1", "T", '{"n" : 1.10}', "--meta", "user=ann")
    evlog("append", "a-2", "Noted", "text\n\x1b", "--content-type", "text")
    evlog("append", "a-1", "Blob", "ü", "--content-type", "binary")
    printed = evlog("read")
    result = evlog("--store", "copy", "append", "--lines", stdin=printed.out)
    assert result.line == {
        "appended": 3,
        "duplicates": 0,
        "skipped": 0,
        "first_position": 1,
        "last_position": 3,
    }
    copy = evlog("--store", "copy", "read").lines
    assert [event | {"time": ""} for event in copy] == [event | {"time": ""} for event in printed.lines]


def test_a_second_import_adds_only_what_is_new(evlog: Evlog) -> None:
    evlog("append", "s", "T", "1")
    printed = evlog("read").out
    evlog("append", "s", "T", "2")
    both = evlog("read").out
    evlog("--store", "copy", "append", "--lines", stdin=printed)
    summary = evlog("--store", "copy", "append", "--lines", stdin=both).line
    assert (summary["appended"], summary["duplicates"]) == (1, 1)
    assert (summary["first_position"], summary["last_position"]) == (2, 2)


def test_no_lines_are_nothing(evlog: Evlog) -> None:
    summary = evlog("append", "--lines", stdin=b"\n \n\r\n").line
    assert summary == {
        "appended": 0,
        "duplicates": 0,
        "skipped": 0,
        "first_position": None,
        "last_position": None,
    }


def test_any_lines_go_in_with_stream_and_type(evlog: Evlog) -> None:
    assert evlog("append", "--lines", "numbers", "Counted", stdin=b"1\n2\n3").line["appended"] == 3
    assert evlog("read", "numbers", "-o", "data").out == b"1\n2\n3\n"


def test_the_one_argument_beside_a_stream_field_is_the_type(evlog: Evlog) -> None:
    evlog("append", "--lines", "--stream-field", "host-{.host}", "Seen", stdin=b'{"host":"a"}\n')
    event = evlog("read").line
    assert (event["stream"], event["type"], event["data"]) == ("host-a", "Seen", {"host": "a"})


def test_all_fields_together(evlog: Evlog) -> None:
    line = b'{"at":{"host":"a","kind":"up"},"key":17,"body":{"n":1.10}}\n'
    options = [
        "--stream-field",
        "at.host",
        "--type-field",
        "at.kind",
        "--id-field",
        "key",
        "--data-field",
        "body",
    ]
    evlog("append", "--lines", *options, "--meta", "from=test", stdin=line * 2)
    event = evlog("read").line
    assert (event["stream"], event["type"]) == ("a", "up")
    assert event["metadata"] == {"$idempotencyKey": "17", "from": "test"}
    assert event["id"] == str(library.idempotency_id("17"))
    assert b'"data":{"n":1.10}' in evlog("read").out


def test_a_byte_order_mark_and_dos_line_ends_are_no_part_of_the_lines(evlog: Evlog) -> None:
    evlog("append", "--lines", "s", "T", stdin=b'\xef\xbb\xbf{"a":1}\r\n{"a":2}\r\n\r\n')
    assert evlog("read", "-o", "data").out == b'{"a":1}\n{"a":2}\n'


def test_frames_hold_as_many_events_as_batch_says(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    append = library.EventStore.append_encoded

    def counting(store: Any, streams: Any, events: Any, **options: Any) -> Any:
        sizes.append(len(events))
        return append(store, streams, events, **options)

    monkeypatch.setattr(library.EventStore, "append_encoded", counting)
    evlog("append", "--lines", "--batch", "4", stdin=own(10))
    evlog("append", "--lines", stdin=own(2001))
    evlog("append", "--lines", "--atomic", stdin=own(2001))
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    monkeypatch.setattr(stdin_module, "_READ_BYTES", 160)
    evlog("append", "--lines", stdin=own(5, data="x" * 30))
    assert sizes == [4, 4, 2, 1000, 1000, 1, 2001, 2, 2, 1]


def test_acknowledgements_are_result_lines_and_no_summary(evlog: Evlog) -> None:
    lines = evlog("append", "--lines", "--ack", "--batch", "2", stdin=own(3)).lines
    assert [(line["stream"], line["version"], line["position"]) for line in lines] == [
        ("s-1", 1, 1),
        ("s-2", 1, 2),
        ("s-0", 1, 3),
    ]


BAD = b'{"stream":"s","type":"T"}\n\n{"stream":"s","type":"T"}\nnonsense\n{"stream":"s","type":"T"}\n'


def test_a_bad_line_stops_the_import_after_the_lines_before_it(evlog: Evlog) -> None:
    result = evlog("append", "--lines", stdin=BAD)
    assert (result.code, result.out) == (2, b"")
    assert "line 4 is not JSON" in result.err
    assert "2 events before it were appended" in result.err
    assert len(evlog("read").lines) == 2


def test_a_bad_line_is_an_error_with_attributes(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    evlog("init", "-s", "x")
    error = json.loads(evlog("append", "-s", "x", "--lines", stdin=BAD).err)
    assert (error["error"], error["line"], error["appended"]) == ("BadLine", 4, 2)


def test_bad_lines_are_reported_and_skipped_if_that_is_wanted(evlog: Evlog) -> None:
    evlog("init", "-s", "x")
    result = evlog("append", "-s", "x", "--lines", "--skip-bad", stdin=BAD)
    assert result.code == 0
    assert result.err.startswith("evlog: line 4 is not JSON: ")
    assert result.err.endswith("; skipped\n")
    assert (result.line["appended"], result.line["skipped"]) == (3, 1)


def test_all_or_nothing_is_nothing_if_a_line_is_bad(evlog: Evlog) -> None:
    result = evlog("append", "--lines", "--atomic", stdin=BAD)
    assert result.code == 2
    assert "line 4 is not JSON" in result.err
    assert "nothing was appended" in result.err
    assert evlog("read").out == b""
    result = evlog("append", "--lines", "--atomic", stdin=b'{"stream":"s"}')
    assert result.err.endswith("; nothing was appended: correct the line\n")  # and not: or use --skip-bad


def test_all_or_nothing_may_expect_a_version(evlog: Evlog) -> None:
    arguments = ["append", "--lines", "--atomic", "--expect", "none", "s", "T"]
    assert evlog(*arguments, stdin=b"1\n2\n").line["appended"] == 2
    assert evlog(*arguments, stdin=b"3\n").code == 3
    assert len(evlog("read").lines) == 2


def test_all_or_nothing_is_a_duplicate_as_a_whole_or_a_conflict(evlog: Evlog) -> None:
    arguments = ["append", "--lines", "--atomic", "--id-field", "k", "s", "T"]
    two = b'{"k":1}\n{"k":2}\n'
    assert evlog(*arguments, stdin=two).line["appended"] == 2
    assert evlog(*arguments, stdin=two).line["duplicates"] == 2
    assert evlog(*arguments, stdin=two + b'{"k":3}\n').code == 7
    twice = evlog(*arguments, stdin=b'{"k":4}\n{"k":5}\n{"k":4}\n')
    assert (twice.code, "idempotency key '4'" in twice.err) == (2, True)
    assert len(evlog("read").lines) == 2


def conflicting() -> bytes:
    return b'{"k":1}\n{"k":2}\n{"k":1,"other":true}\n{"k":3}\n'


def test_an_id_with_other_content_stops_the_import_at_its_line(
    evlog: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    evlog("init", "-s", "x")
    result = evlog("append", "-s", "x", "--lines", "--id-field", "k", "s", "T", stdin=conflicting())
    assert result.code == 7
    error = json.loads(result.err)
    assert (error["error"], error["line"], error["appended"], error["key"]) == ("IdConflict", 3, 2, "1")
    assert len(evlog("-s", "x", "read").lines) == 2


def test_an_id_with_other_content_is_skipped_if_that_is_wanted(evlog: Evlog) -> None:
    arguments = ["append", "--lines", "--id-field", "k", "--skip-bad", "s", "T"]
    result = evlog(*arguments, stdin=conflicting())
    assert result.code == 0
    assert (result.line["appended"], result.line["skipped"]) == (3, 1)
    assert "line 3 holds no event: idempotency key '1'" in result.err


def test_a_full_disk_says_how_far_it_came(here: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    run_process("init", "-s", "x")
    result = run_process(
        *("append", "-s", "x", "--lines", "--batch", "10"),
        stdin=own(1000),
        env=NO_BYTECODE | {"EVLOG_ERRORS": "json"},
        preexec_fn=limit,
    )
    assert result.code == 9
    error = json.loads(result.err)
    assert error["error"] == "StoreFull"
    assert 0 < error["appended"] < 1000
    assert len(run_process("read", "-s", "x").lines) == error["appended"]


def test_a_full_disk_is_reported_with_what_is_appended(here: Path) -> None:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    run_process("init", "-s", "x")
    result = run_process(
        *("append", "-s", "x", "--lines", "--batch", "10"), stdin=own(1000), env=NO_BYTECODE, preexec_fn=limit
    )
    appended = len(run_process("read", "-s", "x").lines)
    told, error = result.err.splitlines()
    assert told.startswith(f'evlog: failed; so far {{"appended":{appended},')
    assert error.endswith("free some space, or raise the limit, and try again")


def test_what_arrives_slowly_is_durable_at_once(here: Path) -> None:
    with start("append", "-s", "x", "--lines", "--ack", "s", "T") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for position, piece in enumerate((b'1\n{"half', b'":2}\n', b"3\n4"), 1):
            process.stdin.write(piece)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["position"] == position
            with library.open("x") as store:
                assert store.head == position
        process.stdin.close()
        assert process.wait(30) == 0


def test_ctrl_c_keeps_what_was_acknowledged(here: Path) -> None:
    with start("append", "-s", "x", "--lines", "--ack", "s", "T") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"1\n2\n")
        process.stdin.flush()
        acknowledged = [json.loads(process.stdout.readline())["position"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT
        created, text = process.stderr.read().decode().splitlines()
    assert created == "evlog: created the store x"
    assert text.startswith('evlog: interrupted; so far {"appended":2,')
    assert [event["position"] for event in run_process("read", "-s", "x").lines] == acknowledged == [1, 2]


def test_an_import_that_nobody_listens_to_any_more_ends_quietly(here: Path) -> None:
    with start("append", "-s", "x", "--lines", "--ack", "--batch", "1", stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(own(1))
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(own(5))
        process.stdin.close()
        assert process.wait(30) == 1
        assert process.stderr.read() == b"evlog: created the store x\n"


def test_a_line_beyond_all_limits_is_refused_without_being_collected(
    evlog: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1_000_000)
    monkeypatch.setattr(stdin_module, "MAX_LINE_BYTES", 1_000_000)
    monkeypatch.setattr(stdin_module, "_READ_BYTES", 300_000)
    seen: list[int] = []
    decode_again = module._Appender._decode_again

    def spy(appender: Any, number: int, line: bytes, error: Any) -> Any:
        seen.append(len(line))
        return decode_again(appender, number, line, error)

    monkeypatch.setattr(module._Appender, "_decode_again", spy)
    long = b'"' + b"x" * 5_000_000 + b'"'
    result = evlog("append", "--lines", "--skip-bad", "s", "T", stdin=b"1\n" + long + b"\n2\n")
    assert (result.line["appended"], result.line["skipped"]) == (2, 1)
    assert "over the limit" in result.err
    assert seen[0] < 2_000_000
    assert "over the limit" in evlog("append", "--lines", "s", "T", stdin=long).err


def test_an_endless_line_is_given_out_without_waiting_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdin_module, "MAX_LINE_BYTES", 1_000_000)
    with Path("/dev/zero").open("rb") as endless:
        lines = stdin_module.read_lines(endless.fileno())
        first = next(lines)
    assert first is not None
    assert 1_000_000 < len(first[0]) < 2_000_000


def test_endless_atomic_input_is_refused(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ATOMIC_EVENTS", 100)
    assert evlog("append", "--lines", "--atomic", stdin=own(100)).code == 0
    result = evlog("append", "--lines", "--atomic", stdin=own(101))
    assert (result.code, result.out) == (2, b"")
    assert "nothing was appended" in result.err
    monkeypatch.setattr(module, "MAX_ATOMIC_BYTES", 1000)
    assert evlog("append", "--lines", "--atomic", stdin=own(50)).code == 2
    assert evlog("info").line["events"] == 100


@pytest.mark.parametrize("arguments", [[], ["--ack"], ["--ack", "--batch", "1"]])
def test_output_that_fails_says_what_is_appended(here: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start("append", "-s", "x", "--lines", *arguments, "s", "T", stdout=full)
        _, errors = process.communicate(b"1\n2\n3\n")
    appended = len(run_process("read", "-s", "x").lines)
    assert process.returncode == 1
    assert f"(but {count_of(appended, 'event is', 'events are')} appended".encode() in errors


def test_the_advice_for_a_first_try_names_stream_and_type(evlog: Evlog) -> None:
    for line in (b'{"x":1}\n', b"{}\n", b'{"type":"T","x":1}\n'):
        result = evlog("append", "--lines", stdin=line)
        assert result.code == 2
        assert "STREAM" in result.err


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (b"2026-11-28 started\n", "use --lines --text STREAM TYPE"),
        (b"order,item\n7,tea\n", "for CSV see `evlog help import`"),
        (b'{\n  "type": "T"\n}\n', "`jq -c .`"),
        (b'[{"type":"T"}]\n', "`jq -c '.[]'`"),
        (b"[\n  1\n]\n", "`jq -c '.[]'`"),
    ],
)
@pytest.mark.parametrize("shape", [[], ["s"], ["s", "T"]])
def test_input_of_another_shape_is_answered_with_how_to_make_lines_of_it(
    evlog: Evlog, shape: list[str], text: bytes, advice: str
) -> None:
    if shape == ["s", "T"] and text.startswith(b"[{"):
        return  # an array in one line is data like any other
    result = evlog("append", "--lines", *shape, stdin=text)
    assert (result.code, result.out, result.err.count("\n")) == (2, b"", 2)
    assert "line 1 " in result.err
    assert advice in result.err


def test_lines_of_text_become_events_of_text(evlog: Evlog) -> None:
    stdin = "a b\n\n[1]\r\n\tü\nend".encode()
    result = evlog("append", "--lines", "--text", "log", "Line", "--meta", "from=x", stdin=stdin)
    assert result.line["appended"] == 5
    events = evlog("read", "log").lines
    assert [event["data"] for event in events] == ["a b", "", "[1]", "\tü", "end"]
    assert {(event["content_type"], event["metadata"]["from"]) for event in events} == {("text", "x")}


@pytest.mark.parametrize(
    ("stdin", "command"),
    [
        (gzip.compress(b"{}", mtime=0), "`gzip -dc`"),
        (zstandard.compress(b"{}"), "`zstd -dc`"),
        (lzma.compress(b"{}"), "`xz -dc`"),
        (bz2.compress(b"{}"), "`bzip2 -dc`"),
        ("{}".encode("utf-16"), "`iconv -f utf-16 -t utf-8`"),
        (b'{"name":"J\xfcrgen"}', "`iconv -f latin1 -t utf-8`"),
        (b"J\xfcrgen", "`iconv -f latin1 -t utf-8`"),
    ],
    ids=["gzip", "zstd", "xz", "bzip2", "utf-16", "latin1 in JSON", "latin1"],
)
def test_input_of_another_encoding_is_to_be_converted(evlog: Evlog, stdin: bytes, command: str) -> None:
    for arguments in ([], ["--text"]):
        result = evlog("append", "--lines", *arguments, "log", "Line", stdin=stdin)
        assert result.code == 2
        assert f"convert the input, for example with {command}\n" in result.err
        assert "--text" not in result.err


def test_text_that_is_not_utf_8_is_a_bad_line(evlog: Evlog) -> None:
    result = evlog("append", "--lines", "--text", "log", "Line", stdin=b"a\n\xff\n")
    assert result.code == 2
    assert "line 2 is not UTF-8; 1 event before it was appended: convert the input" in result.err
    assert evlog("append", "--lines", "--text", "log", "Line", "--skip-bad", stdin=b"a\n\xff\n").code == 0


@pytest.mark.parametrize("arguments", [[], ["log"], ["log", "Line", "--data-field", "a"]])
def test_text_needs_a_stream_and_a_type_and_has_no_fields(evlog: Evlog, arguments: list[str]) -> None:
    result = evlog("append", "--lines", "--text", *arguments, stdin=b"a\n")
    assert (result.code, result.out) == (2, b"")


def test_a_terminal_gets_the_summary_in_words(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.cli._support.console.stdout_is_terminal", lambda: True)
    assert evlog("append", "--lines", "--text", "s", "T", stdin=b"a\nb\n").out == (
        b"2 events appended, positions 1 to 2\n"
    )
    assert evlog("append", "--lines", "s", "T", stdin=b"").out == b"0 events appended\n"
    skipping = evlog("append", "--lines", "--skip-bad", "other", "T", stdin=b"1\nx\n")
    assert skipping.out == b"1 event appended, position 3, 1 line skipped\n"
    acknowledged = evlog("append", "--lines", "--ack", "s", "T", stdin=b"{}\n").out
    assert acknowledged == b"line 1: appended to s: version 3, position 4\n"


def test_an_acknowledgement_has_the_number_of_its_line(evlog: Evlog) -> None:
    stdin = b'{"stream":"a","type":"T"}\n\n{"stream":"a","type":"T"}\n'
    result = evlog("append", "--lines", "--ack", stdin=stdin)
    assert [(line["line"], line["position"]) for line in result.lines] == [(1, 1), (3, 2)]
    assert list(result.lines[0])[-1] == "line"


def test_an_id_conflict_names_its_line_and_what_went_in_before(
    evlog: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"stream": "a", "type": "T", "id": ID}
    evlog("append", "--lines", stdin=as_lines([known]))
    stdin = as_lines([{"stream": "a", "type": "T"}, known | {"type": "Other"}])
    told = evlog("append", "--lines", stdin=stdin)
    assert told.code == 7
    assert "line 2: event id " in told.err
    assert "; 1 event before it was appended: correct the line, or use --skip-bad" in told.err
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    error = json.loads(evlog("append", "--lines", stdin=stdin).err)
    assert (error["error"], error["line"], error["appended"], error["position"]) == ("IdConflict", 2, 1, 1)


def test_templates_take_fields_of_a_line_into_tags_and_metadata(
    evlog: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVLOG_CAUSATION_ID", "{.a}")  # is no option: it is taken as it is
    lines = b'{"a":"x\\"\\n\xc3\xbc","b":{"n":1.50},"k":1}\n{"a":"y","b":{"n":true},"k":2}\n'
    options = ["--tag", "n:{.b.n}", "--tag", "all", "--meta", "from={.a}!", "--meta", "user={ann}"]
    arguments = ["append", "--lines", "s", "T", *options, "--correlation-id", "{.b.n}", "--id-field", "k"]
    assert evlog(*arguments, stdin=lines).line["appended"] == 2
    assert evlog(*arguments, stdin=lines).line["duplicates"] == 2
    first, second = evlog("read").lines
    links = {"$causationId": "{.a}", "user": "{ann}"}
    assert first["tags"] == ["n:1.50", "all"]
    assert first["metadata"] == links | {"from": 'x"\nü!', "$correlationId": "1.50", "$idempotencyKey": "1"}
    assert second["tags"] == ["n:true", "all"]
    assert second["metadata"] == links | {"from": "y!", "$correlationId": "true", "$idempotencyKey": "2"}
    assert evlog("read", "--tag", "n:true", "--fields", "position").line == {"position": 2}


def test_metadata_beside_a_template_stays_as_it_is(evlog: Evlog) -> None:
    given = r'{"\u00000\u0000":"\u00000\u0000","b":"\u00009\u0000"}'
    options = ["--metadata", given, "--correlation-id", "{.a}"]
    evlog("append", "--lines", "s", "T", *options, stdin=b'{"a":"x"}\n')
    assert evlog("read").line["metadata"] == json.loads(given) | {"$correlationId": "x"}


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--tag", "a:{.no}"], "has no field `no`"),
        (["--meta", "a={.list}"], "has an array in `list`"),
        (["--tag", "{.empty}"], "tag"),
        (["--tag", "{.line}"], "tag"),
        (["--correlation-id", "{.empty}"], "gives an empty text for $correlationId"),
    ],
)
def test_a_line_whose_fields_do_not_fit_a_template_is_bad(evlog: Evlog, option: list[str], told: str) -> None:
    line = b'{"list":[],"empty":"","line":"a\\nb"}'
    result = evlog("append", "--lines", "s", "T", *option, stdin=line)
    assert result.code == 2
    assert "line 1 " in result.err
    assert told in result.err


def test_a_template_stays_a_text_where_lines_are_no_objects(evlog: Evlog) -> None:
    evlog("append", "--lines", "--text", "s", "T", "--tag", "{.a}", "--meta", "b={.c}", stdin=b'{"a":1}\n')
    event = evlog("read").line
    assert (event["tags"], event["metadata"]) == (["{.a}"], {"b": "{.c}"})


def test_an_id_field_alone_leaves_lines_their_own_shape(evlog: Evlog) -> None:
    line = b'{"stream":"s","type":"T","data":{"n":1},"tags":["t:1"],"metadata":{"a":"b"},"key":"k"}\n'
    summary = evlog("append", "--lines", "--id-field", "key", stdin=line * 2).line
    assert (summary["appended"], summary["duplicates"]) == (1, 1)
    event = evlog("read").line
    assert (event["data"], event["tags"]) == ({"n": 1}, ["t:1"])
    assert event["metadata"] == {"a": "b", "$idempotencyKey": "k"}
    assert evlog("append", "--lines", "--id-field", "k", "--format", "cloudevents", stdin=line).code == 2
    assert evlog("append", "--lines", "--id-field", "k", "--tag", "a", stdin=line).code == 2
