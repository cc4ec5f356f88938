"""The forms in which events are printed: json, pretty, table, data and csv.

A form draws a batch of events at a time, so memory is bounded and a live tail can use it. Forms for people
(pretty, table) escape control characters and show local times on a terminal; the forms for programs give
every byte as it is and times in UTC, and `console.write` escapes them if stdout is a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

from evlog.cli._support import console
from evlog.cli._support.clock import readable_time
from evlog.cli._support.fields import EVENT_FIELDS, Fields
from evlog.errors import EvlogError
from evlog.model.events import BINARY_CODE, JSON_CODE, Event
from evlog.model.json_lines import CHUNK_BYTES, encode_lines

EVENT_COLUMNS: Final = ("position", "stream", "version", "type", "time", "data")
_CSV_FIELDS: Final = tuple(name for name in EVENT_FIELDS if name != "category")
# These texts never need quotes in csv.
_PLAIN_IN_CSV: Final = frozenset({"position", "version", "id", "time", "content_type", "redacted"})
_BATCH_EVENTS: Final = 1000
_TABLE_ROWS: Final = 200  # in a batch; the widths of a table's columns are chosen from one batch
_BATCH_BYTES: Final = CHUNK_BYTES
_DATA_SHOWN_BYTES: Final = 24
_needs_quotes: Final = re.compile(rb'[",\r\n]').search


class Form(Protocol):
    """A form of output."""

    batch_events: int
    """how many events at a time are best"""

    def begin(self) -> bytes:
        """Return what comes before the first event, also if there is none."""

    def heading(self) -> bytes:
        """Return what `begin` returns, and the names of columns, for a user who waits for the first event."""

    def draw(self, events: Sequence[Event]) -> bytes:
        """Return some events, at least one, in this form."""


def make_form(name: str, fields: Sequence[str] | None, *, one_stream: bool, live: bool = False) -> Form:
    """Return the form.

    Args:
        name: json, pretty, table, data or csv.
        fields: what to show of an event; None: what the form shows otherwise.
        one_stream: all events are of one stream, so a table does not name it in each row.
        live: events come one at a time.
    """
    if name == "json":
        return JsonForm(fields)
    if name == "csv":
        return CsvForm(fields or _CSV_FIELDS)
    if name == "pretty":
        return PrettyForm(fields)
    if name == "data":
        return DataForm()
    return TableForm(fields, one_stream=one_stream, live=live)


def in_batches(events: Iterable[Event], most: int) -> Iterator[list[Event]]:
    """Yield the events, at most `most` at a time; if an error ends them, those before it come first."""
    batch: list[Event] = []
    size_bytes = 0
    try:
        for event in events:
            batch.append(event)
            size_bytes += len(event[7])
            if len(batch) == most or size_bytes >= _BATCH_BYTES:
                yield batch
                batch = []
                size_bytes = 0
    except EvlogError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


class _Plain:
    """A form that begins with its first event."""

    batch_events = _BATCH_EVENTS

    def begin(self) -> bytes:
        return b""

    def heading(self) -> bytes:
        return self.begin()


class JsonForm(_Plain):
    """One JSON object a line."""

    def __init__(self, names: Sequence[str] | None) -> None:
        self._fields = None if names is None else Fields(names)
        if names is not None:
            self._shape, self._binary_shape = (
                _shape(names),
                _shape(["data_base64" if name == "data" else name for name in names]),
            )

    def draw(self, events: Sequence[Event]) -> bytes:
        if self._fields is None:
            return b"".join(encode_lines(events))
        rows = zip(*self._fields.as_json(events), strict=True)
        if all(event[6] != BINARY_CODE for event in events):
            return b"".join(map(self._shape.__mod__, rows))
        return b"".join(
            (self._binary_shape if event[6] == BINARY_CODE else self._shape) % row
            for event, row in zip(events, rows, strict=True)
        )


def _shape(names: Sequence[str]) -> bytes:
    import json

    keys = [json.dumps(name, ensure_ascii=False).encode().replace(b"%", b"%%") for name in names]
    return b"{" + b",".join(key + b":%b" for key in keys) + b"}\n"


class DataForm(_Plain):
    """Just the data, byte for byte, and a line break after each; a terminal gets no binary data."""

    def draw(self, events: Sequence[Event]) -> bytes:
        if console.stdout_is_terminal():
            return b"".join(
                (_described(event.data).encode() if event[6] == BINARY_CODE else event.data) + b"\n"
                for event in events
            )
        return b"".join([event.data + b"\n" for event in events])


class CsvForm(_Plain):
    """Comma-separated values (RFC 4180, but with plain line breaks) under a line of names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._fields = Fields(names)

    def begin(self) -> bytes:
        return csv_row(self._fields.names)

    def draw(self, events: Sequence[Event]) -> bytes:
        columns = [
            column if name in _PLAIN_IN_CSV else csv_cells(column)
            for name, column in zip(self._fields.names, self._fields.as_text(events), strict=True)
        ]
        return csv_rows(columns)


