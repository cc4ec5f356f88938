"""Parquet files of events, by pyarrow: typed columns, row groups in position order.

Readers skip row groups by the smallest and largest position and time in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from evlog.errors import ExtraNotInstalled, InvalidArgument
from evlog.model.events import BINARY_CODE, CONTENT_TYPES, OWN_BEGINS, Event, id_text, split_tags

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError:
    raise ExtraNotInstalled("a file .parquet", "pyarrow", "parquet") from None

_GROUP_EVENTS: Final = 100_000
_SCHEMA: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("stream", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("type", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("content_type", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("data", pa.string()),  # JSON or text
        pa.field("raw", pa.binary()),  # where the data is binary
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("tags", pa.string(), nullable=False),  # a JSON array
    ]
)


class Parquet:
    """A Parquet file, compressed with zstandard, which pyarrow brings."""

    def __init__(self, path: str, old: str | None) -> None:
        self.position = 0
        before = None if old is None else _open(old)
        self._writer = pq.ParquetWriter(path, _SCHEMA, compression="zstd")
        self._waiting: list[Event] = []
        if before is not None:
            for number in range(before.num_row_groups):
                table = before.read_row_group(number)
                self._writer.write_table(table.cast(_SCHEMA))
                self.position = table.column("position")[-1].as_py()

    def write(self, events: Sequence[Event]) -> None:
        """Add events; a row group is written when it is full."""
        self._waiting += events
        self.position = events[-1].position
        while len(self._waiting) >= _GROUP_EVENTS:
            self._write_group(self._waiting[:_GROUP_EVENTS])
            del self._waiting[:_GROUP_EVENTS]

    def close(self) -> None:
        """Complete the content."""
        if self._waiting:
            self._write_group(self._waiting)
        self._writer.close()

    def _write_group(self, events: Sequence[Event]) -> None:
        columns: list[Any] = list(zip(*events, strict=True))
        positions, versions, streams, types, ids, times, codes, datas, metadatas = columns
        split = [
            split_tags(raw) if raw and raw.startswith(OWN_BEGINS) else (b"[]", raw or b"{}")
            for raw in metadatas
        ]
        binary = [code == BINARY_CODE for code in codes]
        texts = [None if is_raw else data for data, is_raw in zip(datas, binary, strict=True)]
        raws = [data if is_raw else None for data, is_raw in zip(datas, binary, strict=True)]
        arrays = [
            pa.array(positions, pa.int64()),
            pa.array(streams, pa.string()),
            pa.array(versions, pa.int64()),
            pa.array(map(id_text, ids), pa.string()),
            pa.array(types, pa.string()).dictionary_encode(),
            pa.array(times, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            pa.array([CONTENT_TYPES[code] for code in codes], pa.string()).dictionary_encode(),
            pa.array(texts, pa.binary()).cast(pa.string()),
            pa.array(raws, pa.binary()),
            pa.array([rest for _, rest in split], pa.binary()).cast(pa.string()),
            pa.array([tags for tags, _ in split], pa.binary()).cast(pa.string()),
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), row_group_size=_GROUP_EVENTS)


def _open(path: str) -> Any:
    try:
        file = pq.ParquetFile(path)
        if file.schema_arrow.names == _SCHEMA.names:
            return file
        reason = "its columns are others"
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
    raise InvalidArgument(f"cannot append to {path}: {reason}", "export to another file")
