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
