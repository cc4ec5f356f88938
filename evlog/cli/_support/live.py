"""The table that `evlog tail` draws on a terminal: rows that are printed one by one and line up.

1. Columns are wider than what they hold, because later rows are not known yet. They do not become narrower
   while the terminal keeps its size.
2. A column grows for a longer name, under a new heading, as long as the data keeps its part of the line.
3. Every call reads the terminal's size again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.cells import cell_len, set_cell_size

from evlog.cli._support import console
from evlog.cli._support.fields import as_text, make_field
from evlog.cli._support.output import readable_time
from evlog.model.events import Event

_GAP: Final = "  "
# Position and version fit their headings, and are never cut.
_LEAST: Final = {"position": 8, "version": 7, "stream": 12, "type": 14, "time": 19}
_SHARE: Final = 6  # the part of a wide line that a name has
_NUMBERS: Final = frozenset({"position", "version"})
_NAMES: Final = ("stream", "type")
_SPARE_COLUMNS: Final = 2  # after order-9 comes order-10
_DATA_COLUMNS: Final = 16
# A narrower terminal shows no year and, if streams are mixed, no version.
_WIDE_COLUMNS: Final = 100
_YEAR: Final = len("2026-")
_SHORTEST_NAME: Final = 4
_PAINT: Final = {"position": "33", "stream": "1", "type": "36", "time": "2"}


class LiveTable:
    """Turns events into rows, and keeps the widths of the columns.

    Args:
        one_stream: all events are of one stream, so the rows do not name it.
    """

    def __init__(self, *, one_stream: bool) -> None:
        self._one_stream = one_stream
        self._coloured = console.has_colour()
        self._takes = {name: make_field(name) for name in (*_LEAST, "data")}
        self._widths = dict(_LEAST)
        self._columns = 0
        self._names: tuple[str, ...] = ()

    def draw(self, events: Iterable[Event]) -> bytes:
        """Return the rows of some events, after a heading if the columns are new or have moved."""
        rows = [self._cells(event) for event in events]
        heading = self._look_at(console.columns())
        for row in rows:
            heading |= self._make_room(row)
        lines = [self._line({name: name for name in self._names}, heading=True)] if heading else []
        lines += [self._line(row) for row in rows]
        return console.Styled("".join(f"{line}\n" for line in lines).encode())

    def _cells(self, event: Event) -> dict[str, str]:
        cells = {name: console.printable(as_text(take(event))) for name, take in self._takes.items()}
        cells["time"] = readable_time(cells["time"])
        return cells

    def _look_at(self, columns: int) -> bool:
        """Choose the columns for a terminal of this width; return whether they have changed."""
        if columns == self._columns:
            return False
        wide = columns >= _WIDE_COLUMNS
        left_out = {"stream"} if self._one_stream else {"version"} if not wide else set()
        names = tuple(
            name for name in ("position", "stream", "version", "type", "time", "data") if name not in left_out
        )
        changed = names != self._names
        self._columns, self._names = columns, names
        for name in _NAMES:
            self._widths[name] = max(self._widths[name], columns // _SHARE)
        self._widths["time"] = _LEAST["time"] if wide else _LEAST["time"] - _YEAR
        while self._data_columns() < _DATA_COLUMNS:
            longest = max(_NAMES, key=lambda name: self._widths[name] if name in names else 0)
            if self._widths[longest] <= _SHORTEST_NAME:
                break
            self._widths[longest] -= 1
        return changed

    def _make_room(self, row: dict[str, str]) -> bool:
        """Widen the columns that are too narrow for a row; return whether there were any."""
        widened = False
        for name in self._names[:-1]:
            over = cell_len(row[name]) - self._widths[name]
            if over <= 0 or name == "time":
                continue
            if name in _NAMES:
                over = min(over + _SPARE_COLUMNS, max(0, self._data_columns() - _DATA_COLUMNS))
            self._widths[name] += over
            widened |= over > 0
        return widened

    def _data_columns(self) -> int:
        taken = [self._widths[name] for name in self._names[:-1]]
        return self._columns - sum(taken) - len(_GAP) * len(taken)

    def _line(self, row: dict[str, str], *, heading: bool = False) -> str:
        cells = [self._cell(name, row[name], heading=heading) for name in self._names[:-1]]
        room = max(1, self._data_columns())
        last = row[self._names[-1]]
        if cell_len(last) > room:
            last = set_cell_size(last, room - 1) + "…"
        line = _GAP.join([*cells, last]).rstrip()
        return f"\x1b[1m{line}\x1b[0m" if heading and self._coloured else line

    def _cell(self, name: str, text: str, *, heading: bool) -> str:
        width = self._widths[name]
        if name == "time" and not heading:
            text = text[-width:]
        free = width - cell_len(text)
        if free < 0:
            text, free = set_cell_size(text, width - 1) + "…", 0
        if self._coloured and not heading and name in _PAINT:
            text = f"\x1b[{_PAINT[name]}m{text}\x1b[0m"
        padding = " " * free
        return padding + text if name in _NUMBERS else text + padding
