"""Parquet files of events, by pyarrow: typed columns, row groups in position order.

Readers skip row groups by the smallest and largest position and time in them.

A column can also be a value in the data or the metadata, such as `data.customer.name`. Its type is the one
that holds all of its values: BOOLEAN, INT64, DOUBLE or text, in which all but strings are JSON.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Final

import msgspec

from evlog.errors import ExtraNotInstalled, InvalidArgument
from evlog.model.events import JSON_CODE, Record
from evlog.model.paths import pick_present, split_path

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError as error:
    raise ExtraNotInstalled("a file .parquet", "pyarrow", "parquet", error) from error

from evlog.transfer import arrow

_GROUP_EVENTS: Final = 100_000
_GROUP_BYTES: Final = 256 << 20  # a row group is in memory until it is written
_MAX_INT: Final = 1 << 63
_LONGEST_INT: Final = 21  # digits; Python refuses to convert very long ones
_EXACT_INT: Final = 1 << 53  # beyond, a DOUBLE is not every number

Make = Callable[[arrow.Items], Any]
Columns = Mapping[str, tuple[Any, Make]]
"""The columns of a file: of each its field and what makes it of events' items."""


def _column(name: str, kind: Any, make: Make, *, nullable: bool = False) -> tuple[Any, Make]:
    return pa.field(name, kind, nullable=nullable), make


COLUMNS: Final[Columns] = {
    field.name: (field, make)
    for field, make in (
        _column("position", pa.int64(), arrow.positions),
        _column("stream", pa.string(), arrow.streams),
        _column("version", pa.int64(), arrow.versions),
        _column("id", pa.string(), arrow.id_texts),
        _column("type", pa.string(), arrow.types),
        _column("time", arrow.TIME, arrow.times),
        _column("content_type", pa.string(), arrow.content_types),
        _column("data", pa.string(), arrow.contents, nullable=True),  # JSON or text
        _column("raw", pa.binary(), arrow.raws, nullable=True),  # where the data is binary
        _column("metadata", pa.string(), arrow.metadatas),
        _column("tags", pa.string(), arrow.tag_texts),  # a JSON array
        _column("redacted", pa.bool_(), arrow.redacted),
    )
}
_OTHERS: Final[Columns] = {"category": _column("category", pa.string(), arrow.categories)}


class Parquet:
    """A Parquet file, compressed with zstandard, which pyarrow brings.

    Args:
        old: the file that it begins with; its columns must be these.
    """

    def __init__(self, path: str, old: str | None, _store_id: str, columns: Columns = COLUMNS) -> None:
        self.position = 0
        self.last_id: str | None = None
        self._makers = [make for _, make in columns.values()]
        self._schema = pa.schema([field for field, _ in columns.values()])
        self._before: Any = None if old is None else _open(old)
        before = self._before
        if before is not None:
            _check_columns(str(old), before.schema_arrow, self._schema)
        self._file = pa.OSFile(os.fsencode(path), "wb")  # a path as text would have to be UTF-8
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        self._waiting: list[Any] = []
        self._rows = 0
        self._bytes = 0  # of what waits
        if before is not None:
            for number in range(before.num_row_groups):
                table = before.read_row_group(number)
                self._writer.write_table(table.cast(self._schema))
                self.position = table.column("position")[-1].as_py()
                self.last_id = table.column("id")[-1].as_py() if "id" in columns else None

    def find_content(self, positions: Collection[int]) -> int | None:
        """Return one of these positions whose event the file that it continues has with content."""
        before = self._before
        wanted = pa.array(list(positions), pa.int64())
        for number in range(before.num_row_groups if before is not None else 0):
            is_wanted = pc.is_in(before.read_row_group(number, ["position"]).column(0), wanted)
            if pc.any(is_wanted).as_py():
                rows = before.read_row_group(number).filter(is_wanted).to_pylist()
                for row in filter(_has_content, rows):
                    return int(row["position"])
        return None

    def write(self, events: Sequence[Record]) -> None:
        """Add events; a row group is written when it is full."""
        self.position = events[-1][0]
        items = list(zip(*events, strict=True))
        arrays = [make(items) for make in self._makers]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._waiting.append(batch)
        self._rows += len(events)
        self._bytes += batch.nbytes
        if self._rows >= _GROUP_EVENTS or self._bytes >= _GROUP_BYTES:
            self._write_groups(all=self._bytes >= _GROUP_BYTES)

    def close(self) -> None:
        """Complete the content."""
        if self._rows:
            self._write_groups(all=True)
        self._writer.close()
        self._file.close()

    def _write_groups(self, *, all: bool) -> None:
        table = pa.Table.from_batches(self._waiting)
        whole = table.num_rows if all else table.num_rows // _GROUP_EVENTS * _GROUP_EVENTS
        self._writer.write_table(table.slice(0, whole), row_group_size=_GROUP_EVENTS)
        self._waiting = table.slice(whole).to_batches()
        self._rows = table.num_rows - whole
        self._bytes = sum(batch.nbytes for batch in self._waiting)


