"""Events as JSON lines, in evlog's own shape: as `evlog read` prints and `evlog append --lines` takes them.

Pure: bytes in, bytes out. An event is encoded as one line, and the decoder accepts that line unchanged. The
decoder checks a line completely (strict JSON, UTF-8, names, size), and refuses fields that an event does not
have, so nothing is lost silently.

Both directions are inner loops of bulk commands, so they work on bytes: payloads are copied, never parsed.
msgspec, which finds their ends, is imported when the first decoder is made.
"""

from __future__ import annotations

from binascii import hexlify, unhexlify
from struct import Struct
from time import gmtime

from evlog.errors import EventTooLarge, EvlogError, InvalidArgument, InvalidEvent
from evlog.model.encoding import with_tags, without_tags
from evlog.model.events import (
    BINARY_CODE,
    CONTENT_TYPES,
    JSON_CODE,
    MAX_EVENT_BYTES,
    REDACTED_BEGIN,
    TAGS_BEGIN,
    TEXT_CODE,
    check_stream_name,
    check_type,
    split_tags,
)

try:
    from _json import encode_basestring as _quote_text  # what json uses, without json's own import
except ImportError:
    from json.encoder import py_encode_basestring as _quote_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from typing import Any, Final, NoReturn

    from evlog.model.events import EncodedEvent, Event, Record

    Decode = Callable[[bytes], tuple[str, EncodedEvent]]
    """Turns one line, without its line break, into a stream's name and an event."""

CARRIAGE_RETURN: Final = 0x0D  # a number: `bytes in bytes` takes five times as long
CHUNK_BYTES: Final = 256 * 1024
# The longest line that can hold an event: a text of control characters only, six bytes each.
MAX_LINE_BYTES: Final = 6 * MAX_EVENT_BYTES + 64 * 1024
# Escaped names and parsed values are remembered, up to this many of a kind.
CACHE_SIZE: Final = 65536
_LINE_OVERHEAD_BYTES: Final = 200  # roughly the length of a line without its data
_OTHER_SHAPE: Final = "for lines of another shape give STREAM and TYPE, or --stream-field and --type-field"
_ID_PARTS: Final = Struct("8s4s4s4s12s").iter_unpack

_JSON_EVENT: Final = (
    b'{"position":%d,"stream":%b,"version":%d,"id":"%b","type":%b,"time":"%b","data":%b,"metadata":%b}\n'
)
_OTHER_EVENT: Final = _JSON_EVENT.replace(b'"data":%b', b"%b")
_RESULT: Final = b'{"stream":%b,"version":%d,"position":%d,"id":"%b-%b-%b-%b-%b","duplicate":%b}\n'


class InvalidLine(InvalidArgument):
    """A line that holds no event: not JSON, not UTF-8, or without a field that is needed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# --- encoding


class Quoted(dict[str, bytes]):
    """Texts as JSON strings in bytes, remembered because names repeat."""

    def __missing__(self, text: str) -> bytes:
        if len(self) >= CACHE_SIZE:
            self.clear()
        quoted = self[text] = quote(text)
        return quoted


def quote(text: str) -> bytes:
    """Return a text as a JSON string; only the characters that JSON demands are escaped."""
    return _quote_text(text).encode()


def encode_seconds(seconds: int) -> bytes:
    """Return seconds since 1970 as ISO 8601 in UTC, without the zone: `2026-11-23T10:51:00`."""
    return b"%04d-%02d-%02dT%02d:%02d:%02d" % gmtime(seconds)[:6]


_last_second = (0, encode_seconds(0))  # replaced whole; most times share one: 0.35 instead of 1.5 µs a time


def encode_time(time_us: int) -> bytes:
    """Return microseconds since 1970 as ISO 8601 in UTC: `2026-11-23T10:51:00.123456Z`."""
    global _last_second
    seconds, fraction_us = divmod(time_us, 1_000_000)
    known, text = _last_second
    if known != seconds:
        text = encode_seconds(seconds)
        _last_second = seconds, text
    return b"%b.%06dZ" % (text, fraction_us)


def encode_content(code: int, data: bytes) -> bytes:
    """Return the fields of an event's line that hold its data, with the content type unless that is JSON."""
    if code == JSON_CODE:
        return b'"data":' + data
    if code == TEXT_CODE:
        return b'"content_type":"text","data":' + quote(data.decode())
    from binascii import b2a_base64

    return b'"content_type":"binary","data_base64":"%b"' % b2a_base64(data, newline=False)


