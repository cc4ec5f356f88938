"""From a filter of pyarrow to bounds that the store's indexes know: which events a query has to read.

DuckDB hands a query's conditions to a data set as an expression. pyarrow has no other way into one than its
text, which is parsed here. Only comparisons of one column with constants, joined by AND, make a bound; a
condition that is not understood makes none. So a read may return more than the query asks for, never less.
The expression itself is then applied to the rows, which takes longer than reading them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

import pyarrow as pa

from evlog.model.events import microseconds_of

_PIECES: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[()\[\]{}]| (?:and|or) ', re.DOTALL)
_TEXTS: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_AMBIGUOUS: Final = re.compile(r'["\\\n]')
_COMPARISON: Final = re.compile(r"\((\w+) (==|<=|>=|<|>) (.+)\)", re.DOTALL)
_IS_IN: Final = re.compile(
    r"(?:if_else\(is_valid\(\w+\), )?is_in\((\w+), \{value_set=\w+:\[\n(.*)\n\], [^\[\]]*\}\)"
    r"(?:, null\[bool\]\))?",
    re.DOTALL,
)
_NAMES: Final = frozenset({"stream", "category", "type"})


class Bounds(NamedTuple):
    """Which events have to be read. Positions and times are inclusive; a set of names, None: all."""

    first: int | None = None
    last: int | None = None
    first_us: int | None = None
    last_us: int | None = None
    stream: frozenset[str] | None = None
    category: frozenset[str] | None = None
    type: frozenset[str] | None = None

    def narrowed(self, other: Bounds) -> Bounds:
        """Return the bounds of what is within both."""
        return Bounds(
            _met(max, self.first, other.first),
            _met(min, self.last, other.last),
            _met(max, self.first_us, other.first_us),
            _met(min, self.last_us, other.last_us),
            _met(frozenset.intersection, self.stream, other.stream),
            _met(frozenset.intersection, self.category, other.category),
            _met(frozenset.intersection, self.type, other.type),
        )


def is_plain(expression: Any) -> bool:
    """Return whether the text of an expression is unambiguous: pyarrow does not escape what is in a list.

    The constants are in what pyarrow pickles of an expression, each in a column of its own.
    """
    try:
        batch = pa.ipc.open_file(expression.__reduce__()[1][0]).get_batch(0)
        return not any(map(_has_ambiguous, batch.columns))
    except (pa.ArrowException, AttributeError, LookupError, TypeError):
        return False  # pyarrow pickles it in another way


def _has_ambiguous(value: Any) -> bool:
    if isinstance(value, str):
        return _AMBIGUOUS.search(value) is not None
    if isinstance(value, dict):
        return any(map(_has_ambiguous, value.values()))
    if isinstance(value, pa.Array):
        return any(map(_has_ambiguous, value.to_pylist()))
    return isinstance(value, list) and any(map(_has_ambiguous, value))


def bounds_of(text: str) -> tuple[Bounds, bool]:
    """Return the bounds of a plain filter, by its expression's text, and whether they replace the filter."""
    found = list(map(_maybe_bound, _conjuncts(text)))
    bounds = Bounds()
    for each in found:
        bounds = bounds.narrowed(each or Bounds())
    return bounds, None not in found


def words_of(text: str) -> set[str]:
    """Return the words of an expression's text outside of its constants: the columns are among them."""
    return set(re.findall(r"\w+", _TEXTS.sub("", text)))


def _met(choose: Any, mine: Any, theirs: Any) -> Any:
    return theirs if mine is None else mine if theirs is None else choose(mine, theirs)


def _conjuncts(text: str) -> Iterator[str]:
    operands = _operands(text, " and ")
    if operands is None:
        yield text
        return
    for operand in operands:
        yield from _conjuncts(operand)


def _operands(text: str, operator: str) -> list[str] | None:
    """Return both sides of `(left operator right)`; None if the text is something else."""
    depth = 0
    for piece in _PIECES.finditer(text):
        if piece[0] in "([{":
            depth += 1
        elif piece[0] in ")]}":
            depth -= 1
        elif depth == 1 and piece[0][0] == " ":
            is_whole = piece[0] == operator and text[0] == "(" and text[-1] == ")"
            return [text[1 : piece.start()], text[piece.end() : -1]] if is_whole else None
    return None


def _maybe_bound(text: str) -> Bounds | None:
    alternatives = _operands(text, " or ")
    if alternatives is not None:
        return _maybe_union([_maybe_bound(each) for each in alternatives])
    found = _IS_IN.fullmatch(text)
    if found is not None:
        items = [line.strip().removesuffix(",") for line in found[2].split("\n")]
        return _maybe_union([_maybe_compared(found[1], "==", item) for item in items])
    found = _COMPARISON.fullmatch(text)
    return None if found is None else _maybe_compared(found[1], found[2], found[3])


def _maybe_union(alternatives: list[Bounds | None]) -> Bounds | None:
    """Return the bounds of alternatives about the names of one column; None for others."""
    joined: frozenset[str] = frozenset()
    columns = set()
    for bounds in alternatives:
        if bounds is None or bounds[:4] != (None,) * 4:
            return None
        for column in _NAMES:
            names = getattr(bounds, column)
            if names is not None:
                columns.add(column)
                joined |= names
    return _named(columns.pop(), joined) if len(columns) == 1 else None


def _maybe_compared(column: str, operator: str, literal: str) -> Bounds | None:
    """Return the bounds of a comparison with a constant; None if it makes none."""
    try:
        if column in _NAMES:
            name = json.loads(literal) if operator == "==" else None
            return _named(column, frozenset({name})) if isinstance(name, str) else None
        if column == "position":
            return Bounds(*_range(operator, int(literal)))
        if column == "time":
            return Bounds(None, None, *_range(operator, microseconds_of(datetime.fromisoformat(literal))))
    except (ValueError, OverflowError, TypeError):
        pass  # a constant that no event has, such as a time in the year 10000
    return None


def _named(column: str, names: frozenset[str]) -> Bounds:
    return Bounds()._replace(**{column: names})  # type: ignore[arg-type]


def _range(operator: str, value: int) -> tuple[int | None, int | None]:
    """Return the first and the last number that compare so with another."""
    first = {"==": value, ">=": value, ">": value + 1}.get(operator)
    return first, {"==": value, "<=": value, "<": value - 1}.get(operator)
