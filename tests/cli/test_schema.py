"""`evlog schema`, and what appends do with data that does not fit."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Evlog

pytest.importorskip("jsonschema_rs")

AMOUNT = '{"type":"object","required":["amount"],\n "properties":{"amount":{"minimum":0}}}'


@pytest.fixture
def strict(evlog: Evlog) -> Evlog:
    """A store in which Paid needs an amount."""
    evlog("init")
    Path("s.json").write_text(AMOUNT)
    assert evlog("schema", "set", "Paid", "s.json").line["version"] == 1
    return evlog


def line(amount: int, type: str = "Paid") -> bytes:
    return b'{"stream":"a","type":"%b","data":{"amount":%d}}\n' % (type.encode(), amount)


def amounts(evlog: Evlog) -> list[int]:
    return [event["data"]["amount"] for event in evlog("read").lines]


def test_data_that_does_not_fit_is_exit_2_with_its_place(
    strict: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = strict("append", "a", "Paid", '{"amount":-1}')
    assert (result.code, result.out) == (2, b"")
    assert result.err == (
        "evlog: the data does not fit version 1 of the schema of 'Paid' at /amount: -1 is less than the "
        "minimum of 0; correct the data, or see `evlog schema show Paid`\n"
    )
    monkeypatch.setenv("EVLOG_ERRORS", "json")
    error = json.loads(strict("append", "a", "Paid", "[1]").err)
    assert (error["error"], error["type"], error["version"], error["pointer"], error["index"]) == (
        *("SchemaViolation", "Paid", 1),
        *("", 0),
    )
    assert strict("append", "a", "Paid", '{"amount":1}').code == 0
    assert strict("append", "a", "Other", "[]").code == 0


def test_a_line_that_does_not_fit_is_a_bad_line(strict: Evlog) -> None:
    stdin = line(1) + line(-2) + line(3) + line(-4, "Other") + line(-5) + line(6)
    result = strict("append", "--lines", stdin=stdin)
    assert result.code == 2
    assert (
        "line 2 is refused: the data does not fit version 1 of the schema of 'Paid' at /amount" in result.err
    )
    assert "1 event before it was appended" in result.err
    assert amounts(strict) == [1]


@pytest.mark.parametrize("options", [[], ["--batch", "2"], ["--batch", "1"], ["--ack"]])
def test_bad_lines_are_skipped_and_all_others_appended(strict: Evlog, options: list[str]) -> None:
    stdin = line(-1) + line(1) + line(-2) + b"x\n" + line(3) + line(-4, "Other")
    stdin += line(-5) + line(6) + line(-7)
    result = strict("append", "--lines", "--skip-bad", *options, stdin=stdin)
    assert result.code == 0
    assert amounts(strict) == [1, 3, -4, 6]
    numbers = [text.split()[2] for text in result.err.splitlines()]
    assert sorted(numbers) == ["1", "3", "4", "7", "9"]
    if options != ["--ack"]:
        assert (result.line["appended"], result.line["skipped"]) == (4, 5)


def test_an_atomic_append_is_refused_as_a_whole(strict: Evlog) -> None:
    result = strict("append", "--lines", "--atomic", stdin=line(1) + line(2) + line(-3))
    assert (result.code, result.out) == (2, b"")
    assert "line 3 is refused" in result.err
    assert amounts(strict) == []


def test_a_known_line_that_would_not_fit_now_is_a_duplicate(evlog: Evlog) -> None:
    evlog("append", "a", "Paid", '{"amount":-1}')
    copy = evlog("read").out
    Path("s.json").write_text(AMOUNT)
    evlog("schema", "set", "Paid", "s.json")
    result = evlog("append", "--lines", stdin=copy + line(2))
    assert (result.line["appended"], result.line["duplicates"]) == (1, 1)


def test_a_decision_that_does_not_fit_is_not_appended(strict: Evlog) -> None:
    decide = 'echo \'{"type":"Paid","data":{"amount":-1}}\''
    assert strict("transact", "a", "--exec", decide).code == 2
    assert strict("read").out == b""


def test_schemas_are_listed_shown_changed_and_removed(strict: Evlog) -> None:
    assert strict("schema", "show", "Paid").out == AMOUNT.replace("\n", " ").encode() + b"\n"
    again = strict("schema", "set", "Paid", "-", stdin=b"\xef\xbb\xbf" + AMOUNT.encode() + b"\n")
    assert (again.line["version"], again.line["position"]) == (1, 1)
    assert strict("schema", "set", "Paid", "-", stdin=b"true").line["version"] == 2
    assert strict("schema", "set", "A", "-", stdin=b"{}").code == 0
    listed = strict("schema").lines
    assert [(found["type"], found["version"]) for found in listed] == [("A", 1), ("Paid", 2)]
    assert list(listed[0]) == ["type", "version", "position", "time"]
    assert strict("schema", "list", "-o", "csv", "--fields", "type").out == b"type\nA\nPaid\n"
    assert strict("schema", "show", "Paid", "--version", "1").out.startswith(b'{"type":"object"')
    assert strict("schema", "remove", "Paid").code == 0
    missing = strict("schema", "show", "Paid")
    assert (missing.code, missing.err) == (
        5,
        "evlog: no schema of 'Paid'; `evlog schema list` lists the schemas\n",
    )
    assert strict("schema", "remove", "Paid").code == 5
    assert strict("schema", "show", "Paid", "--version", "3").code == 5
    assert strict("append", "a", "Paid", "0").code == 0


def test_a_schema_on_a_terminal_is_indented_and_cannot_control_it(
    strict: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict("schema", "set", "X", "-", stdin=b'{"title":"\\u001b[31m","type":"object"}')
    monkeypatch.setattr("evlog.cli._support.console.stdout_is_terminal", lambda: True)
    assert (
        strict("schema", "show", "X").out
        == b"""{
  "title": "\\u001b[31m",
  "type": "object"
}
"""
    )


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (b"{", "invalid schema of 'Paid': is not JSON"),
        (b"", "invalid schema of 'Paid': is not JSON"),
        (b'{"type":"nope"}', "invalid schema of 'Paid' at /type: "),
        (b'{"$ref":"file:///etc/hostname"}', "file:///etc/hostname is outside the schema; put it into $defs"),
    ],
)
def test_what_is_not_a_schema_is_exit_2(strict: Evlog, schema: bytes, message: str) -> None:
    result = strict("schema", "set", "Paid", "-", stdin=schema)
    assert result.code == 2
    assert message in result.err
    assert strict("schema").line["version"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="not every file system takes such a name")
def test_a_file_may_have_a_name_that_is_not_utf8(evlog: Evlog, here: Path) -> None:
    name = os.fsdecode(b"\xff.json")
    (here / name).write_text('{"required":["a"]}')
    evlog("init")
    assert evlog("schema", "set", "T", name).code == 0
    assert evlog("append", "s", "T").code == 2


def test_a_file_that_cannot_be_read_is_exit_2(strict: Evlog) -> None:
    for path in ("nope", ".", "a\0b"):
        result = strict("schema", "set", "Paid", path)
        assert result.code == 2
        assert "give the path of a file, or -" in result.err


def test_without_the_library_the_type_is_refused_and_others_are_not(
    strict: Evlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    result = strict("append", "a", "Paid", '{"amount":1}')
    assert result.code == 10
    assert result.err == (
        "evlog: the schema of 'Paid' needs jsonschema-rs, which is not installed; "
        "run pip install 'evlog-store[schemas]'\n"
    )
    assert strict("append", "a", "Other", '{"amount":1}').code == 0
    assert strict("schema", "set", "X", "s.json").code == 10
    assert strict("schema", "show", "Paid").code == 0
    assert strict("schema", "remove", "Paid").code == 0
    assert strict("append", "a", "Paid", "{}").code == 0
