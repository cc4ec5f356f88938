"""Events as messages: every event is decoded as it was, and any other message is damage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.engines.messages import decode_message, encode_headers
from evlog.errors import CorruptionError
from evlog.model.events import Event

numbers = st.integers(1, 1 << 62)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
events = st.tuples(
    numbers,
    numbers,
    texts,
    texts,
    st.binary(min_size=16, max_size=16),
    numbers,
    st.integers(0, 2),
    st.binary(max_size=30),
    st.none() | st.binary(min_size=2, max_size=30),
).map(Event)


@given(events, numbers)
def test_an_event_comes_back(event: Event, frame: int) -> None:
    assert decode_message(encode_headers(event, frame), event.data, "m") == (frame, event)


@given(
    events, st.sampled_from(["Position", "Version", "Stream", "Type", "Id", "Time", "Frame", "Content-Type"])
)
def test_a_message_with_a_header_missing_or_wrong_is_damage(event: Event, name: str) -> None:
    headers: dict[str, Any]
    for wrong in ("missing", None, b"", b"\xff"):  # Kafka's may be null
        headers = {**encode_headers(event, 1)}
        if wrong == "missing":
            del headers[f"Evlog-{name}"]
        elif name in ("Stream", "Type") and wrong == b"":
            continue
        else:
            headers[f"Evlog-{name}"] = wrong
        with pytest.raises(CorruptionError, match="message m"):
            decode_message(headers, event.data, "message m")
