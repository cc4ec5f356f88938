"""Values in PostgreSQL's binary format, as parameters and results of the statements that appends need.

An array of one dimension is (all numbers big-endian, 4 bytes):

    1 if there is a dimension | 1 if there is a null | type of the elements | elements | 1 (the first index)
    for each element: its length in bytes, or -1 for null | its bytes

psycopg's adaptation of lists takes longer than the whole append.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

BYTEA: Final = 17
INT4: Final = 23
TEXT: Final = 25
JSON: Final = 114
UUID: Final = 2950

MAX_INT8: Final = (1 << 63) - 1
TRUE: Final = b"\1"
FALSE: Final = b"\0"

_HEAD: Final = Struct(">5i")
_HEAD_OF_ONE: Final = Struct(">6i")
_NULL: Final = b"\xff\xff\xff\xff"
_UUID_LENGTH: Final = (16).to_bytes(4)
_LENGTH: Final = Struct(">i")
_size = _LENGTH.pack


def array(type: int, values: Sequence[bytes | None]) -> bytes:
    """Return an array of a type with elements of any length."""
    if len(values) == 1 and (value := values[0]) is not None:  # most appends have one event
        return _HEAD_OF_ONE.pack(1, 0, type, 1, 1, len(value)) + value
    parts = [_HEAD.pack(1, None in values, type, len(values), 1)]
    for value in values:
        parts += (_NULL,) if value is None else (_size(len(value)), value)
    return b"".join(parts)


def texts(values: Sequence[str]) -> bytes:
    """Return an array of texts."""
    return array(TEXT, [value.encode() for value in values])


def uuids(values: Sequence[bytes]) -> bytes:
    """Return an array of UUIDs."""
    return _UUID_LENGTH.join((_HEAD.pack(1, 0, UUID, len(values), 1), *values))


def int4s(values: Sequence[int]) -> bytes:
    """Return an array of small numbers."""
    return array(INT4, [_size(value) for value in values])


def int8(value: int) -> bytes:
    """Return a large number; beyond what 8 bytes hold, the last that they hold."""
    return min(value, MAX_INT8).to_bytes(8, signed=True)


def boolean(value: bool) -> bytes:
    """Return a boolean."""
    return TRUE if value else FALSE


def read_record(raw: bytes | None) -> list[bytes | None]:
    """Return the fields of a record: each is its type, its length or -1 for null, and its bytes."""
    assert raw is not None
    fields: list[bytes | None] = []
    at = 4
    for _ in range(int.from_bytes(raw[:4])):
        (length,) = _LENGTH.unpack_from(raw, at + 4)
        at += 8
        fields.append(None if length < 0 else raw[at : at + length])
        at += max(0, length)
    return fields


def read_int8s(raw: bytes | None) -> list[int]:
    """Return an array of large numbers, none of them null."""
    assert raw is not None
    (count,) = unpack_from(">i", raw, 12)
    return list(unpack_from(">" + "4xq" * count, raw, _HEAD.size))


def read_booleans(raw: bytes) -> list[bool]:
    """Return an array of booleans, none of them null."""
    return [byte == 1 for byte in raw[_HEAD.size + 4 :: 5]]
