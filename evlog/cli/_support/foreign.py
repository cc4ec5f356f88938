"""Lines of any shape as events: `--stream-field`, `--id-field`, templates in `--tag`, and the like.

With `--id-field` alone, lines have evlog's own shape, and only their ids come from a field.

A field is a dotted path into a line's objects. All paths are found in one pass over the line, by a msgspec
structure that is made for them; every other field is skipped, but checked as JSON all the same. Values are
taken as they are written: no number passes through a float on its way into a name, an id or the data.
Pure: bytes in, bytes out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from evlog.errors import InvalidEvent
from evlog.model.encoding import check_json, with_tags
from evlog.model.events import (
    JSON_CODE,
    MAX_EVENT_BYTES,
    EncodedEvent,
    check_stream_name,
    check_type,
    id_of_key,
    microseconds_of,
)
from evlog.model.json_lines import (
    CACHE_SIZE,
    CARRIAGE_RETURN,
    Checked,
    InvalidLine,
    canonical_uuid,
    check_size,
    own_decoder,
    quote,
    refuse,
)
from evlog.model.links import CAUSATION, CORRELATION, KEY, text_in
from evlog.model.paths import pick_fields, split_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.model.json_lines import Decode

_BACKSLASH: Final = 0x5C
_MOST_SECONDS: Final = 1 << 40  # after every clock
_LINKS: Final = (CORRELATION, CAUSATION)
_TEMPLATE: Final = re.compile(r"\{(\.[^{}]+)\}")


class Templates:
    """Texts for the metadata that have fields of the line in them, such as `{.trip}`.

    Until a line is known, each is replaced by a mark that is random, so that no metadata has it by itself.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._mark = os.urandom(16).hex()

    def mark(self, text: str) -> str:
        """Return the mark for a template; any other text as it is."""
        if _TEMPLATE.search(text) is None:
            return text
        self.texts.append(text)
        return f"{self._mark}-{len(self.texts) - 1}"

    def filler(
        self, metadata: bytes | None, paths: list[tuple[str, ...]]
    ) -> Callable[[Sequence[Any]], bytes] | None:
        """Return a function from what was picked to the metadata; None if there is no mark in it."""
        if metadata is None or not self.texts:
            return None
        pieces = re.split(b'"%b-([0-9]+)"' % self._mark.encode(), metadata)
        literals = pieces[::2]
        readers = [_text_reader(None, self.texts[int(at)], paths, template=True) for at in pieces[1::2]]

        names = [literal.removesuffix(b'":').rpartition(b'"')[2].decode() for literal in literals[:-1]]

        def fill(found: Sequence[Any]) -> bytes:
            values = [quote(read(found)) for read in readers]
            for name, value in zip(names, values, strict=True):
                if name in _LINKS and value == b'""':
                    raise InvalidLine(f"gives an empty text for {name}")
            return b"".join(literal + value for literal, value in zip(literals, [*values, b""], strict=True))

        return fill


def foreign_decoder(
    stream: str | None = None,
    type: str | None = None,
    *,
    stream_field: str | None = None,
    type_field: str | None = None,
    id_field: str | None = None,
    data_field: str | None = None,
    data_is_text: bool = False,
    metadata: bytes | None = None,
    tags: Sequence[str] = (),
    templates: Templates | None = None,
) -> Decode:
    r"""Return a decoder of lines of any shape.

    Fields are dotted paths into the line's objects: `a.b`, with a dot in a name as `\.`.

    Args:
        stream: every line's stream, instead of a field.
        type: every line's event type, instead of a field.
        stream_field: the field with the stream's name, or a template such as `host-{.host}`.
        type_field: the field with the event type.
        id_field: a field with a UUID (8-4-4-4-12 digits), or any other text or number: an idempotency key,
            which is also kept in the metadata. Or a template of an idempotency key.
        data_field: the field that becomes the data; `.` or None is the whole line.
        data_is_text: the data field is a string that holds JSON.
        metadata: every event's metadata, encoded and checked.
        tags: every event's tags; each may be a template.
        templates: what the marks in `metadata` mean.
    """
    paths: list[tuple[str, ...]] = []
    stream_of = _text_reader(stream, stream_field or "stream", paths, template=True)
    type_of = _text_reader(type, type_field or "type", paths)
    identify = None if id_field is None else _identifier(id_field, paths)
    constant, make_metadata = _metadata_maker(metadata, tags, templates or Templates(), paths)
    data_at = None if data_field in {None, "."} else _place(str(data_field), paths)
    pick = _checked_pick(paths)
    streams, types = Checked(check_stream_name), Checked(check_type)

    def decode(line: bytes) -> tuple[str, EncodedEvent]:
        found = pick(line)
        id, own_metadata = None, constant if make_metadata is None else make_metadata(found)
        if identify is not None:
            id, key = identify(found)
            if key is not None:
                own_metadata = _with_key(own_metadata, key)
        data = line.strip() if data_at is None else bytes(found[data_at])
        if data_is_text and data[:1] == b'"':
            data = _unquoted(data, str(data_field))
        if CARRIAGE_RETURN in data:
            data = data.replace(b"\r", b" ")  # it is between tokens: in a string it would not be valid JSON
        if make_metadata is not None or len(line) > MAX_EVENT_BYTES:
            check_size(len(data) + len(own_metadata or b""))
        return streams[stream_of(found)], (types[type_of(found)], id, JSON_CODE, data, own_metadata)

    return decode


