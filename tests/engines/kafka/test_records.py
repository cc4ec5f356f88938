"""Records of a topic that another program has produced: each is reported as damage, by its offset."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from evlog.engines.kafka.records import CONTROL, FRAME_LAST, Assembler, encode_event
from evlog.errors import CorruptionError
from evlog.model.events import Event

ROW = [1, 1, "s", bytes(16), b"", 0, b""]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("standing", None),
        ("standing", ["a"]),
        ("standing", ["a", 1]),
        ("forget", 5),
        ("forget", [5]),
        ("forget", [ROW[:5]]),
        ("forget", [[*ROW[:2], 3, *ROW[3:]]]),
        ("gap", [1, 2]),
        ("gap", [1, 2, "x", 1]),
        ("removed", [ROW]),
        ("what", []),
        ("format", "x"),
        (None, []),
        ("\ud800", []),
    ],
)
def test_a_control_record_that_makes_no_sense_is_damage(kind: str | None, value: object) -> None:
    assembler = Assembler("kafka://h/t", "id", 0)
    header: Any = None if kind is None else kind.encode("utf-8", "surrogatepass")
    with pytest.raises(CorruptionError, match="offset 7") as caught:
        assembler.feed(7, None, msgpack.packb(value), {CONTROL: header})
    assert "restore the data of the server" in str(caught.value)


@pytest.mark.parametrize("name", ["Evlog-Position", "Evlog-Id", FRAME_LAST])
@pytest.mark.parametrize("value", [None, b"", b"x"])
def test_an_event_with_a_header_that_makes_no_sense_is_damage(name: str, value: bytes | None) -> None:
    event = Event((1, 1, "s", "T", bytes(16), 1, 0, b"{}", None))
    key, data, headers, _, _ = encode_event(event, 1, b"1")
    wrong: dict[str, Any] = {**headers, name: value}
    with pytest.raises(CorruptionError, match="offset 7"):
        Assembler("kafka://h/t", "id", 0).feed(7, key, data, wrong)
