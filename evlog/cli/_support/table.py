"""Tables on a terminal: rows that line up, also those that are drawn later.

1. A column is as wide as the widest cell so far. Columns only grow, until the terminal changes its size. The
   last column gets the rest of the line.
2. If a line is too long, the last column is cut first (most often the data), then repeatedly the widest
   column of texts. Numbers and times are not cut, as long as they fit the terminal.
3. A `roomy` table, whose rows come one at a time, begins with wider columns, and draws its heading again when
   columns have moved.
4. In a pipe nothing is cut.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size

from evlog.cli._support import console

_GAP: Final = "  "
_NUMBERS: Final = frozenset(
    {"position", "version", "events", "first_version", "last_version", "lag_events", "parked", "attempts"}
)
_TIMES: Final = frozenset({"time", "last_time", "saved_time", "lag_seconds"})
_PAINT: Final = {"position": "33", "stream": "1", "name": "1", "type": "36", "time": "2", "last_time": "2"}
_ROOM: Final = {"stream": 12, "type": 14, "time": 22}
_SPARE_COLUMNS: Final = 2  # after order-9 comes order-10
_SHORTEST_TEXT: Final = 4
_LAST_WIDTH: Final = 16  # of the last column, before other columns are cut
_ENDLESS: Final = 1_000_000  # the last column of a roomy table takes all of the line
WIDE: Final = 100
"""Columns of a terminal that has space for a second version."""
MEDIUM: Final = 60
"""Columns of a terminal that has space for a time."""
_ROWS: Final = 200


class Table:
    """Draws rows.

    Args:
        names: the columns.
        numbers: those that hold numbers.
        least_columns: how wide a terminal has to be for a column to be shown, for some columns.
        roomy: see above.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        numbers: Collection[str] = _NUMBERS,
        least_columns: Mapping[str, int] | None = None,
        roomy: bool = False,
    ) -> None:
        self._all = tuple(names)
        self._numbers = numbers
        self._least_columns = least_columns or {}
        self._roomy = roomy
        self._coloured = console.has_colour()
        self._wanted = {name: max(len(name), _ROOM.get(name, 0) if roomy else 0) for name in names}
        if roomy:
            self._wanted[self._all[-1]] = _ENDLESS
        self._columns: int | None = -1
        self._names: tuple[str, ...] = ()
        self._widths: dict[str, int] = {}

    def draw(self, rows: Iterable[Sequence[str]]) -> bytes:
        """Return the next rows, below a heading if it is the first or columns have moved."""
        texts = [dict(zip(self._all, map(console.printable, row), strict=True)) for row in rows]
        first = self._columns == -1
        moved = self._look_at(console.columns() if console.stdout_is_terminal() else None)
        for name in self._names:
            longest = max((_width(row[name]) for row in texts), default=0)
            if longest > self._wanted[name]:
                spare = _SPARE_COLUMNS if self._roomy and name not in _TIMES | _NUMBERS else 0
                self._wanted[name] = longest + spare
        wanted = {name: self._wanted[name] for name in self._names}
        widths = _fitted(wanted, self._columns, self._numbers)
        moved |= [*widths.values()][:-1] != [*self._widths.values()][:-1]
        self._widths = widths
        lines = [self._line(row) for row in texts]
        if first or (moved and self._roomy):
            lines.insert(0, self._heading())
        return console.Styled("".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))

    def _look_at(self, columns: int | None) -> bool:
        """Choose the columns for a terminal of this width; return whether they have changed."""
        if columns == self._columns:
            return False
        least = self._least_columns
        names = tuple(name for name in self._all if columns is None or columns >= least.get(name, 0))
        changed = names != self._names
        self._columns, self._names = columns, names
        return changed

    def _heading(self) -> str:
        line = self._line({name: name for name in self._names}, painted=False)
        return f"\x1b[1m{line}\x1b[0m" if self._coloured else line

    def _line(self, row: Mapping[str, str], *, painted: bool = True) -> str:
        last = self._names[-1]
        cells = []
        for name in self._names:
            text, width = row[name], self._widths[name]
            free = width - _width(text)
            if free < 0:
                text, free = set_cell_size(text, width - 1) + "…", 0
            if painted and self._coloured and name in _PAINT and text:
                text = f"\x1b[{_PAINT[name]}m{text}\x1b[0m"
            padding = " " * free if name != last or name in self._numbers else ""
            cells.append(padding + text if name in self._numbers else text + padding)
        return _GAP.join(cells).rstrip()


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def draw_table(
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Collection[str] = _NUMBERS,
    least_columns: Mapping[str, int] | None = None,
) -> Iterable[bytes]:
    """Draw a table in parts. Nothing is drawn without rows."""
    table = Table(names, numbers=numbers, least_columns=least_columns)
    part: list[Sequence[str]] = []
    for row in rows:
        part.append(row)
        if len(part) == _ROWS:
            yield table.draw(part)
            part = []
    if part:
        yield table.draw(part)


def _fitted(
    widths: Mapping[str, int], columns: int | None, numbers: Collection[str] = _NUMBERS
) -> dict[str, int]:
    """Return the widths of columns that fit a terminal."""
    if columns is None:
        return dict(widths)
    fitted = {name: min(width, max(columns, 1)) for name, width in widths.items()}
    over = sum(fitted.values()) + len(_GAP) * (len(fitted) - 1) - columns
    texts = [name for name in fitted if name not in numbers and name not in _TIMES]
    if texts and texts[-1] == [*fitted][-1]:
        cut = max(0, min(over, fitted[texts[-1]] - _LAST_WIDTH))
        fitted[texts[-1]] -= cut
        over -= cut
    for names, least in ((texts, _SHORTEST_TEXT), (list(fitted), 1)):
        while over > 0 and names:
            widest = max(names, key=fitted.__getitem__)
            if fitted[widest] <= least:
                break
            fitted[widest] -= 1
            over -= 1
    return fitted
