"""Tags on the command line: `append --tag`, `read --tag`, `tail --tag`, and lines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Evlog


def events(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def school(evlog: Evlog) -> Evlog:
    """Three events: a course, its student, another course."""
    evlog("append", "course-1", "Opened", "--tag", "course:1", "--meta", "by=ann")
    evlog("append", "course-1", "Enrolled", "--tag", "course:1", "--tag", "student:9")
    evlog("append", "course-2", "Opened", "--tag", "course:2")
    return evlog


def positions(text: bytes) -> list[int]:
    return [event["position"] for event in events(text)]


def test_tags_are_printed_behind_the_metadata(school: Evlog) -> None:
    first, second, _ = events(school("read").out)
    assert list(first)[-2:] == ["metadata", "tags"]
    assert (first["metadata"], first["tags"]) == ({"by": "ann"}, ["course:1"])
    assert (second["metadata"], second["tags"]) == ({}, ["course:1", "student:9"])
    assert "tags course:1, student:9" in school("read", "-o", "pretty").out.decode()
    rows = school("read", "--fields", "tags,position", "-o", "csv").out.decode().splitlines()
    assert rows == [
        "tags,position",
        '"[""course:1""]",1',
        '"[""course:1"",""student:9""]",2',
        '"[""course:2""]",3',
    ]


def test_read_and_tail_select_by_tags(school: Evlog) -> None:
    assert positions(school("read", "--tag", "course:1").out) == [1, 2]
    assert positions(school("read", "--tag", "course:1", "--tag", "student:9").out) == [2]
    assert positions(school("read", "course-1", "--tag", "student:9").out) == [2]
    assert positions(school("tail", "-n", "1", "--tag", "course:1").out) == [2]
    assert positions(school("tail", "--name", "n", "--tag", "course:2").out) == [3]
    assert positions(school("tail", "--name", "n", "--tag", "course:2").out) == []
    refused = school("tail", "--name", "n", "--tag", "course:1")
    assert refused.code == 2
    assert "course:2" in refused.err


def test_lines_bring_their_tags(school: Evlog) -> None:
    lines = school("read").out
    assert school("--store", "copy", "append", "--lines", stdin=lines).code == 0
    again = events(school("--store", "copy", "read").out)
    assert [event["tags"] for event in again] == [event["tags"] for event in events(lines)]
    assert school("append", "--lines", "--tag", "a", stdin=lines).code == 2
    assert school("append", "--lines", "s", "T", "--tag", "a", "--id-field", "k", stdin=b'{"k":1}').code == 0
    (event,) = events(school("read", "s").out)
    assert (event["tags"], event["metadata"]) == (["a"], {"$idempotencyKey": "1"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("append", "s", "T", "--tag", ""),
        ("append", "s", "T", "--tag", "a\nb"),
        ("append", "s", "T", "--tag", "x" * 256),
        ("append", "s", "T", "--metadata", '{"$tags":["a"]}'),
        ("append", "s", "T", "--meta", "$tags=a"),
        ("read", "--tag", ""),
        ("tail", "--tag", "\x07"),
    ],
)
def test_a_bad_tag_is_a_usage_error(school: Evlog, arguments: tuple[str, ...]) -> None:
    refused = school(*arguments)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "tag" in refused.err


def test_conditions_refuse_an_append_with_exit_code_3(school: Evlog) -> None:
    refused = school("append", "x", "T", "--if-none", "type=Opened,tag=course:1")
    assert (refused.code, refused.out) == (3, b"")
    assert "the event at position 1 matches type=Opened,tag=course:1" in refused.err
    assert school("append", "x", "T", "--if-none", "tag=course:1", "--after", "2").code == 0
    assert school("append", "x", "T", "--if-none", "tag=none", "--if-none", "tag=course:2").code == 3
    assert school("append", "x", "T", "--if-version", "course-1=2", "--if-version", "none=0").code == 0
    assert school("append", "x", "T", "--if-version", "course-1=1").code == 3
    assert school("append", "x", "T", "--if-version", "none=exists").code == 3
    assert len(school("read", "x").lines) == 2


def test_conditions_of_lines_are_about_all_of_them(school: Evlog) -> None:
    lines = b'{"type":"T","stream":"x","tags":["a"]}\n{"type":"T","stream":"y","tags":["a"]}\n'
    atomic = ("append", "--lines", "--atomic", "--if-none", "tag=a")
    assert school(*atomic, stdin=lines).code == 0
    assert school(*atomic, stdin=lines).code == 3
    assert school(*atomic, "--after", "5", "--if-version", "x=1", stdin=lines).code == 0
    assert school("append", "--lines", "--if-none", "tag=a", stdin=lines).code == 2
    assert len(school("read", "--tag", "a").lines) == 4


@pytest.mark.parametrize(
    "options",
    [
        ("--if-none", ""),
        ("--if-none", "course:1"),
        ("--after", "1"),
        ("--if-none", "tag=a", "--after", "99"),
        ("--if-version", "course-1"),
        ("--if-version", "=1"),
        ("--if-version", "course-1=x"),
        ("--if-version", "$$a=1"),
    ],
)
def test_a_bad_condition_is_a_usage_error(school: Evlog, options: tuple[str, ...]) -> None:
    refused = school("append", "x", "T", *options)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert school("read", "x").code == 5
