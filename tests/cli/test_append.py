from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

import evlog as library
from tests.cli.conftest import Evlog
from tests.support.helpers import frames_of

KEY_ID = "2f0a7d0c-6a39-4b55-8a6e-0d3a2f1b9c11"


def test_the_result_is_the_line_of_the_contract(evlog: Evlog) -> None:
    line = evlog("append", "order-42", "OrderPlaced", '{"total":30}').line
    assert list(line) == ["stream", "version", "position", "id", "duplicate"]
    assert (line["stream"], line["version"], line["position"], line["duplicate"]) == ("order-42", 1, 1, False)
    assert uuid.UUID(line["id"]).version == 7


def test_an_event_without_data_has_an_empty_object(evlog: Evlog) -> None:
    evlog("append", "s", "T")
    assert evlog("read").line["data"] == {}


@pytest.mark.parametrize(
    ("arguments", "stdin", "stored"),
    [
        (['{"a" : 1.10}'], b"", b'{"a" : 1.10}'),
        (["@file"], b"", b'{"a":  [1, 2]}'),
        (["-"], b' {"a":1}\n', b'{"a":1}'),
        (["-"], b'\xef\xbb\xbf{"a":1}\n', b'{"a":1}'),
        (["@bom"], b"", b'{"a":1}'),
        (["-", "--content-type", "text"], b"\xef\xbb\xbfx", b"\xef\xbb\xbfx"),
        (["-5"], b"", b"-5"),
        (["-0.5e3"], b"", b"-0.5e3"),
        (["--", "-5"], b"", b"-5"),
        (["-", "--content-type", "text"], b"line\n", b"line\n"),
        (["ü", "--content-type", "text"], b"", "ü".encode()),
        (["-", "--content-type", "binary"], b"\x00\xff\n", b"\x00\xff\n"),
        (["@file", "--content-type", "binary"], b"", b'{"a": \n[1, 2]}\n'),
        (["--content-type", "text"], b"", b""),
    ],
)
def test_data_comes_from_the_argument_a_file_or_stdin(
    evlog: Evlog, here: Path, arguments: list[str], stdin: bytes, stored: bytes
) -> None:
    (here / "file").write_bytes(b'{"a": \n[1, 2]}\n')
    (here / "bom").write_bytes(b'\xef\xbb\xbf {"a":1}')
    assert evlog("append", "s", "T", *arguments, stdin=stdin).code == 0
    with library.open(".evlog") as store:
        assert [event.data for event in store.read_all()] == [stored]


@pytest.mark.parametrize(
    ("data", "named"), [("-", "stdin"), ("@blank", "@blank"), ("", "DATA"), (" ", "DATA"), ("@bom", "@bom")]
)
def test_no_data_at_all_is_called_empty(evlog: Evlog, here: Path, data: str, named: str) -> None:
    (here / "blank").write_bytes(b" \n")
    (here / "bom").write_bytes(b"\xef\xbb\xbf\n")
    result = evlog("append", "s", "T", data, stdin=b"\n")
    assert (result.code, result.out) == (2, b"")
    assert result.err == f"evlog: {named} is empty, which is not JSON; leave DATA out for {{}}\n"


def test_metadata_comes_from_all_its_options(evlog: Evlog) -> None:
    evlog(
        "append",
        "s",
        "T",
        "--meta",
        "user=ann",
        "--meta",
        "a=b=c",
        "--correlation-id",
        "x",
        "--causation-id",
        "y",
    )
    evlog("append", "s", "T", "--metadata", '{"n": 1.10}')
    evlog("append", "s", "T", "--metadata", '{"n":1}', "--correlation-id", "x")
    assert [event["metadata"] for event in evlog("read").lines] == [
        {"user": "ann", "a": "b=c", "$correlationId": "x", "$causationId": "y"},
        {"n": 1.10},
        {"n": 1, "$correlationId": "x"},
    ]


def test_a_retry_is_a_duplicate_at_the_first_place(evlog: Evlog) -> None:
    first = evlog("append", "s", "T", "{}", "--idempotency-key", "k", "--expect", "none").line
    evlog("append", "s", "Other")
    again = evlog("append", "s", "T", "{}", "--idempotency-key", "k", "--expect", "none").line
    assert again == first | {"duplicate": True}
    assert uuid.UUID(first["id"]) == library.idempotency_id("k")