def _metadata_maker(
    metadata: bytes | None, tags: Sequence[str], templates: Templates, paths: list[tuple[str, ...]]
) -> tuple[bytes | None, Callable[[Sequence[Any]], bytes | None] | None]:
    """Return the metadata of all lines, or a function from what was picked to that of a line."""
    fill = templates.filler(metadata, paths)
    if fill is None and not any(map(_TEMPLATE.search, tags)):
        return with_tags(tags, metadata), None
    readers = [
        _text_reader(None if _TEMPLATE.search(tag) else tag, tag, paths, template=True) for tag in tags
    ]

    def make(found: Sequence[Any]) -> bytes | None:
        own = metadata if fill is None else fill(found)
        return with_tags([read(found) for read in readers], own)

    return None, make


def keyed_decoder(
    stream: str | None, default_metadata: bytes | None, id_field: str, *, ignored: Collection[str] = ()
) -> Decode:
    """Return a decoder of evlog's own shape whose ids come from a field, or from a template of a key.

    Args:
        stream: the stream of lines that name none.
        default_metadata: of lines without the field `metadata`.
        id_field: as for `foreign_decoder`. It may be the field `id`, or one that an event does not have.
        ignored: further fields that a line may have.
    """
    paths: list[tuple[str, ...]] = []
    identify = _identifier(id_field, paths)
    pick = _checked_pick(paths)
    decode_own = own_decoder(stream, default_metadata, ignored={"id", *ignored, *(path[0] for path in paths)})

    def decode(line: bytes) -> tuple[str, EncodedEvent]:
        name, (type, _, code, data, metadata) = decode_own(line)
        id, key = identify(pick(line))
        if key is not None:
            known = None if metadata is None else text_in(metadata, KEY)
            if known not in {None, key}:
                raise InvalidLine(f"has another {KEY} in its metadata")
            if known is None:
                metadata = _with_key(metadata, key)
        return name, (type, id, code, data, metadata)

    return decode


def time_reader(field: str, now_us: Callable[[], int]) -> Callable[[bytes], int]:
    """Return a function from a line to the time in a field, in microseconds since 1970.

    The field is ISO 8601 with a zone, or a number of seconds since 1970. InvalidLine: it is neither, or is
    after `now_us` at that moment: lines may come for hours.
    """
    from datetime import datetime
    from decimal import Decimal

    path = split_path(field)
    pick = _checked_pick([path])
    name = ".".join(path)

    def read(line: bytes) -> int:
        raw = bytes(pick(line)[0])
        text, is_number = _text(raw, path), not raw.startswith(b'"')
        try:
            moment = None if is_number else datetime.fromisoformat(text)
            # A number with a huge exponent must not become an int of as many digits.
            seconds = Decimal(text).min(_MOST_SECONDS).max(-1) if is_number else 0
        except (ValueError, ArithmeticError):
            raise InvalidLine(f"has no time in `{name}`; use ISO 8601 or seconds since 1970") from None
        if moment is not None and moment.tzinfo is None:
            raise InvalidLine(f"has a time without a zone in `{name}`; add one, such as Z for UTC")
        time_us = int(seconds * 1_000_000) if moment is None else microseconds_of(moment)
        if time_us > now_us():
            unit = "; a number is of seconds since 1970" if is_number else ""
            raise InvalidLine(f"has a time after now in `{name}`{unit}")
        if time_us < 0:
            raise InvalidLine(f"has a time before 1970 in `{name}`")
        return time_us

    return read


