"""The rows of a query's result, by pyarrow, as JSON lines, csv, or a table: column by column."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pyarrow as pa

from evlog.cli._support.clock import readable_time
from evlog.cli._support.output import csv_cells, csv_rows
from evlog.errors import InvalidArgument
from evlog.model.json_lines import encode_time, quote

if TYPE_CHECKING:
    from evlog.adapters.sql import Result

_MOMENT: Final = "TIMESTAMP WITH TIME ZONE"
_NUMBERS: Final = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?$|FLOAT$|DOUBLE$|DECIMAL")
_encode: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


class Rows:
    """What draws the batches of a result.

    Attributes:
        names: of the columns; one that comes twice has a number after it.
        numbers: the names of those that hold numbers.
    """

    def __init__(self, result: Result) -> None:
        self.names: list[str] = []
        for name in result.names:
            unique, count = name, 0
            while unique in self.names:
                count += 1
                unique = f"{name}_{count}"
            self.names.append(unique)
        types = dict(zip(self.names, result.types, strict=True))
        self.numbers = frozenset(name for name, type in types.items() if _NUMBERS.match(type))
        self._types = list(types.values())
        pairs = (b"%b:%%b" % quote(name).replace(b"%", b"%%") for name in self.names)
        self._line = b"{%b}\n" % b",".join(pairs)

    def json_lines(self, batch: Any) -> bytes:
        """Return the rows as JSON objects, a line each."""
        return b"".join(map(self._line.__mod__, zip(*self._json_columns(batch), strict=True)))

    def csv_lines(self, batch: Any) -> bytes:
        """Return the rows as lines of csv: texts and times without quotes, a null as nothing."""
        columns = map(_as_texts, self._types, batch.columns)
        return csv_rows(
            [csv_cells([text.encode(errors="backslashreplace") for text in texts]) for texts in columns]
        )

    def cells(self, batch: Any) -> Iterable[Sequence[str]]:
        """Return the rows as people read them."""
        columns = []
        for type, column, made in zip(self._types, batch.columns, self._json_columns(batch), strict=True):
            if type == _MOMENT:
                columns.append(["" if at is None else readable_time(at) for at in _microseconds(column)])
            else:
                columns.append(list(map(_text, made)))
        return zip(*columns, strict=True)

    def _json_columns(self, batch: Any) -> list[Iterable[bytes]]:
        return [_as_json(type, column) for type, column in zip(self._types, batch.columns, strict=True)]


def _as_json(type: str, column: Any) -> Iterable[bytes]:
    """Return a column's values as JSON."""
    if type == _MOMENT:
        return [b"null" if at is None else b'"%b"' % encode_time(at) for at in _microseconds(column)]
    make = _MAKERS.get(type, _encode)
    try:
        values = column.to_pylist()
    except (OverflowError, ValueError):  # such as a date after the year 9999
        raise InvalidArgument(f"a {type} cannot be printed", "cast the column to varchar") from None
    return [b"null" if value is None else make(value) for value in values]


def _as_texts(type: str, column: Any) -> Iterable[str]:
    """Return a column's values as texts: what JSON makes of them, without the way through JSON for most."""
    if type == "VARCHAR":
        return ["" if text is None else text for text in column.to_pylist()]
    if type == "BIGINT":
        return ["" if number is None else str(number) for number in column.to_pylist()]
    return map(_text, _as_json(type, column))


def _microseconds(column: Any) -> Sequence[int | None]:
    found: list[int | None] = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
    return found


def _number(value: float) -> bytes:
    return _encode(value) if isfinite(value) else b'"%f"' % value


def _interval(value: Any) -> bytes:
    months, days, nanoseconds = value
    return _encode({"months": months, "days": days, "seconds": nanoseconds / 1e9})


def _json(text: str) -> bytes:
    return text.replace("\n", " ").encode()  # a query can write JSON of several lines


_MAKERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "JSON": _json,
    "VARCHAR": quote,
    "DOUBLE": _number,
    "FLOAT": _number,
    "INTERVAL": _interval,
    "UHUGEINT": lambda value: b"%d" % (int(value) % 2**128),  # Arrow has it with a sign
}


def _text(value: bytes) -> str:
    """Return a JSON value as a text: a string's content, nothing for null."""
    if value == b"null":
        return ""
    return str(msgspec.json.decode(value)) if value[:1] == b'"' else value.decode()
