"""`evlog show`."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Evlog

FIRST = "00000000-0000-7000-8000-000000000001"


@pytest.fixture
def filled(evlog: Evlog) -> Evlog:
    evlog("append", "order-1", "OrderPlaced", '{"total": 3}', "--id", FIRST)
    evlog("append", "order-2", "OrderPlaced", '{"total": 4}')
    return evlog


def test_events_are_shown_by_id_and_position_in_the_order_given(filled: Evlog) -> None:
    shown = filled("show", "2", FIRST.upper().replace("-", ""), "2")
    assert [event["position"] for event in shown.lines] == [2, 1, 2]
    assert shown.lines[1] == filled("read", "order-1").line


def test_what_does_not_exist_is_exit_code_5_beside_what_does(filled: Evlog) -> None:
    missing = FIRST.replace("1", "9")
    shown = filled("show", "3", "1", missing)
    assert (shown.code, shown.line["position"]) == (5, 1)
    assert "no event at position 3" in shown.err
    assert f"no event {missing}" in shown.err
    assert filled("show", "0").code == 5


def test_forms_and_fields_are_those_of_read(filled: Evlog) -> None:
    assert filled("show", "1", "-o", "data").out == b'{"total": 3}\n'
    assert filled("show", "2", "-o", "csv", "--fields", "position,data.total").out == (
        b"position,data.total\n2,4\n"
    )
    assert "    id " + FIRST in filled("show", "1", "-o", "pretty").out.decode()
    assert filled("show", "1", "-o", "data", "--fields", "type").code == 2


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "0x10", FIRST + "0", "1" * 40])
def test_what_is_neither_an_id_nor_a_position_is_refused(filled: Evlog, text: str) -> None:
    shown = filled("show", "--", text)
    assert shown.code == 2
    assert "invalid event" in shown.err


def test_a_removed_event_is_named_as_removed(filled: Evlog) -> None:
    filled("delete", "order-1")
    assert filled("show", "1").code == 0
    filled("compact")
    shown = filled("show", FIRST)
    assert shown.code == 5
    assert "removed by a compaction" in shown.err


def test_an_idempotency_key_names_its_event(filled: Evlog) -> None:
    for key in ("payment-7", "key:7"):
        filled("append", "order-1", "OrderPaid", "--idempotency-key", key)
    assert [event["position"] for event in filled("show", "key:key:7", "key:payment-7").lines] == [4, 3]
    assert filled("trace", "key:payment-7").line["position"] == 3
    assert filled("redact", "key:payment-7", "--reason", "x").line["redacted"] == [3]
    assert filled("show", "key:unknown").code == 5
    assert filled("show", "key:").code == 2