def _unquoted(data: bytes, field: str) -> bytes:
    """Return the JSON in a JSON string, on one line."""
    text: bytes = json.loads(data).encode(errors="surrogatepass")
    try:
        check_json([text])
    except InvalidEvent:
        raise InvalidLine(f"has no JSON text in `{field}`") from None
    return text.replace(b"\n", b" ").strip()  # line breaks are between tokens: JSON allows none in a string


def _checked_pick(paths: Sequence[tuple[str, ...]]) -> Callable[[bytes], Sequence[Any]]:
    """Return a function from a line to what is at each path; it raises InvalidLine if something is
    missing.
    """
    import msgspec

    unset = msgspec.UNSET
    pick = pick_fields(paths)

    def checked(line: bytes) -> Sequence[Any]:
        try:
            if not line.isascii():
                line.decode()  # msgspec does not check the strings that it skips
            found = pick(line)
        except (ValueError, RecursionError) as error:
            refuse(line, error)
        if unset in found:
            raise InvalidLine(f"has no field `{'.'.join(paths[found.index(unset)])}`")
        return found

    return checked


def _identifier(
    field: str, paths: list[tuple[str, ...]]
) -> Callable[[Sequence[Any]], tuple[bytes, str | None]]:
    """Return a function from what was picked to the event's id, and the key that it was made from."""
    if _TEMPLATE.search(field):
        key_of = _text_reader(None, field, paths, template=True)

        def identify_by_key(found: Sequence[Any]) -> tuple[bytes, str | None]:
            key = key_of(found)
            return id_of_key(key), key

        return identify_by_key
    at = _place(field, paths)
    return lambda found: _id_and_key(bytes(found[at]), paths[at])


def _with_key(metadata: bytes | None, key: str) -> bytes:
    own = b'"%b":' % KEY.encode() + quote(key) + b"}"
    if metadata is None:
        return b"{" + own
    rest = metadata.rstrip()[:-1].rstrip()  # the tags stay first
    return rest + (own if rest.endswith(b"{") else b"," + own)


def _text_reader(
    constant: str | None, field: str, paths: list[tuple[str, ...]], *, template: bool = False
) -> Callable[[Sequence[Any]], str]:
    """Return a function from what was picked to a name; the paths that it needs are added to `paths`."""
    if constant is not None:
        return lambda _found: constant
    parts = _TEMPLATE.split(field) if template else [field]
    if len(parts) == 1:
        parts = ["", field, ""]
    literals = parts[::2]
    places = [_place(part, paths) for part in parts[1::2]]
    if len(places) == 1:
        return _one_text(literals[0], literals[1], places[0], paths)

    def fill(found: Sequence[Any]) -> str:
        values = [_text(bytes(found[at]), paths[at]) for at in places]
        return "".join(literal + value for literal, value in zip(literals, [*values, ""], strict=True))

    return fill


def _one_text(
    before: str, after: str, at: int, paths: list[tuple[str, ...]]
) -> Callable[[Sequence[Any]], str]:
    made: dict[bytes, str] = {}

    def fill(found: Sequence[Any]) -> str:
        raw = bytes(found[at])
        text = made.get(raw)
        if text is None:
            if len(made) >= CACHE_SIZE:
                made.clear()
            text = made[raw] = before + _text(raw, paths[at]) + after
        return text

    return fill


def _place(field: str, paths: list[tuple[str, ...]]) -> int:
    path = split_path(field)
    if path not in paths:
        paths.append(path)
    return paths.index(path)


def _text(raw: bytes, path: tuple[str, ...]) -> str:
    """Return a string's content, or a number or boolean as it is written."""
    first = raw[:1]
    if first == b'"':
        return json.loads(raw) if _BACKSLASH in raw else raw[1:-1].decode()
    if first in {b"n", b"{", b"["}:
        kind = {b"n": "null", b"{": "an object", b"[": "an array"}[first]
        raise InvalidLine(f"has {kind} in `{'.'.join(path)}`, where a text, a number or a boolean is needed")
    return raw.decode()


def _id_and_key(raw: bytes, path: tuple[str, ...]) -> tuple[bytes, str | None]:
    """Return a UUID's bytes, or the id of an idempotency key and the key."""
    if raw[:1] in {b"t", b"f"}:
        raise InvalidLine(f"has a boolean in `{'.'.join(path)}`; an id is a UUID, a text or a number")
    text = _text(raw, path)
    found = canonical_uuid(text)
    if found is not None:
        return found, None
    if not text:
        raise InvalidLine(f"has an empty text in `{'.'.join(path)}`; an id is a UUID, a text or a number")
    return id_of_key(text), text
