"""Lists of anything but events (streams, subscriptions, rules), in the forms that events have.

A row is a dict from the names that JSON shows to values. A name that ends in `time` holds microseconds since
1970, which become a time in every form.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from evlog.cli._support import console
from evlog.cli._support.clock import readable_time
from evlog.cli._support.options import fields_of, form_of
from evlog.cli._support.pager import Paged
from evlog.cli._support.parameters import Given
from evlog.model.json_lines import encode_time
from evlog.model.json_text import decode_json

Row = dict[str, Any]
_LEAST_WIDTH = 20  # of a sentence in a narrow terminal

Cells = Mapping[str, Callable[[Any], str]]
"""How some columns are shown to people, by their names."""


def print_rows(
    given: Given,
    rows: Iterable[Row],
    columns: Sequence[str],
    *,
    known: Sequence[str],
    nothing: str | None,
    cells: Cells | None = None,
    least_columns: Mapping[str, int] | None = None,
) -> None:
    """Print rows in the form that is asked for: a table on a terminal, JSON lines in a pipe.

    Args:
        given: has `output` and `fields`.
        columns: what a table shows without --fields.
        known: all fields that a row can have.
        nothing: printed instead of a table without rows.
        cells: how values are shown to people.
        least_columns: how wide a terminal has to be for a column of a table without --fields.
    """
    form = form_of(given)
    chosen = fields_of(given, known)
    with Paged():
        for chunk in _drawn(form, chosen, rows, columns, known, cells or {}, nothing, least_columns):
            console.write(chunk)


def print_one(given: Given, row: Row, columns: Sequence[str], *, cells: Cells) -> None:
    """Print a single row: a name and a value a line on a terminal, else as `print_rows`."""
    form = form_of(given, "pretty")
    known = list(row)
    for chunk in _drawn(form, fields_of(given, known), [row], columns, known, cells, None):
        console.write(chunk)


def _drawn(
    form: str,
    chosen: Sequence[str] | None,
    rows: Iterable[Row],
    columns: Sequence[str],
    known: Sequence[str],
    cells: Cells,
    nothing: str | None,
    least_columns: Mapping[str, int] | None = None,
) -> Iterator[bytes]:
    if form == "json":
        for row in rows:
            yield _encode(_as_object(row, chosen)) + b"\n"
    elif form == "csv":
        from evlog.cli._support.output import csv_row

        names = chosen or known
        yield csv_row(names)
        for row in rows:
            found = _as_object(row, names)
            yield csv_row([_plain_text(found[name]) for name in names])
    elif form == "pretty":
        names = chosen or columns
        width = max(map(len, names))
        for number, row in enumerate(rows):
            lines = [line for name in names for line in _described(row, name, cells, width)]
            text = "\n".join([*([""] if number else []), *lines, ""])
            yield console.Styled(text.encode(errors="backslashreplace"))
    else:
        from evlog.cli._support.table import draw_table

        names = chosen or columns
        texts = ([_shown(row, name, cells) for name in names] for row in rows)
        drawn = iter(draw_table(names, texts, least_columns=None if chosen else least_columns))
        first = next(drawn, None)
        if first is not None:
            yield from chain([first], drawn)
        elif nothing is not None:
            console.note(nothing)


def _described(row: Row, name: str, cells: Cells, width: int) -> list[str]:
    """Return the line for a value, or several for a sentence that is too long for the terminal."""
    text = console.printable(_shown(row, name, cells))
    lines = [text]
    if name in cells and console.stdout_is_terminal():
        from textwrap import wrap

        lines = wrap(text, max(console.columns() - width - 2, _LEAST_WIDTH)) or lines
    first, *more = lines
    return [f"{name:<{width}}  {first}".rstrip(), *(f"{'':<{width}}  {line}" for line in more)]


def _as_object(row: Row, chosen: Sequence[str] | None) -> dict[str, object]:
    """Return the row, or the chosen fields of it, as JSON shows it."""
    if chosen is None:
        return {name: _exact(name, value) for name, value in row.items()}
    return {name: _exact(name, _at(row, name)) for name in chosen}


def _at(row: Row, name: str) -> Any:
    """Return the value at a dotted path into a row, None if there is nothing."""
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _is_time(name: str, value: object) -> bool:
    return name.endswith("time") and isinstance(value, int)


def _exact(name: str, value: Any) -> Any:
    return encode_time(value).decode() if _is_time(name, value) else value


def _shown(row: Row, name: str, cells: Cells) -> str:
    """Return a value as people read it."""
    value = _at(row, name)
    if name in cells:
        return cells[name](value)
    return readable_time(value) if _is_time(name, value) else _plain_text(value)


def _plain_text(value: Any) -> str:
    """Return a text, also one that JSON makes of a value (an id), as it is, and any other value as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    text = _encode(value).decode()
    return str(decode_json(text)) if text.startswith('"') else text


def _encode(value: object) -> bytes:
    """Return JSON, with every `Raw` in it as it is: there is one only if msgspec is imported."""
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None:
        try:
            return bytes(msgspec.json.encode(value, enc_hook=str))
        except UnicodeEncodeError:
            pass  # a path can be a text that is not Unicode
    return console.encode_object(value).rstrip(b"\n")


_FLAGS = {"category": "--category", "types": "--type", "tags": "--tag", "grep": "--grep", "query": "--query"}


def filter_text(filter: Mapping[str, Any]) -> str:
    """Return a filter, as a subscription or a snapshot keeps it, as the options that make it."""
    parts = [filter["stream"]] if filter.get("stream") is not None else []
    for name, flag in _FLAGS.items():
        value = filter.get(name)
        parts += [f"{flag} {one}" for one in ([value] if isinstance(value, str) else value or ())]
    parts += [f"--meta {key}={value}" for key, value in filter.get("metadata", {}).items()]
    return " ".join(parts)