def csv_rows(columns: Sequence[Iterable[bytes]]) -> bytes:
    """Return lines of csv, from columns of cells."""
    if len(columns) == 1:
        return b"".join([(cell or b'""') + b"\n" for cell in columns[0]])
    return b"\n".join([*map(b",".join, zip(*columns, strict=True)), b""])


def csv_row(texts: Sequence[str]) -> bytes:
    """Return a line of csv."""
    cells = csv_cells([text.encode(errors="backslashreplace") for text in texts])
    return (b",".join(cells) if cells != [b""] else b'""') + b"\n"


def csv_cells(texts: Iterable[bytes]) -> Sequence[bytes]:
    """Return the cells of texts: of a row, or of a column, which costs less."""
    texts = list(texts)
    if _needs_quotes(b" ".join(texts)) is None:
        return texts
    # The csv module of early Python 3.11 does not quote a bare carriage return.
    return [text if _needs_quotes(text) is None else b'"%b"' % text.replace(b'"', b'""') for text in texts]


class PrettyForm(_Plain):
    """A paragraph for each event, its data indented."""

    def __init__(self, names: Sequence[str] | None) -> None:
        self._fields = None if names is None else Fields(names)
        self._coloured = console.has_colour()

    def draw(self, events: Sequence[Event]) -> bytes:
        if self._fields is None:
            return console.Styled("".join(map(self._paragraph, events)).encode(errors="backslashreplace"))
        return console.Styled(b"".join(self._named_values(events, self._fields)))

    def _paragraph(self, event: Event) -> str:
        head = (
            self._paint("33", str(event.position)),
            self._paint("1", event.stream),
            f"version {event.version}",
            self._paint("1;36", event.type),
            readable_time(event.time_us, exact=True),
        )
        content = "redacted" if event.redacted else _readable(event)
        lines = ["  ".join(head), self._paint("2", f"    id {event.id}"), *_indented(content)]
        if event.tags:
            lines += _indented(f"tags {', '.join(event.tags)}")
        if event.metadata_bytes != b"{}":
            lines += _indented("metadata " + pretty_json(event.metadata_bytes))
        return "\n".join([*lines, "", ""])

    def _paint(self, style: str, text: str) -> str:
        text = console.printable(text)
        return f"\x1b[{style}m{text}\x1b[0m" if self._coloured else text

    def _named_values(self, events: Sequence[Event], fields: Fields) -> Iterator[bytes]:
        for row in zip(*fields.as_text(events), strict=True):
            for name, text in zip(fields.names, row, strict=True):
                shown = console.printable(text.decode(errors="backslashreplace"))
                yield f"{name}: {shown}\n".encode(errors="backslashreplace")
            yield b"\n"


def _readable(event: Event) -> str:
    if event[6] == JSON_CODE:
        return pretty_json(event.data)
    return _described(event.data) if event[6] == BINARY_CODE else event.data.decode()


def _described(data: bytes) -> str:
    more = " …" if len(data) > _DATA_SHOWN_BYTES else ""
    return f"{len(data)} bytes: {data[:_DATA_SHOWN_BYTES].hex(' ')}{more}"


def pretty_json(data: bytes) -> str:
    """Return JSON with line breaks and indents."""
    import msgspec

    try:
        return msgspec.json.format(data, indent=2).decode()
    except (msgspec.DecodeError, RecursionError):
        return data.decode()  # nested deeper than msgspec can follow


def _indented(text: str) -> list[str]:
    return ["    " + console.printable(line) for line in text.split("\n")]


class TableForm(_Plain):
    """A line for each event; on a terminal its last column is cut to fit."""

    batch_events = _TABLE_ROWS

    def __init__(self, names: Sequence[str] | None, *, one_stream: bool, live: bool) -> None:
        from evlog.cli._support.table import MEDIUM, WIDE, Table

        chosen = names or [name for name in EVENT_COLUMNS if not (one_stream and name == "stream")]
        self._fields = Fields(chosen)
        least = {"time": MEDIUM} if one_stream else {"version": WIDE, "time": MEDIUM}
        self._table = Table(chosen, least_columns=None if names else least, roomy=live)

    def draw(self, events: Sequence[Event]) -> bytes:
        columns: list[Any] = [
            [readable_time(event.time_us) for event in events]
            if name == "time"
            else [text.decode(errors="backslashreplace") for text in column]
            for name, column in zip(self._fields.names, self._fields.as_text(events), strict=True)
        ]
        return self._table.draw(zip(*columns, strict=True))

    def heading(self) -> bytes:
        return self._table.draw([])
