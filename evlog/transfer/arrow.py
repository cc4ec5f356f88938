"""Events as columns of Arrow, by pyarrow: what Parquet files and SQL queries are made from.

A column is made from the items of the events' records that it needs, and from nothing else: a query that
names two columns pays for two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final

import pyarrow as pa

from evlog.model.events import (
    BINARY_CODE,
    CONTENT_TYPES,
    JSON_CODE,
    OWN_BEGINS,
    TEXT_CODE,
    Event,
    category_of,
    split_tags,
    tags_of,
)
from evlog.model.json_lines import encode_ids, quote

TIME: Final = pa.timestamp("us", tz="UTC")
_POSITION, _VERSION, _STREAM, _TYPE, _ID, _TIME, _CODE, _DATA, _METADATA = map(itemgetter, range(9))

Events = Sequence[Event]


def texts(values: Sequence[bytes | None]) -> Any:
    """Return bytes as a column of texts; they must be UTF-8."""
    return pa.array(values, pa.binary()).cast(pa.string())


def positions(events: Events) -> Any:
    return pa.array(list(map(_POSITION, events)), pa.int64())


def versions(events: Events) -> Any:
    return pa.array(list(map(_VERSION, events)), pa.int64())


def streams(events: Events) -> Any:
    return pa.array(list(map(_STREAM, events)), pa.string())


def categories(events: Events) -> Any:
    return pa.array([category_of(stream) for stream in map(_STREAM, events)], pa.string())


def types(events: Events) -> Any:
    return pa.array(list(map(_TYPE, events)), pa.string())


def ids(events: Events) -> Any:
    """Return the ids' 16 bytes."""
    return pa.array(list(map(_ID, events)), pa.binary(16))


def id_texts(events: Events) -> Any:
    """Return the ids as UUIDs are written."""
    return texts(list(encode_ids(list(map(_ID, events)))))


def times(events: Events) -> Any:
    return pa.array(list(map(_TIME, events)), pa.int64()).cast(TIME)


def content_types(events: Events) -> Any:
    return pa.array([CONTENT_TYPES[code] for code in map(_CODE, events)], pa.string())


def contents(events: Events) -> Any:
    """Return JSON and text as they are; null where the data is binary."""
    return texts(_with_codes(events, BINARY_CODE, lambda _: None))


def json_contents(events: Events) -> Any:
    """Return the data as JSON: text as a string; null where the data is binary."""
    found = _with_codes(events, BINARY_CODE, lambda _: None)
    return texts(_with_codes(events, TEXT_CODE, lambda data: quote(data.decode()), found))


def _with_codes(
    events: Events, code: int, made: Callable[[bytes], bytes | None], datas: Sequence[Any] | None = None
) -> Sequence[bytes | None]:
    """Return the events' data, or what is made of it where its content type has this code."""
    datas = list(map(_DATA, events)) if datas is None else datas
    codes = list(map(_CODE, events))
    if code not in codes:
        return datas
    return [made(data) if own == code else data for own, data in zip(codes, datas, strict=True)]


def raws(events: Events) -> Any:
    """Return binary data; null where it is JSON or text."""
    found = _with_codes(events, JSON_CODE, lambda _: None)
    return pa.array(_with_codes(events, TEXT_CODE, lambda _: None, found), pa.binary())


def metadatas(events: Events) -> Any:
    """Return the metadata without tags, as JSON."""
    return texts(
        [
            split_tags(raw)[1] if raw and raw.startswith(OWN_BEGINS) else raw or b"{}"
            for raw in map(_METADATA, events)
        ]
    )


def tag_texts(events: Events) -> Any:
    """Return the tags as JSON arrays."""
    return texts(
        [
            split_tags(raw)[0] if raw and raw.startswith(OWN_BEGINS) else b"[]"
            for raw in map(_METADATA, events)
        ]
    )


def tag_lists(events: Events) -> Any:
    """Return the tags as lists of texts."""
    return pa.array([tags_of(raw) for raw in map(_METADATA, events)], pa.list_(pa.string()))