def test_an_idempotency_key_is_kept_and_a_conflict_names_it(
    evlog: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    evlog("append", "s", "T", "1", "--idempotency-key", "backup-1", "--meta", "by=ann")
    assert evlog("read").line["metadata"] == {"by": "ann", "$idempotencyKey": "backup-1"}
    result = evlog("append", "s", "T", "2", "--idempotency-key", "backup-1")
    assert result.code == 7
    assert "idempotency key 'backup-1'" in result.err
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    assert (
        json.loads(evlog("append", "s", "T", "2", "--idempotency-key", "backup-1").err)["key"] == "backup-1"
    )
    assert json.loads(evlog("append", "s", "T", "2", "--id", evlog("read").line["id"]).err)["key"] is None


@pytest.mark.parametrize(
    ("expect", "code"), [("any", 0), ("none", 3), ("0", 3), ("exists", 0), ("1", 0), ("2", 3)]
)
def test_an_append_is_conditional_on_the_streams_version(evlog: Evlog, expect: str, code: int) -> None:
    evlog("append", "s", "T")
    assert evlog("append", "s", "T", "-e", expect).code == code
    assert len(evlog("read").lines) == (2 if code == 0 else 1)


WRONG = [
    ["append"],
    ["append", "s"],
    ["append", "", "T"],
    ["append", "$s", "T"],
    ["append", "s", ""],
    ["append", "s", "a\nb"],
    ["append", "s" * 256, "T"],
    ["append", "s\udcff", "T"],
    ["append", "s", "T", "{"],
    ["append", "s", "T", "NaN"],
    ["append", "s", "T", ""],
    ["append", "s", "T", '"\udcff"'],
    ["append", "s", "T", "\udcff", "--content-type", "text"],
    ["append", "s", "T", "@no-such-file"],
    ["append", "s", "T", "@."],
    ["append", "s", "T", "{}", "more"],
    ["append", "s", "T", "--expect", "-1"],
    ["append", "s", "T", "--expect", "some"],
    ["append", "s", "T", "--id", "key"],
    ["append", "s", "T", "--id", KEY_ID, "--idempotency-key", "k"],
    ["append", "s", "T", "--idempotency-key", "k", "--metadata", '{"$idempotencyKey":"k"}'],
    ["append", "s", "T", "--idempotency-key", "k", "--meta", "$idempotencyKey=k"],
    ["append", "s", "T", "--id", KEY_ID, "--id", KEY_ID],
    ["append", "s", "T", "-e", "any", "--expect=any"],
    ["append", "s", "T", "-s", "a", "-s", "a"],
    ["-s", "a", "--store", "b", "append", "s", "T"],
    ["append", "s", "T", "--correlation-id", "\udcff"],
    ["append", "s", "T", "--idempotency-key", "\udcff"],
    ["append", "s", "T", "--metadata", '{"a":"\udcff"}'],
    ["append", "--lines", "s", "T", "--id-field", "\udcff"],
    ["append", "--lines", "s", "T", "--id-field", "k", "--meta", "$idempotencyKey=k"],
    ["append", "s", "T", "-x5"],
    ["append", "s", "T", "-5", "-6"],
    ["append", "s", "T", "--idempotency-key", ""],
    ["append", "s", "T", "--meta", "novalue"],
    ["append", "s", "T", "--meta", "=x"],
    ["append", "s", "T", "--meta", "a=1", "--meta", "a=2"],
    ["append", "s", "T", "--meta", "a=1", "--metadata", "{}"],
    ["append", "s", "T", "--metadata", "[]"],
    ["append", "s", "T", "--metadata", "{"],
    ["append", "s", "T", "--metadata", '{"$correlationId":1}', "--correlation-id", "x"],
    ["append", "s", "T", "--content-type", "xml"],
    ["append", "s", "T", "--sync", "sometimes"],
    ["append", "s", "T", "--lock-timeout", "-1"],
    ["append", "s", "T", "--lock-timeout", "nan"],
    ["append", "s", "T", "--lock-timeout", "5M"],
    ["append", "s", "T", "--batch", "10"],
    ["append", "s", "T", "--atomic"],
    ["append", "s", "T", "--skip-bad"],
    ["append", "s", "T", "--stream-field", "a"],
    ["append", "s", "T", "--store", ""],
    ["append", "s", "T", "--no-such-option"],
    ["append", "--lines", "s", "T", "{}"],
    ["append", "--lines", "--id", KEY_ID],
    ["append", "--lines", "--idempotency-key", "k"],
    ["append", "--lines", "--content-type", "text"],
    ["append", "--lines", "--batch", "0"],
    ["append", "--lines", "--atomic", "--batch", "3"],
    ["append", "--lines", "--atomic", "--skip-bad"],
    ["append", "--lines", "--expect", "1", "s"],
    ["append", "--lines", "--expect", "1", "--atomic"],
    ["append", "--lines", "--expect", "1", "--atomic", "T", "--stream-field", "a"],
    ["append", "--lines", "s", "T", "--stream-field", "a"],
    ["append", "--lines", "s", "T", "--type-field", "a"],
    ["append", "--lines", "--stream-field", "a", "T", "--type-field", "b"],
    ["append", "--lines", "--stream-field", "a..b", "T"],
    ["append", "--lines", "--meta", "a=1"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_a_wrong_command_line_is_one_line_and_touches_nothing(
    evlog: Evlog, here: Path, arguments: list[str]
) -> None:
    result = evlog(*arguments, stdin=b'{"stream":"s","type":"T"}\n')
    assert (result.code, result.out) == (2, b"")
    assert result.err.startswith("evlog: ")
    assert result.err.count("\n") == 1
    assert "; " in result.err
    assert list(here.iterdir()) == []


def test_an_event_over_the_limit_is_refused_before_it_is_read_to_its_end(evlog: Evlog, here: Path) -> None:
    (here / "large").write_bytes(b"x" * (16 * 1024 * 1024 + 1))
    result = evlog("append", "s", "T", "@large", "--content-type", "binary")
    assert result.code == 2
    assert "over the limit of 16777216" in result.err
    endless = Path("/dev/zero")
    if endless.exists():
        assert evlog("append", "s", "T", f"@{endless}", "--content-type", "binary").code == 2


def test_a_store_that_nobody_named_is_made_here_and_its_user_told(evlog: Evlog, here: Path) -> None:
    first = evlog("append", "s", "T")
    assert first.err == "evlog: created the store ./.evlog\n"
    assert evlog("append", "s", "T").err == ""
    assert [path.name for path in here.iterdir()] == [".evlog"]


def test_creating_a_named_store_is_announced_too(evlog: Evlog, here: Path) -> None:
    assert evlog("append", "--store", "a/b", "s", "T").err == "evlog: created the store a/b\n"
    assert (here / "a" / "b" / "manifest.json").exists()
    result = evlog("append", "--store", "lines", "--lines", stdin=b"")
    assert result.err == "evlog: created the store lines\n"


@pytest.mark.parametrize("arguments", [["s", "T"], ["--lines", "s", "T"]])
def test_no_create_refuses_a_missing_store(evlog: Evlog, here: Path, arguments: list[str]) -> None:
    result = evlog("append", "--store", "x", "--no-create", *arguments)
    assert (result.code, result.out) == (5, b"")
    assert list(here.iterdir()) == []
    evlog("append", "--store", "x", "s", "T")
    assert evlog("append", "--store", "x", "--no-create", *arguments).code == 0


def test_a_refused_append_leaves_the_store_as_it_was(evlog: Evlog) -> None:
    evlog("append", "s", "T", "{}", "--id", KEY_ID)
    before = evlog("read").out
    assert evlog("append", "s", "T", '{"other":1}', "--id", KEY_ID).code == 7
    assert evlog("append", "s", "T", "--expect", "none").code == 3
    assert evlog("read").out == before


def test_a_torn_tail_that_was_cut_is_reported(evlog: Evlog, here: Path) -> None:
    evlog("append", "s", "T")
    (log,) = (here / ".evlog" / "segments").glob("*.log")
    log.write_bytes(frames_of(log) + b"half a frame")
    result = evlog("append", "s", "T")
    assert result.line["position"] == 2
    assert "evlog: cut 12 bytes off the end of" in result.err
    assert len(evlog("read").lines) == 2


def test_new_only_says_in_the_exit_code_whether_the_event_was_new(
    evlog: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["append", "s", "T", "--idempotency-key", "k", "--new-only"]
    assert evlog(*arguments).code == 0
    again = evlog(*arguments)
    assert (again.code, again.line["duplicate"], again.line["position"]) == (3, True, 1)
    assert "known already, at position 1; nothing was written" in again.err
    assert evlog("read", "s").line["version"] == 1
    assert evlog("append", "--lines", "--new-only", stdin=b"").code == 2
    monkeypatch.setattr("evlog.cli._support.console.stdout_is_terminal", lambda: True)
    assert evlog("append", "s", "T").out == b"appended to s: version 2, position 2\n"
    assert evlog(*arguments[:-1]).out == b"known already in s: version 1, position 1\n"


@pytest.mark.parametrize("data", ['{"a":1}', "[1]", "@file"])
def test_data_in_the_place_of_the_type_is_a_slip(evlog: Evlog, here: Path, data: str) -> None:
    result = evlog("append", "order-42", data)
    assert (result.code, result.out) == (2, b"")
    assert f"TYPE is missing: {data} looks like DATA" in result.err
    assert list(here.iterdir()) == []
    assert evlog("append", "order-42", data, "{}").code == 0
