"""One field of an event, as JSON or as text, for `--fields` and the columns of tables.

Values are cut out of the stored JSON as they are: no number changes its digits. A missing field is None here,
null in JSON and empty in a text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from evlog.cli._support.foreign import split_path
from evlog.errors import InvalidArgument
from evlog.model.events import BINARY_CODE, JSON_CODE, Event, split_tags
from evlog.model.json_lines import encode_time, quote

Field = Callable[[Event], bytes | None]
"""Returns a field of an event, as JSON."""

_WHOLE: Final[dict[str, Field]] = {
    "position": lambda event: b"%d" % event.position,
    "stream": lambda event: quote(event.stream),
    "category": lambda event: quote(event.category),
    "version": lambda event: b"%d" % event.version,
    "id": lambda event: b'"%b"' % str(event.id).encode(),
    "type": lambda event: quote(event.type),
    "time": lambda event: b'"%b"' % encode_time(event.time_us),
    "content_type": lambda event: quote(event.content_type),
    "data": lambda event: event.data if event[6] == JSON_CODE else _other_data(event),
    "metadata": lambda event: event.metadata_bytes,
    "tags": lambda event: split_tags(event[8])[0] if event.tags else None,
}


def parse_fields(text: str) -> list[str]:
    """Return the names in --fields, each checked.

    Raises:
        InvalidArgument: one of them is not a field.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        make_field(name)
    if len(set(names)) < len(names):
        raise InvalidArgument("--fields names a field twice", "name it once")
    return names


def make_field(name: str) -> Field:
    """Return a function from an event to the field.

    Raises:
        InvalidArgument: the field does not exist.
    """
    whole = _WHOLE.get(name)
    if whole is not None:
        return whole
    first, dot, rest = name.partition(".")
    if not dot or first not in {"data", "metadata"} or rest.startswith("."):
        raise InvalidArgument(f"unknown field {name!r}", f"use {', '.join(_WHOLE)}, data.x or metadata.x")
    path = split_path(rest)
    if first == "metadata":
        return lambda event: find(event.metadata_bytes, path)
    return lambda event: find(event.data, path) if event[6] == JSON_CODE else None


def find(data: bytes, path: tuple[str, ...]) -> bytes | None:
    """Return the raw JSON at a path in an object, None if there is nothing."""
    import msgspec

    global _parse_object
    if _parse_object is None:
        _parse_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    raw: Any = data
    for name in path:
        try:
            raw = _parse_object(raw).get(name)
        except (msgspec.ValidationError, RecursionError):
            return None  # not an object, so nothing is in it
        if raw is None:
            return None
    return bytes(raw)


def as_text(value: bytes | None) -> str:
    """Return a field as a text: a string's content, nothing for null, any other JSON as it is."""
    if value is None or value == b"null":
        return ""
    if value.startswith(b'"'):
        return json.loads(value)  # type: ignore[no-any-return]
    return value.decode()


def _other_data(event: Event) -> bytes:
    if event[6] == BINARY_CODE:
        from binascii import b2a_base64

        return b'"%b"' % b2a_base64(event.data, newline=False)
    return quote(event.data.decode())


_parse_object: Any = None
