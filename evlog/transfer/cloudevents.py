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

Attributes that evlog does not have are not invented, so a line that evlog wrote comes back as it was.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any, Final

from evlog.model.events import BINARY_CODE, JSON_CODE, TAGS_BEGIN, Event, id_text, split_tags
from evlog.model.json_lines import encode_time, quote

_TYPES: Final = {JSON_CODE: b"application/json", BINARY_CODE: b"application/octet-stream"}
# Metadata that is a CloudEvents attribute of its own: distributed tracing is an extension of the standard.
_ATTRIBUTES: Final = {
    "$correlationId": "correlationid",
    "$causationId": "causationid",
    "traceparent": "traceparent",
}


def encode_cloudevents(events: Sequence[Event], store_id: str) -> Iterator[bytes]:
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


def _attributes(metadata: bytes) -> bytes:
    parts = []
    if metadata.startswith(TAGS_BEGIN):
        tags, metadata = split_tags(metadata)
        parts.append(b',"evlogtags":' + quote(tags.decode()))
    if metadata != b"{}":
        fields: dict[str, Any] = json.loads(metadata)
        for name, attribute in _ATTRIBUTES.items():
            if isinstance(fields.get(name), str):
                parts.append(b',"%b":%b' % (attribute.encode(), quote(fields[name])))
        if any(name not in _ATTRIBUTES or not isinstance(value, str) for name, value in fields.items()):
            parts.append(b',"evlogmetadata":' + quote(metadata.decode()))
    return b"".join(parts)
