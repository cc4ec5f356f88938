"""The one event that `evlog append` is given: its data, metadata and id, from where the arguments say.

Mistakes in them are reported, with what to write instead, before a store is opened or created.
"""

from __future__ import annotations

import os

from evlog.cli._support.options import pairs_of
from evlog.cli._support.stdin import BYTE_ORDER_MARK, read_all, stdin_descriptor
from evlog.errors import EventTooLarge, InvalidArgument, InvalidEvent
from evlog.model.encoding import encode_events
from evlog.model.events import MAX_EVENT_BYTES, NewEvent, id_of_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from evlog.cli._support.parameters import Given
    from evlog.model.events import EncodedEvent
    from evlog.model.types import ContentType

_ADVICE: Final = {
    "data": "quote JSON for the shell, or give --content-type text (or binary)",
    "metadata": 'write for example --metadata \'{"user":"ann"}\'',
}


def make_event(given: Given) -> EncodedEvent:
    """Return the event, checked and encoded."""
    key: str | None = given.idempotency_key
    if given.id is not None and key is not None:
        raise InvalidArgument("--id and --idempotency-key both name the event", "give one of them")
    content_type: ContentType = given.content_type or "json"
    event = NewEvent(
        given.type,
        read_data(given.data, content_type),
        id=given.id if key is None else _id_of_key(key),
        metadata=make_metadata(given),
        tags=given.tag,
        content_type=content_type,
    )
    return _encode(event)


def make_metadata(given: Given, mark: Callable[[str], str] = str) -> bytes | None:
    """Return the metadata from all options that add to it, as JSON that is checked.

    Args:
        mark: called with each text of --meta, --correlation-id and --causation-id; returns the one to use.
    """
    if given.meta and given.metadata is not None:
        raise InvalidArgument("--meta and --metadata exclude each other", "put everything into --metadata")
    named: dict[str, Any] = {}
    for key, value in pairs_of(given.meta):
        if key in named:
            raise InvalidArgument(f"--meta gives {key!r} twice", "give it once")
        named[key] = mark(value)
    metadata: Any = named or None if given.metadata is None else _utf8(given.metadata)
    for title, text in (("--correlation-id", given.correlation_id), ("--causation-id", given.causation_id)):
        if text == "":
            raise InvalidArgument(f"{title} is empty", "give a text, or leave it out")
    given_links = (given.correlation_id, given.causation_id)
    links = (*(text and mark(text) for text in given_links), given.idempotency_key)
    defaults = _links_of_environment()
    if defaults or links != (None, None, None):
        from evlog.model.links import CAUSATION, CORRELATION, KEY, add_links

        metadata = add_links(metadata, dict(zip((CORRELATION, CAUSATION, KEY), links, strict=True)), defaults)
    return None if metadata is None else _encode(NewEvent("Any", metadata=metadata))[4]


def metadata_of_environment() -> bytes | None:
    """Return links to the event that this command reacts to, as `--exec` puts them into the environment."""
    links = _links_of_environment()
    return _encode(NewEvent("Any", metadata=links))[4] if links else None


def _links_of_environment() -> dict[str, Any]:
    names = {b"EVLOG_CORRELATION_ID": "$correlationId", b"EVLOG_CAUSATION_ID": "$causationId"}
    return {names[name]: text for name in names if (text := _variable(name)) is not None}


def _variable(name: bytes) -> str | None:
    raw = os.environb.get(name)
    try:
        return raw.decode() if raw else None
    except UnicodeDecodeError:
        raise InvalidArgument(f"{name.decode()} is not UTF-8", "unset it, or set a text") from None


def _encode(event: NewEvent) -> EncodedEvent:
    """Encode the event, or raise an error that says what is wrong with it and what to write instead."""
    try:
        return encode_events([event])[0]
    except InvalidEvent as error:
        if error.field not in _ADVICE:
            raise
        raise InvalidEvent(error.field, f"{error.reason}; {_ADVICE[error.field]}") from None


def _id_of_key(key: str) -> bytes:
    try:
        return id_of_key(key)
    except InvalidEvent as error:
        raise InvalidEvent(error.field, f"{error.reason}; give one such as payment-7") from None


def read_data(text: str | None, content_type: str) -> bytes | None:
    """Return DATA, read from where the argument says: itself, @FILE, or - for stdin."""
    is_json = content_type == "json"
    if text is None:
        return b"{}" if is_json else None
    if text == "-":
        data = _read_stdin()
    elif text.startswith("@"):
        data = _read_file(text[1:])
    else:
        data = _utf8(text)
    if not is_json:
        return data
    # A byte order mark and the white space around JSON are not part of the data.
    data = data.removeprefix(BYTE_ORDER_MARK).strip()
    if not data:
        source = {"-": "stdin", "": "DATA"}.get(text.strip(), text)
        raise InvalidArgument(f"{source} is empty, which is not JSON", "leave DATA out for {}")
    return data


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _read_stdin() -> bytes:
    return _check_limit(read_all(stdin_descriptor(), 2 * MAX_EVENT_BYTES))


def _read_file(path: str) -> bytes:
    try:
        with open(_utf8(path), "rb") as file:
            return _check_limit(file.read(2 * MAX_EVENT_BYTES))
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidArgument):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidArgument(f"cannot read {path!r} ({reason})", "give @ and the path of a file") from None


def _check_limit(data: bytes) -> bytes:
    # A pipe without an end must not fill the memory before it is refused.
    if len(data) == 2 * MAX_EVENT_BYTES:
        raise EventTooLarge(len(data), MAX_EVENT_BYTES)
    return data
