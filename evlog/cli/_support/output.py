"""The forms in which `evlog read` prints events: json, pretty, table, data and csv.

Each is a function from events to chunks of bytes. Memory is bounded in all of them: a table is drawn in
parts whose columns only grow. Forms for people (pretty, table) escape control characters; the forms for
programs give every byte as it is, and `console.write` escapes them if stdout is a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from evlog.cli._support import console
from evlog.cli._support.fields import as_text, make_field
from evlog.errors import EvlogError
from evlog.model.events import BINARY_CODE, JSON_CODE, Event
from evlog.model.json_lines import CHUNK_BYTES, encode_lines, encode_time

Form = Callable[[Iterable[Event], Sequence[str] | None], Iterator[bytes]]
"""Turns events, and the fields that are asked for (None: the form's own), into bytes to print."""

_CSV_FIELDS: Final = (
    "position",
    "stream",
    "version",
    "id",
    "type",
    "time",
    "content_type",
    "data",
    "metadata",
    "tags",
)
_TABLE_FIELDS: Final = ("position", "stream", "version", "type", "time", "data")
_RIGHT: Final = frozenset({"position", "version", "events", "first_version", "last_version"})
_TIMES: Final = frozenset({"time", "last_time"})
_YEAR: Final = len("2026-")
# The widths of a table's columns come from its first rows, at most this many.
_TABLE_ROWS: Final = 200
_GAP: Final = "  "
# The width that the last column, mostly the data, keeps on a narrow terminal before other columns are cut.
_LAST_WIDTH: Final = 16
_SHORTEST_TEXT: Final = 4


def as_json(events: Iterable[Event], fields: Sequence[str] | None) -> Iterator[bytes]:
    """One JSON object a line."""
    if fields is None:
        return encode_lines(events)
    return _gathered(_json_objects(events, fields))


def _json_objects(events: Iterable[Event], names: Sequence[str]) -> Iterator[bytes]:
    import json

    binary = ["data_base64" if name == "data" else name for name in names]
    keys = [json.dumps(name, ensure_ascii=False).encode() + b":" for name in names]
    binary_keys = [json.dumps(name, ensure_ascii=False).encode() + b":" for name in binary]
    takes = [make_field(name) for name in names]
    for event in events:
        chosen = binary_keys if event[6] == BINARY_CODE else keys
        values = [key + (take(event) or b"null") for key, take in zip(chosen, takes, strict=True)]
        yield b"{%b}\n" % b",".join(values)


def as_data(events: Iterable[Event], fields: Sequence[str] | None) -> Iterator[bytes]:  # noqa: ARG001 - a Form
    """Just the data, byte for byte, and a line break after each."""
    return _gathered(event.data + b"\n" for event in events)


def as_csv(events: Iterable[Event], fields: Sequence[str] | None) -> Iterator[bytes]:
    """Comma-separated values (RFC 4180, but with plain line breaks) under a line of names."""
    names = fields or _CSV_FIELDS
    takes = [make_field(name) for name in names]
    yield _csv_row(names)
    yield from _gathered(_csv_row([as_text(take(event)) for take in takes]) for event in events)


def _csv_row(values: Sequence[str]) -> bytes:
    # The csv module of early Python 3.11 does not quote a bare carriage return.
    cells = [
        '"' + value.replace('"', '""') + '"' if any(char in value for char in ',"\r\n') else value
        for value in values
    ]
    return (",".join(cells) if cells != [""] else '""').encode() + b"\n"


def as_pretty(events: Iterable[Event], fields: Sequence[str] | None) -> Iterator[bytes]:
    """A paragraph for each event, its data indented."""
    if fields is not None:
        return _gathered(_named_values(events, fields))
    return _gathered(_paragraphs(events))


def _paragraphs(events: Iterable[Event]) -> Iterator[bytes]:
    from typer import style

    def paint(text: str, **colours: Any) -> str:
        text = console.printable(text)
        return style(text, **colours) if coloured else text

    coloured = console.has_colour()
    for event in events:
        head = (
            paint(str(event.position), fg="yellow"),
            paint(event.stream, bold=True),
            f"version {event.version}",
            paint(event.type, fg="cyan", bold=True),
            encode_time(event.time_us).decode(),
        )
        lines = ["  ".join(head), paint(f"    id {event.id}", dim=True), *_indented(_readable(event), "    ")]
        if event.tags:
            lines += _indented(f"tags {', '.join(event.tags)}", "    ")
        if event.metadata_bytes != b"{}":
            lines += _indented("metadata " + _pretty_json(event.metadata_bytes), "    ")
        yield console.Styled("\n".join([*lines, "", ""]).encode())


def _readable(event: Event) -> str:
    if event[6] == JSON_CODE:
        return _pretty_json(event.data)
    if event[6] == BINARY_CODE:
        return f"{len(event.data)} bytes: {event.data[:24].hex(' ')}{' …' if len(event.data) > 24 else ''}"
    return event.data.decode()


def _pretty_json(data: bytes) -> str:
    import msgspec

    try:
        return msgspec.json.format(data, indent=2).decode()
    except (msgspec.DecodeError, RecursionError):
        return data.decode()  # nested deeper than msgspec can follow


def _indented(text: str, indent: str) -> list[str]:
    return [indent + console.printable(line) for line in text.split("\n")]


def _named_values(events: Iterable[Event], names: Sequence[str]) -> Iterator[bytes]:
    takes = [(name, make_field(name)) for name in names]
    for event in events:
        lines = [f"{name}: {console.printable(as_text(take(event)))}\n" for name, take in takes]
        yield console.Styled("".join([*lines, "\n"]).encode())


def as_table(events: Iterable[Event], fields: Sequence[str] | None) -> Iterator[bytes]:
    """A line for each event; on a terminal its last column is cut to fit."""
    names = fields or _TABLE_FIELDS
    takes = [(name, make_field(name)) for name in names]
    return draw_table(
        names, ([_cell(name, as_text(take(event))) for name, take in takes] for event in events)
    )


def _cell(name: str, text: str) -> str:
    return readable_time(text) if name in _TIMES else text


def readable_time(text: str) -> str:
    """Return an ISO time for people: to the second, with a space."""
    return text[:19].replace("T", " ")


def draw_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[bytes]:
    """Draw a table in parts, the names of its columns above the first. Nothing is drawn without rows.

    Args:
        names: the columns; those that hold numbers are aligned to the right.
        rows: the cells' texts.
    """
    from rich.cells import cell_len, set_cell_size

    def fit(text: str, name: str, width: int) -> str:
        free = width - cell_len(text)
        if free < 0 and name in _TIMES and len(text) - width >= _YEAR:
            return text[_YEAR:].ljust(width)[:width]
        if free < 0:
            return set_cell_size(text, width - 1) + "…"
        return " " * free + text if name in _RIGHT else text + " " * free

    def draw(row: Sequence[str]) -> str:
        cells = [fit(text, name, width) for text, name, width in zip(row, names, shown, strict=True)]
        return _GAP.join(cells).rstrip()

    columns = console.columns() if console.stdout_is_terminal() else None
    widths = [cell_len(name) for name in names]
    shown: list[int] = []
    for part in _parts([console.printable(text) for text in row] for row in rows):
        for at, column in enumerate(zip(*part, strict=True)):
            widths[at] = max(widths[at], *map(cell_len, column))
        heading = not shown
        shown = _fitted(names, widths, columns)
        lines = [draw(row) for row in part]
        if heading:
            top = draw(names)
            lines.insert(0, f"\x1b[1m{top}\x1b[0m" if console.has_colour() else top)
        yield console.Styled("\n".join([*lines, ""]).encode())


def _parts(rows: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Yield rows in parts of a table; if an error ends them, those before it come first."""
    part: list[list[str]] = []
    try:
        for row in rows:
            part.append(row)
            if len(part) == _TABLE_ROWS:
                yield part
                part = []
    except EvlogError:
        if part:
            yield part
        raise
    if part:
        yield part


def _fitted(names: Sequence[str], widths: Sequence[int], columns: int | None) -> list[int]:
    """Return column widths that fit.

    The last column is cut first, then times lose their year, then always the widest text; numbers and the
    time of day are cut last.
    """
    fitted = list(widths)
    if columns is None:
        return fitted
    over = sum(fitted) + len(_GAP) * (len(fitted) - 1) - columns

    def cut(at: int, least: int) -> None:
        nonlocal over
        taken = max(0, min(over, fitted[at] - least))
        fitted[at] -= taken
        over -= taken

    last = len(fitted) - 1
    if names[last] not in _TIMES:
        cut(last, _LAST_WIDTH)
    for at, name in enumerate(names):
        if name in _TIMES and over > 0:
            fitted[at] -= _YEAR
            over -= _YEAR
    texts = [at for at, name in enumerate(names) if name not in _TIMES | _RIGHT]
    while over > 0 and texts:
        widest = max(texts, key=fitted.__getitem__)
        if fitted[widest] <= _SHORTEST_TEXT:
            break
        cut(widest, fitted[widest] - 1)
    while over > 0 and max(fitted) > 1:
        cut(fitted.index(max(fitted)), max(fitted) - 1)
    return fitted


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces to chunks; if an error ends them, those before it come first."""
    gathered: list[bytes] = []
    size_bytes = 0
    kind: type[bytes] = bytes
    try:
        for piece in pieces:
            kind = type(piece)
            gathered.append(piece)
            size_bytes += len(piece)
            if size_bytes >= CHUNK_BYTES:
                yield kind(b"".join(gathered))
                gathered.clear()
                size_bytes = 0
    except EvlogError:
        yield kind(b"".join(gathered))
        raise
    if gathered:
        yield kind(b"".join(gathered))


FORMS: Final[dict[str, Form]] = {
    "json": as_json,
    "pretty": as_pretty,
    "table": as_table,
    "data": as_data,
    "csv": as_csv,
}
