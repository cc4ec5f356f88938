"""Events as columns of Arrow, by pyarrow: what Parquet files and SQL queries are made from.

Each function makes a column from `Items`: the items of some events' records, a sequence for each place in
them (see `model.events.Record`). A query that names two columns takes no others out of the records.
"""

from __future__ import annotations

from array import array
from binascii import hexlify
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa

from evlog.model.events import (
    BINARY_CODE,
    CONTENT_TYPES,
    JSON_CODE,
    OWN_BEGINS,
    REDACTED_BEGIN,
    TEXT_CODE,
    category_of,
    split_tags,
    tags_of,
)
from evlog.model.json_lines import quote

if TYPE_CHECKING:
    from evlog.model.events import Record

TIME: Final = pa.timestamp("us", tz="UTC")
_POSITION, _VERSION, _STREAM, _TYPE, _ID, _TIME, _CODE, _DATA, _METADATA = range(9)
_GETTERS: Final = tuple(map(itemgetter, range(9)))
_UUID_BYTES: Final = 36
_DASHES: Final = (8, 13, 18, 23)
_DIGITS: Final = [at for at in range(_UUID_BYTES) if at not in _DASHES]


class Items(Protocol):
    """The items of some events' records: all positions, all versions, and so on."""

    def __getitem__(self, place: int, /) -> Sequence[Any]: ...


class Picked(dict[int, Sequence[Any]]):
    """The items of events, taken out of the records when they are asked for."""

    def __init__(self, events: Sequence[Record]) -> None:
        self._events = events

    def __missing__(self, place: int) -> Sequence[Any]:
        found = self[place] = list(map(_GETTERS[place], self._events))
        return found


def positions(items: Items) -> Any:
    return pa.array(items[_POSITION], pa.int64())


def versions(items: Items) -> Any:
    return pa.array(items[_VERSION], pa.int64())


def streams(items: Items) -> Any:
    return pa.array(items[_STREAM], pa.string())


def categories(items: Items) -> Any:
    return pa.array(list(map(category_of, items[_STREAM])), pa.string())


def types(items: Items) -> Any:
    return pa.array(items[_TYPE], pa.string())


def ids(items: Items) -> Any:
    """Return the ids' 16 bytes."""
    return pa.array(items[_ID], pa.binary(16))


def id_texts(items: Items) -> Any:
    """Return the ids as UUIDs are written; made column by column, a digit of all ids at a time."""
    count = len(items[_ID])
    digits = hexlify(b"".join(items[_ID]))
    text = bytearray(b"-") * (count * _UUID_BYTES)
    for place, at in enumerate(_DIGITS):
        text[at::_UUID_BYTES] = digits[place::32]
    offsets = array("i", range(0, (count + 1) * _UUID_BYTES, _UUID_BYTES))
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))


def times(items: Items) -> Any:
    return pa.array(items[_TIME], pa.int64()).cast(TIME)


def content_types(items: Items) -> Any:
    codes = items[_CODE]
    if not any(codes):
        return pa.repeat(CONTENT_TYPES[JSON_CODE], len(codes))
    return pa.array(list(map(CONTENT_TYPES.__getitem__, codes)), pa.string())


def contents(items: Items) -> Any:
    """Return JSON and text as they are; null where the data is binary."""
    codes, datas = items[_CODE], items[_DATA]
    if any(codes):
        datas = [None if code == BINARY_CODE else data for code, data in zip(codes, datas, strict=True)]
    return _texts(datas)


def json_contents(items: Items) -> Any:
    """Return the data as JSON: text as a string; null where the data is binary."""
    codes, datas = items[_CODE], items[_DATA]
    if any(codes):
        datas = list(map(_maybe_json, codes, datas))
    return _texts(datas)


def _maybe_json(code: int, data: bytes) -> bytes | None:
    return data if code == JSON_CODE else quote(data.decode()) if code == TEXT_CODE else None


def raws(items: Items) -> Any:
    """Return binary data; null where it is JSON or text."""
    codes = items[_CODE]
    if BINARY_CODE not in codes:
        return pa.nulls(len(codes), pa.binary())
    found = [data if code == BINARY_CODE else None for code, data in zip(codes, items[_DATA], strict=True)]
    return pa.array(found, pa.binary())


def metadatas(items: Items) -> Any:
    """Return the metadata without tags, as JSON."""
    if not any(items[_METADATA]):
        return pa.repeat("{}", len(items[_METADATA]))
    return _texts(plain_metadatas(items))


def plain_metadatas(items: Items) -> list[bytes]:
    """Return the metadata without tags, as JSON."""
    return [
        split_tags(raw)[1] if raw and raw.startswith(OWN_BEGINS) else raw or b"{}" for raw in items[_METADATA]
    ]


def tag_texts(items: Items) -> Any:
    """Return the tags as JSON arrays."""
    if not any(items[_METADATA]):
        return pa.repeat("[]", len(items[_METADATA]))
    return _texts(
        [split_tags(raw)[0] if raw and raw.startswith(OWN_BEGINS) else b"[]" for raw in items[_METADATA]]
    )


def tag_lists(items: Items) -> Any:
    """Return the tags as lists of texts."""
    return pa.array(list(map(tags_of, items[_METADATA])), pa.list_(pa.string()))


def redacted(items: Items) -> Any:
    """Return whether the content was erased."""
    metadatas = items[_METADATA]
    if not any(metadatas):
        return pa.repeat(False, len(metadatas))
    return pa.array([bool(raw) and raw.startswith(REDACTED_BEGIN) for raw in metadatas], pa.bool_())


def _texts(values: Sequence[bytes | None]) -> Any:
    return pa.array(values, pa.binary()).cast(pa.string())  # which checks that they are UTF-8