_ERASED: Final = {"data": "null", "raw": None, "metadata": "{}", "tags": "[]"}


def _has_content(row: Mapping[str, Any]) -> bool:
    """Return whether a row has what a redaction erases; a file may have no column that says so."""
    if "redacted" in row:
        return not row["redacted"]
    return any(
        value != _ERASED.get(name)
        for name, value in row.items()
        if name in _ERASED or name.startswith(("data.", "metadata."))
    )


def _open(path: str) -> Any:
    """Open a file to which events will be added."""
    try:
        file = pq.ParquetFile(pa.OSFile(os.fsencode(path)))
    except (pa.ArrowInvalid, OSError) as error:
        raise _foreign(path, str(error).splitlines()[0]) from None
    if "position" not in file.schema_arrow.names:
        raise _foreign(path, "it has no column position")
    return file


def _check_columns(path: str, own: Any, schema: Any) -> None:
    for field in schema:
        if field.name not in own.names or own.field(field.name) != field:
            raise _foreign(path, f"its column {field.name} is missing, or has another type")
    if own.names != schema.names:
        raise _foreign(path, "its columns are others")


def _foreign(path: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"cannot append to {path}: {reason}", "export to another file")


# --- values in the data


class _Value:
    """A column with the values at a path in the data or the metadata."""

    def __init__(self, name: str) -> None:
        first, _, rest = name.partition(".")
        if first not in {"data", "metadata"} or not rest or rest.startswith("."):
            names = ", ".join((*COLUMNS, *_OTHERS))
            raise InvalidArgument(f"unknown field {name!r}", f"use {names}, data.x or metadata.x")
        self.name = name
        self.kinds: set[str] = set()
        self._of_data = first == "data"
        self._pick = pick_present([split_path(rest)])

    def find(self, items: arrow.Items) -> list[bytes | None]:
        """Return the JSON of each event's value; None for null and where there is none."""
        if self._of_data:
            texts = [
                data if code == JSON_CODE else b"{}" for code, data in zip(items[6], items[7], strict=True)
            ]
        else:
            texts = arrow.plain_metadatas(items)
        found = [None if raw is None else bytes(raw) for (raw,) in map(self._pick, texts)]
        return [None if raw == b"null" else raw for raw in found]

    def column(self) -> tuple[Any, Make]:
        """Return the column of the type that holds all values of these kinds."""
        kind, as_value = _TYPES[_common(self.kinds)]
        return pa.field(self.name, kind), lambda items: pa.array(
            [None if raw is None else as_value(raw) for raw in self.find(items)], kind
        )


def _kind_of(raw: bytes) -> str:
    if raw in {b"true", b"false"}:
        return "bool"
    if raw[:1] in b'"{[':
        return "text"
    if b"." in raw or b"e" in raw or b"E" in raw:
        return "double" if isfinite(float(raw)) else "text"
    number = int(raw) if len(raw) < _LONGEST_INT else _MAX_INT
    return "int" if abs(number) <= _EXACT_INT else "big" if -_MAX_INT <= number < _MAX_INT else "text"


def _common(kinds: set[str]) -> str:
    """Return the kind of a column that holds values of all of these."""
    for kind, held in (("bool", {"bool"}), ("int", {"int", "big"}), ("double", {"int", "double"})):
        if kinds and kinds <= held:
            return kind
    return "text"


def _as_text(raw: bytes) -> str:
    """Return a string's content, and any other value as JSON."""
    return str(msgspec.json.decode(raw)) if raw[:1] == b'"' else raw.decode()


_TYPES: Final[Mapping[str, tuple[Any, Callable[[bytes], Any]]]] = {
    "bool": (pa.bool_(), b"true".__eq__),
    "int": (pa.int64(), int),
    "double": (pa.float64(), float),
    "text": (pa.string(), _as_text),
}


def choose_columns(
    names: Sequence[str], old: str | None, read: Callable[[int], Iterable[Sequence[Record]]]
) -> tuple[Columns, int]:
    """Return the columns with these names, and the last position whose events decided their types.

    Args:
        old: the file to which events will be added.
        read: returns the events after a position, in batches.

    Raises:
        InvalidArgument: one of the names is not a field.
    """
    known = {**COLUMNS, **_OTHERS}
    values = {name: _Value(name) for name in names if name not in known}
    position = 0
    if old is not None:
        file = _open(old)
        for name, value in values.items():
            if name in file.schema_arrow.names:
                own = file.schema_arrow.field(name).type
                value.kinds.update(kind for kind, (type, _) in _TYPES.items() if type == own)
        if file.num_row_groups:
            last = file.read_row_group(file.num_row_groups - 1, ["position"])
            position = last.column(0)[-1].as_py()
    for events in read(position):
        position = events[-1][0]
        items = arrow.Picked(events)
        for value in values.values():
            value.kinds.update(_kind_of(raw) for raw in value.find(items) if raw is not None)
    return {name: values[name].column() if name in values else known[name] for name in names}, position
