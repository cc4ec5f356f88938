"""Events as CloudEvents 1.0 in structured JSON, one a line, and back.

    id               the event's id                 source        urn:evlog:STORE_ID
    type             the event's type               subject       the stream
    time             RFC 3339                       sequence      the position, 20 digits
    datacontenttype  application/json, text/plain or application/octet-stream
    data             JSON or text                   data_base64   binary data
    correlationid  causationid  traceparent         where the event has them
    evlogversion     the version in the stream
    evlogmetadata    the rest of the metadata, as JSON text
    evlogtags        the tags, as JSON text
    evlogredacted    true where the content was erased

Attributes that evlog does not have are not invented, so a line that evlog wrote comes back as it was. Of
other producers' events everything else goes into the metadata under its own name, `source` and `time` too. An
`id` that is not a UUID becomes an idempotency key, together with the source: by the standard both are unique.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from evlog.model.encoding import check_json, without_tags
from evlog.model.events import (
    BINARY_CODE,
    JSON_CODE,
    OWN_BEGINS,
    REDACTED_BEGIN,
    TEXT_CODE,
    EncodedEvent,
    Record,
    check_stream_name,
    check_type,
    id_of_key,
    id_text,
    split_tags,
)
from evlog.model.json_lines import InvalidLine, canonical_uuid, encode_time, quote, refuse
from evlog.model.json_text import decode_without_numbers
from evlog.model.links import KEY
from evlog.model.tags import add_tags

_TYPES: Final = {JSON_CODE: b"application/json", BINARY_CODE: b"application/octet-stream"}
# Metadata that is a CloudEvents attribute of its own: distributed tracing is an extension of the standard.
_ATTRIBUTES: Final = {
    "$correlationId": "correlationid",
    "$causationId": "causationid",
    "traceparent": "traceparent",
}


def encode_cloudevents(events: Sequence[Record], store_id: str) -> Iterator[bytes]:
    """Yield each event as one line.

    Args:
        store_id: of the store that the events are from.
    """
    source = quote(f"urn:evlog:{store_id}")
    for position, version, stream, type, id, time_us, code, data, metadata in events:
        yield b"".join(
            (
                b'{"specversion":"1.0","id":"%b","source":%b,"type":%b,"subject":%b,"time":"%b","sequence":"%020d"'
                % (id_text(id).encode(), source, quote(type), quote(stream), encode_time(time_us), position),
                b',"evlogversion":%d' % version,
                _attributes(metadata) if metadata else b"",
                b',"datacontenttype":"%b"' % _TYPES.get(code, b"text/plain"),
                _data(code, data),
                b"}\n",
            )
        )


def _data(code: int, data: bytes) -> bytes:
    if code == JSON_CODE:
        return b',"data":' + data
    if code == BINARY_CODE:
        return b',"data_base64":"' + b64encode(data) + b'"'
    return b',"data":' + quote(data.decode())


def _attributes(raw: bytes) -> bytes:
    parts, metadata = [], raw
    if raw.startswith(OWN_BEGINS):
        tags, metadata = split_tags(raw)
        if tags != b"[]":
            parts.append(b',"evlogtags":' + quote(tags.decode()))
        if raw.startswith(REDACTED_BEGIN):
            parts.append(b',"evlogredacted":true')
    if metadata != b"{}":
        fields: dict[str, Any] = decode_without_numbers(metadata.decode())
        for name, attribute in _ATTRIBUTES.items():
            if isinstance(fields.get(name), str):
                parts.append(b',"%b":%b' % (attribute.encode(), quote(fields[name])))
        if any(name not in _ATTRIBUTES or not isinstance(value, str) for name, value in fields.items()):
            parts.append(b',"evlogmetadata":' + quote(metadata.decode()))
    return b"".join(parts)


# --- coming in

_OWN: Final = frozenset(
    {"specversion", "id", "type", "subject", "datacontenttype", "data", "data_base64", "evlogtags"}
)
_OF_EVLOG: Final = frozenset({"source", "time", "sequence", "evlogversion", "evlogmetadata", "evlogredacted"})
_NAMES: Final = {attribute: name for name, attribute in _ATTRIBUTES.items()}
_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")  # JSON has line breaks between tokens alone
_decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode  # no number changes its digits
_decode_tags: Final = msgspec.json.Decoder(list[str]).decode


def cloudevents_decoder(stream: str | None = None) -> Callable[[bytes], tuple[str, EncodedEvent]]:
    """Return a function from one line, a CloudEvent in structured JSON, to a stream and an event.

    Args:
        stream: of all events; None: the subject of each.

    Raises:
        InvalidLine, InvalidEvent: from the function: it is not such an event.
    """

    def decode(line: bytes) -> tuple[str, EncodedEvent]:
        try:
            line.decode()
            fields = _decode_fields(line)
            texts = {
                name: decode_without_numbers(bytes(value).decode())
                for name, value in fields.items()
                if name != "data"
            }
        except (ValueError, RecursionError) as error:
            refuse(line, error)
        if texts.get("specversion") != "1.0":
            raise InvalidLine("is not a CloudEvent of specversion 1.0")
        for name in ("id", "type", "source"):
            if not isinstance(texts.get(name), str) or not texts[name]:
                raise InvalidLine(f"has no {name}, which a CloudEvent must have")
        subject = stream if stream is not None else texts.get("subject")
        if not isinstance(subject, str):
            raise InvalidLine("has no subject to be its stream; give STREAM")
        code, data = _content(fields.get("data"), texts)
        id, metadata = _id_and_metadata(fields, texts)
        return check_stream_name(subject), (check_type(texts["type"]), id, code, data, metadata)

    return decode


def _content(raw: msgspec.Raw | None, texts: dict[str, Any]) -> tuple[int, bytes]:
    """Return the code of evlog's content type, and the data."""
    kind = texts.get("datacontenttype") or "application/json"
    if not isinstance(kind, str):
        raise InvalidLine("has a datacontenttype that is not a text")
    is_json = kind.partition(";")[0].strip().endswith(("/json", "+json"))
    if "data_base64" in texts:
        try:
            data = b64decode(texts["data_base64"], validate=True)
        except (ValueError, TypeError):
            raise InvalidLine("has data_base64 that is not base64") from None
        if not is_json:
            return BINARY_CODE, data
        check_json([data])
        return JSON_CODE, data
    if raw is None:
        return JSON_CODE, b"{}"
    data = bytes(raw).replace(b"\r", b" ")
    if not is_json and data.startswith(b'"'):
        return TEXT_CODE, str(json.loads(data)).encode()
    return JSON_CODE, data


def _id_and_metadata(fields: dict[str, msgspec.Raw], texts: dict[str, Any]) -> tuple[bytes, bytes | None]:
    try:
        rest: dict[str, msgspec.Raw | str] = {**_decode_fields(texts.get("evlogmetadata", "{}"))}
        tags = _decode_tags(texts.get("evlogtags", "[]"))
    except (ValueError, TypeError, RecursionError):
        raise InvalidLine("has evlogmetadata or evlogtags that evlog did not write") from None
    skipped = _OWN | _OF_EVLOG if "evlogversion" in texts else _OWN
    for name, value in fields.items():
        if name not in skipped:
            rest.setdefault(_NAMES.get(name, name), value)
    id = canonical_uuid(texts["id"])
    if id is None:
        key = f"{texts['source']} {texts['id']}"
        id = id_of_key(key)
        rest[KEY] = key
    metadata = msgspec.json.encode(rest).translate(_SPACES) if rest else None
    return id, add_tags(tags, metadata and without_tags(metadata))
