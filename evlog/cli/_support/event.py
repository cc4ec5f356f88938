"""The one event that `evlog append` is given: its data, metadata and id, from wherever the arguments say.

What is wrong with them is said together with what to write instead, before a store is opened or made.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import evlog
from evlog.cli._support import console
from evlog.errors import EventTooLarge, InvalidArgument, InvalidEvent
from evlog.model.events import MAX_EVENT_BYTES, EncodedEvent, encode_events

if TYPE_CHECKING:
    from uuid import UUID

_ADVICE: Final = {
    "data": "quote JSON for the shell, or give --content-type text (or binary)",
    "metadata": 'write for example --metadata \'{"user":"ann"}\'',
}


def make_metadata(
    pairs: list[str] | None, text: str | None, correlation_id: str | None, causation_id: str | None
) -> bytes | None:
    """The metadata from all options that add to it, as JSON that is checked."""
    if pairs and text is not None:
        raise InvalidArgument("--meta and --metadata exclude each other; put everything into --metadata")
    named: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise InvalidArgument(f"--meta {pair!r} is not KEY=VALUE; write for example --meta user=ann")
        if key in named:
            raise InvalidArgument(f"--meta gives {key!r} twice; give it once")
        named[key] = value
    ids = {"$correlationId": correlation_id, "$causationId": causation_id}
    named |= {key: id for key, id in ids.items() if id is not None}
    if text is None:
        return _encode_metadata(named)
    written = _encode_metadata(os.fsencode(text))
    if not named:
        return written
    import json

    known: dict[str, Any] = json.loads(written or b"{}")
    if known.keys() & named:
        raise InvalidArgument(
            "--metadata has the id that --correlation-id or --causation-id gives; give it once"
        )
    return _encode_metadata(known | named)


def _encode_metadata(metadata: dict[str, Any] | bytes) -> bytes | None:
    return encode(evlog.NewEvent("Any", metadata=metadata))[4]


def encode(event: evlog.NewEvent) -> EncodedEvent:
    """Encode the event, or say what is wrong with it and what to write instead."""
    try:
        return encode_events([event])[0]
    except InvalidEvent as error:
        if error.field not in _ADVICE:
            raise
        raise InvalidEvent(error.field, f"{error.reason}; {_ADVICE[error.field]}") from None


def id_of_key(key: str) -> UUID:
    try:
        return evlog.idempotency_id(key)
    except InvalidEvent as error:
        raise InvalidEvent(error.field, f"{error.reason}; give one such as payment-7") from None


def read_data(text: str | None, content_type: str) -> bytes | None:
    """DATA, from where it is: the argument itself, @FILE, or - for stdin."""
    if text is None:
        return None
    if text == "-":
        if sys.stdin is None or sys.stdin.isatty():
            console.note("reading the data from the terminal; end it with Ctrl-D")
        data = b"" if sys.stdin is None else _read_limited(sys.stdin.buffer)
    elif text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:
                data = _read_limited(file)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidArgument(
                f"cannot read {text[1:]!r} ({reason}); give @ and the path of a file"
            ) from None
    else:
        data = os.fsencode(text)
    return data.strip() if content_type == "json" else data


def _read_limited(file: BinaryIO) -> bytes:
    # A pipe without an end must not fill the memory before it is refused. A file's white space is no data.
    data = file.read(2 * MAX_EVENT_BYTES)
    if len(data) == 2 * MAX_EVENT_BYTES:
        raise EventTooLarge(len(data), MAX_EVENT_BYTES)
    return data
