"""Events as rows: the columns of a record, and the conditions of a filter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Any

    from evlog.model.filters import EventFilter

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# In a record's order, so that a row is one: position, version, stream, type, id, time, code, data, metadata.
COLUMNS: Final = (
    "global_position, version, stream_id, event_type, uuid_send(id), "
    "(extract(epoch from created_at) * 1000000)::bigint, "
    "case content_type when 'json' then 0 when 'text' then 1 else 2 end, "
    "coalesce(raw, convert_to(event_data::text, 'UTF8')), convert_to(metadata::text, 'UTF8')"
)


def where_of(filter: EventFilter, since_us: int | None = None) -> tuple[list[str], dict[str, Any]]:
    """Return the conditions of a filter's types, tags and times, and their values."""
    conditions: list[str] = []
    values: dict[str, Any] = {}
    since_us = filter.since_us if since_us is None else since_us
    if filter.types is not None:
        conditions.append("event_type = any(%(types)s)")
        values["types"] = list(filter.types)
    if filter.tags:
        conditions.append("tags @> %(tags)s")
        values["tags"] = list(filter.tags)
    if since_us is not None:
        conditions.append("created_at >= %(since)s")
        values["since"] = moment(since_us)
    if filter.until_us is not None:
        conditions.append("created_at < %(until)s")
        values["until"] = moment(filter.until_us)
    return conditions, values


def moment(time_us: int) -> datetime:
    """Return a time as the server takes it; the last or first one beyond the calendar."""
    try:
        return EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if time_us > 0 else datetime.min.replace(tzinfo=UTC)
