"""Every command that lists something has the same forms, under the same names."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.cli.conftest import Evlog

LISTS = [
    ["streams"],
    ["info"],
    ["retain"],
    ["subscriptions"],
    ["subscriptions", "list"],
    ["subscriptions", "show", "audit"],
    ["subscriptions", "parked", "audit"],
    ["read"],
    ["tail"],
]


@pytest.fixture
def filled(evlog: Evlog) -> Evlog:
    evlog("append", "order-1", "Paid", '{"a":"b,c"}')
    evlog("append", "order-2", "Paid")
    evlog("retain", "order-2", "--max-age", "36h")
    evlog(
        "tail", "--name", "audit", "--exec", "exit 3", "--on-failure", "park", "--retries", "1", "-n", "all"
    )
    return evlog


@pytest.mark.parametrize("arguments", LISTS, ids=" ".join)
def test_csv_has_what_json_has(filled: Evlog, arguments: list[str]) -> None:
    objects = filled(*arguments).lines
    rows = list(csv.DictReader(io.StringIO(filled(*arguments, "-o", "csv").out.decode(), newline="")))
    assert len(rows) == len(objects) > 0
    for row, found in zip(rows, objects, strict=True):
        for name, value in found.items():
            if name == "lag_seconds":
                continue  # it grows
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            assert row[name] == ("" if value is None else text)


@pytest.mark.parametrize("arguments", LISTS, ids=" ".join)
def test_fields_are_chosen_by_the_names_in_json(filled: Evlog, arguments: list[str]) -> None:
    first, *_ = filled(*arguments).lines
    name = list(first)[-1]
    for found in filled(*arguments, "--fields", name).lines:
        assert list(found) == [name]
    heading = filled(*arguments, "-o", "table", "--fields", name).out.decode().splitlines()[0]
    assert heading.strip() == name
    assert filled(*arguments, "-o", "csv", "--fields", name).out.decode().splitlines()[0] == name
    assert name in filled(*arguments, "-o", "pretty", "--fields", name).out.decode()
    assert "unknown field 'nothing'" in filled(*arguments, "--fields", "nothing").err


@pytest.mark.parametrize("arguments", [["read"], ["tail"]])
def test_read_and_tail_print_the_same(filled: Evlog, arguments: list[str]) -> None:
    for form in (["-o", form] for form in ("json", "pretty", "csv", "data")):
        assert filled("tail", *form).out == filled("read", *form).out
    rows = [filled(command, "-o", "table").out.decode().splitlines() for command in ("read", "tail")]
    assert [line.split() for line in rows[0]] == [line.split() for line in rows[1]]


def test_a_part_of_a_field_is_a_field(filled: Evlog) -> None:
    found = filled("streams", "--fields", "stream,retention.max_age").lines
    assert found == [
        {"stream": "order-1", "retention.max_age": None},
        {"stream": "order-2", "retention.max_age": 129_600},
    ]


def test_output_is_not_for_events_that_a_command_gets(filled: Evlog) -> None:
    for option in (["-o", "csv"], ["--fields", "id"]):
        result = filled("tail", "--exec", "true", *option)
        assert (result.code, result.out) == (2, b"")
