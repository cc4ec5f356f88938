"""Links between events: what an event belongs to, and what caused it. Pure.

They are fields of the metadata, under names that other systems know:

$correlationId    what it belongs to: all events of one order, one request, one job   (KurrentDB's name)
$causationId      the id of the event that it reacts to                               (KurrentDB's name)
$idempotencyKey   the text that its id was made from
traceparent       the trace that it belongs to                                        (W3C Trace Context)

Each is a text.
"""

from __future__ import annotations

from evlog.errors import InvalidEvent, shorten
from evlog.model.json_text import decode_without_numbers, encode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

CORRELATION: Final = "$correlationId"
CAUSATION: Final = "$causationId"
KEY: Final = "$idempotencyKey"
TRACE: Final = "traceparent"


def add_links(
    metadata: dict[str, Any] | bytes | None,
    links: Mapping[str, object],
    defaults: Mapping[str, object] | None = None,
) -> dict[str, Any] | bytes | None:
    """Return metadata with more fields; JSON in bytes stays as it is otherwise.

    Args:
        links: texts or UUIDs by field; None is left out.
        defaults: the same; the metadata's own fields and `links` are used instead of them.

    Raises:
        InvalidEvent: a link is not a text, or the metadata already has another one.
    """
    named = _fields_of(metadata)
    added = {name: _text(name, value) for name, value in links.items() if value is not None}
    for name in named.keys() & added.keys():
        raise InvalidEvent("metadata", f"has {name} already; give it once")
    for name, value in (defaults or {}).items():
        if value is not None and name not in added:
            added[name] = _text(name, value)
    added = {name: text for name, text in added.items() if name not in named}
    if not isinstance(metadata, bytes):
        return named | added if added else metadata
    if not added:
        return metadata
    fields = encode_json(added).encode("utf-8", "surrogatepass")  # what is not Unicode is refused later
    return metadata.strip()[:-1] + b"," + fields[1:] if named else fields


def text_in(metadata: bytes | None, name: str) -> str | None:
    """Return the text that an event's metadata has under a name; None if there is none."""
    text = _fields_of(metadata).get(name)
    return text if isinstance(text, str) else None


def given_twice(id: str, metadata: bytes | None) -> InvalidEvent:
    """Return the error for the second event in one append that has an id; it names the key of the id."""
    key = text_in(metadata, KEY)
    if key is None:
        return InvalidEvent("id", f"{id} is in one append twice; give each event its own id")
    return InvalidEvent(
        "idempotency key",
        f"{shorten(key)} (event id {id}) is in one append twice; give each event its own key",
    )


def _fields_of(metadata: dict[str, Any] | bytes | None) -> dict[str, Any]:
    if isinstance(metadata, bytes):
        try:
            metadata = decode_without_numbers(metadata.decode())
        except (ValueError, RecursionError) as error:
            raise InvalidEvent("metadata", f"is not JSON: {error}") from None
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise InvalidEvent("metadata", "must be a JSON object")
    return metadata


def _text(name: str, value: object) -> str:
    text = str(value) if value.__class__.__name__ == "UUID" else value
    if not isinstance(text, str) or not text:
        raise InvalidEvent("metadata", f"{name} must be a text that is not empty")
    return text