def encode_lines(events: Iterable[Event], chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield events as JSON lines, many to a chunk.

    Args:
        events: what to print, in this order.
        chunk_bytes: a chunk is yielded as soon as it has this many bytes.
    """
    quoted = Quoted()
    batch: list[Event] = []
    size_bytes = 0
    try:
        for event in events:
            batch.append(event)
            size_bytes += len(event[7]) + _LINE_OVERHEAD_BYTES
            if size_bytes >= chunk_bytes:
                yield encode_batch(batch, quoted)
                batch.clear()
                size_bytes = 0
    except EvlogError:
        yield encode_batch(batch, quoted)  # the events before the damage
        raise
    if batch:
        yield encode_batch(batch, quoted)


def encode_batch(batch: Sequence[Record], quoted: Quoted) -> bytes:
    """Return the lines of some events, made column by column: a third faster than line by line."""
    if not batch:
        return b""
    positions, versions, streams, types, ids, times, codes, datas, metadatas = zip(*batch, strict=True)
    shape = _JSON_EVENT
    if any(codes):
        shape = _OTHER_EVENT
        datas = tuple(map(encode_content, codes, datas))
    clocks = {time_us: encode_time(time_us) for time_us in set(times)}
    rows = zip(
        positions,
        map(quoted.__getitem__, streams),
        versions,
        encode_ids(ids),
        map(quoted.__getitem__, types),
        map(clocks.__getitem__, times),
        datas,
        [_encode_metadata(metadata) if metadata else b"{}" for metadata in metadatas],
        strict=True,
    )
    return b"".join(map(shape.__mod__, rows))


def _encode_metadata(metadata: bytes) -> bytes:
    """Return the value of an event's `metadata`, and the fields `tags` or `redacted`, which it also holds."""
    if not metadata.startswith(TAGS_BEGIN):
        return b'{},"redacted":true' if metadata.startswith(REDACTED_BEGIN) else metadata
    tags, rest = split_tags(metadata)
    return rest + b',"tags":' + tags


def encode_ids(ids: Sequence[bytes]) -> Iterable[bytes]:
    """Return ids as UUIDs are written."""
    return map(b"%b-%b-%b-%b-%b".__mod__, _ID_PARTS(hexlify(b"".join(ids))))


def encode_results(
    streams: Sequence[str],
    versions: Sequence[int],
    positions: Sequence[int],
    ids: Sequence[bytes],
    duplicates: Sequence[bool],
) -> bytes:
    """Return the result lines of an append, one for each event, from columns of equal length."""
    quoted = Quoted()
    lines: list[bytes] = []
    for stream, version, position, id, known in zip(
        streams, versions, positions, ids, duplicates, strict=True
    ):
        d = id.hex().encode()
        duplicate = b"true" if known else b"false"
        lines.append(
            _RESULT
            % (quoted[stream], version, position, d[:8], d[8:12], d[12:16], d[16:20], d[20:], duplicate)
        )
    return b"".join(lines)


# --- decoding


def own_decoder(
    stream: str | None = None,
    default_metadata: bytes | None = None,
    *,
    any_stream: bool = False,
    ignored: Collection[str] = (),
) -> Decode:
    """Return a decoder of evlog's own shape, as `encode_lines` writes it; only `type` has to be there.

    Args:
        stream: the stream of lines that name none.
        default_metadata: of lines without the field `metadata`.
        any_stream: also take lines that name another stream.
        ignored: further fields that a line may have. The field `id` may be one of them.
    """
    parse = _own_parser(stream, ignored)
    has_id = "id" not in ignored
    streams, types = Checked(check_stream_name), Checked(check_type)

    def decode(line: bytes) -> tuple[str, EncodedEvent]:
        try:
            if not line.isascii():
                line.decode()  # msgspec does not check the strings that it skips
            fields = parse(line)
        except (ValueError, RecursionError) as error:
            refuse(line, error)
        name = fields.stream
        if name is None or (stream is not None and name != stream and not any_stream):
            _refuse_stream(name, stream)
        code, data = _content(fields)
        metadata = default_metadata if fields.metadata is None else _metadata(bytes(fields.metadata))
        if fields.tags:
            metadata = with_tags(fields.tags, metadata)
        if len(line) > MAX_EVENT_BYTES:
            check_size(len(data) + len(metadata or b""))
        id = fields.id if has_id else None
        if id is not None:
            id = canonical_uuid(id) or _uuid_bytes(id)
        return streams[name], (types[fields.type], id, code, data, metadata)

    return decode


def _own_parser(stream: str | None, ignored: Collection[str]) -> Callable[[bytes], Any]:
    """Return a function from a line to its fields; None where a field is missing."""
    import msgspec

    raw: Any = msgspec.Raw
    fields: dict[str, tuple[Any, ...]] = {
        "type": (str,),
        "stream": (str | None, stream),
        "id": (raw if "id" in ignored else str | None, None),
        "data": (raw, None),
        "metadata": (raw, None),
        "tags": (list[str] | None, None),
        "content_type": (str | None, None),
        "data_base64": (str | None, None),
    }
    names = {name: name for name in fields}
    for name in ("position", "version", "time", "redacted", *ignored):
        if name not in names.values():
            attribute = f"ignored{len(names)}"  # a name that Python can have
            fields[attribute], names[attribute] = (raw, None), name
    shape = msgspec.defstruct(
        "Line",
        [(name, *field) for name, field in fields.items()],
        rename=names,
        forbid_unknown_fields=True,
        gc=False,
    )
    parse: Callable[[bytes], Any] = msgspec.json.Decoder(shape).decode
    return parse


def _refuse_stream(name: str | None, stream: str | None) -> NoReturn:
    if name is None:
        raise InvalidLine("has no field `stream`; put it in, or give STREAM or --stream-field")
    raise InvalidLine(f"is for stream {name!r}, not {stream!r}; leave STREAM out to take it from the line")


def _content(fields: Any) -> tuple[int, bytes]:
    """Return the code of the content type and the data of a line in evlog's own shape."""
    data = None if fields.data is None else bytes(fields.data)
    if fields.content_type is not None or fields.data_base64 is not None:
        code, data = _other_content(fields.content_type, data, fields.data_base64)
        if code != JSON_CODE:
            return code, data
    if data is None:
        return JSON_CODE, b"{}"
    # A carriage return is between tokens: inside a string it would not be valid JSON.
    return JSON_CODE, data.replace(b"\r", b" ") if CARRIAGE_RETURN in data else data


class Checked(dict[str, str]):
    """A cache of names that have passed a check. For other names the check raises."""

    def __init__(self, check: Callable[[str], str]) -> None:
        self._check = check

    def __missing__(self, name: str) -> str:
        if len(self) >= CACHE_SIZE:
            self.clear()
        checked = self[name] = self._check(name)
        return checked


def canonical_uuid(text: str) -> bytes | None:
    """Return the 16 bytes of a UUID written as 8-4-4-4-12 hexadecimal digits; None for any other text."""
    if len(text) == 36 and text[8:24:5] == "----":
        try:
            raw = unhexlify(text.replace("-", ""))
        except ValueError:
            return None
        return raw if len(raw) == 16 else None
    return None


def _uuid_bytes(text: str) -> bytes:
    from uuid import UUID

    try:
        return UUID(text).bytes
    except ValueError:
        raise InvalidEvent(
            "id", f"{text[:80]!r} is not a UUID; `--id-field id` takes any text as a key"
        ) from None


def _metadata(raw: bytes) -> bytes | None:
    if raw in {b"{}", b"null"}:
        return None
    if not raw.startswith(b"{"):
        raise InvalidEvent("metadata", "must be a JSON object")
    return without_tags(raw.replace(b"\r", b" "))


def _other_content(content_type: str | None, data: bytes | None, base64: str | None) -> tuple[int, bytes]:
    """Return the code and data of a line that names its content type. InvalidEvent: they conflict."""
    if content_type == CONTENT_TYPES[JSON_CODE] and base64 is None:
        return JSON_CODE, b"{}" if data is None else data
    if content_type == CONTENT_TYPES[TEXT_CODE] and base64 is None:
        if data is None:
            return TEXT_CODE, b""
        if not data.startswith(b'"'):
            raise InvalidEvent("data", "of content type text must be a JSON string")
        import json

        return TEXT_CODE, json.loads(data).encode()
    if content_type == CONTENT_TYPES[BINARY_CODE] and data is None:
        from binascii import Error, a2b_base64

        try:
            return BINARY_CODE, a2b_base64(base64 or "", strict_mode=True)
        except (Error, ValueError):
            raise InvalidEvent("data_base64", "is not base64") from None
    if content_type is not None and content_type not in CONTENT_TYPES:
        raise InvalidEvent(
            "content type", f"{content_type[:80]!r} is unknown; use {', '.join(CONTENT_TYPES)}"
        )
    raise InvalidEvent("data", "must be `data_base64` for content type binary and `data` for the others")


def check_size(size_bytes: int) -> None:
    if size_bytes > MAX_EVENT_BYTES:
        raise EventTooLarge(size_bytes, MAX_EVENT_BYTES)


_JSON_NAMES: Final = {
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
    "object": "an object",
    "array": "an array",
}


def _of_wrong_type(text: str) -> str:
    """Return msgspec's message about a value of another type, in the words of JSON."""
    import re

    found = re.fullmatch(r"Expected `(.+?)`, got `(.+?)`(?: - at `\$\.?(.+)`)?", text)
    if found is None:
        return text[0].lower() + text[1:]
    expected, got = (
        " or ".join(dict.fromkeys(_JSON_NAMES.get(name, name) for name in names.split(" | ")))
        for names in found.group(1, 2)
    )
    place = found[3]
    return f"has {got} in `{place}`, not {expected}" if place else f"is {got}, not {expected}"


def _has_lone_surrogate(line: bytes) -> bool:
    """Return whether a line would be JSON without one, which the decoder takes for a line that is cut off."""
    import json

    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def refuse(line: bytes, error: Exception) -> NoReturn:
    """Raise InvalidLine with what the decoder found wrong with a line."""
    text = str(error)
    if isinstance(error, RecursionError):
        reason = "is nested too deeply"
    elif isinstance(error, UnicodeDecodeError):
        reason = "is not UTF-8"
    elif error.__class__.__name__ == "ValidationError":
        if "unknown field" in text:
            field = text.split("`")[1]
            reason = f"has the unknown field `{field}`; {_OTHER_SHAPE}"
        elif "missing required" in text:
            field = text.split("`")[1]
            reason = f"has no field `{field}`; {_OTHER_SHAPE}"
        else:
            reason = _of_wrong_type(text)
    elif _has_lone_surrogate(line):
        reason = "has a lone surrogate in a string, which is not a character"
    elif "truncated" in text:
        reason = "is not JSON: it ends too early" if line.strip() else "is empty"
    else:
        reason = f"is not JSON: {text.removeprefix('JSON is malformed: ')}"
    raise InvalidLine(reason) from None
