"""Events as rows: the columns of a record, how they are read, and the conditions of a filter.

Columns are in the binary format and in the form that a record has: an id is 16 bytes, a time is a number,
JSON is bytes. So no intermediate objects are created.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.types.numeric import Int8BinaryLoader
from psycopg.types.string import ByteaBinaryLoader

from evlog.engines.postgresql import wire
from evlog.model.events import MAX_TIME_US

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from psycopg.pq.abc import PGresult

    from evlog.model.filters import EventFilter
    from evlog.model.matching import ContentMatcher

    _Row = TypeVar("_Row")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_2000_US: Final = 946_684_800_000_000
_FIRST_US: Final = -62_135_596_800_000_000  # the year 1, the first that datetime has

# In a record's order, so that a row is one: position, version, stream, type, id, time, code, data, metadata.
# A time counts from the year 2000; the interval makes it count from 1970 (in hours, which no zone changes).
COLUMNS: Final = (
    "global_position, version, stream_id, event_type, id, created_at + interval '262968 hours', "
    "case content_type when 'json' then 0 when 'text' then 1 else 2 end, "
    "coalesce(raw, json_send(event_data)), metadata"
)


class _Context:
    """The context that a Transformer is created with."""

    connection = None  # without one the encoding is UTF-8, which every connection here uses
    adapters = AdaptersMap(psycopg.adapters)


for _type, _loader in (
    ("json", ByteaBinaryLoader),
    ("uuid", ByteaBinaryLoader),
    ("timestamptz", Int8BinaryLoader),
):
    _Context.adapters.register_loader(_type, _loader)


def load_rows(result: PGresult, make: Callable[[tuple[Any, ...]], _Row]) -> list[_Row]:
    """Return the rows of a result in the binary format."""
    transformer = Transformer(_Context())
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, make)  # type: ignore[arg-type]


class Conditions:
    """Conditions of a statement, with their values as parameters in the binary format."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.values: list[bytes] = []

    def add(self, text: str, value: bytes) -> None:
        """Add a condition, in which `{}` is replaced by the value."""
        self.values.append(value)
        self.texts.append(text.format(f"${len(self.values)}"))


def conditions_of(filter: EventFilter, since_us: int | None = None) -> Conditions:
    """Return the conditions of a filter's types, tags, content and times."""
    conditions = Conditions()
    since_us = filter.since_us if since_us is None else since_us
    if filter.types is not None:
        conditions.add("event_type = any({})", wire.texts(filter.types))
    if filter.tags:
        conditions.add("tags @> {}", wire.texts(filter.tags))
    content = filter.make_matcher()
    if content is not None:
        _add_content(content, conditions)
    if since_us is not None:
        conditions.add("created_at >= {}", _time(since_us))
    if filter.until_us is not None:
        conditions.add("created_at < {}", _time(filter.until_us))
    return conditions


def _time(time_us: int) -> bytes:
    """Return a time as the server takes it; the last or first one beyond the calendar."""
    return wire.int8(max(_FIRST_US, min(time_us, MAX_TIME_US)) - EPOCH_2000_US)


def _add_content(content: ContentMatcher, conditions: Conditions) -> None:
    """Add what a row must have to match; then the matcher decides, as it does in every engine.

    The server parses nothing, because it refuses to convert some JSON.
    """
    for needle, escape in content.needles:
        escaped = "\\u" if escape == b"\\u" else "\\"
        conditions.add(
            f"(strpos(metadata::text, {{0}}) > 0 or strpos(metadata::text, '{escaped}') > 0)", _text(needle)
        )
    for literal in content.literals:
        conditions.add(
            "(raw is not null or strpos(event_data::text, {0}) > 0 or strpos(metadata::text, {0}) > 0)",
            _text(literal),
        )


def _text(needle: bytes) -> bytes:
    """Return what to search for: up to a NUL, which no text in PostgreSQL holds."""
    return needle.partition(b"\0")[0]


def moment(time_us: int) -> datetime:
    """Return a time as psycopg takes it; the last or first one beyond the calendar."""
    try:
        return EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if time_us > 0 else datetime.min.replace(tzinfo=UTC)
