"""Mirrors: reading the tables for another store, and appending a piece of another store's history by COPY.

A piece is one transaction, which holds the store's lock from its first statement, as `append` does. The
position in `log` says up to where the source was copied, so a piece that is sent again after a lost answer
is recognized.
"""

from __future__ import annotations

import time
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final
from uuid import UUID

import psycopg

from evlog.engines.postgresql import wire
from evlog.engines.postgresql.appends import REFUSED_BY_JSON
from evlog.engines.postgresql.connections import Statement, is_broken, translate
from evlog.engines.postgresql.reading import PAGE_ROWS
from evlog.engines.postgresql.rows import COLUMNS, EPOCH_2000_US, load_rows
from evlog.engines.waiting import Pause
from evlog.errors import StoreUnreachable
from evlog.model.events import (
    CONTENT_TYPES,
    JSON_CODE,
    SYSTEM_PREFIX,
    TAGS_BEGIN,
    Event,
    category_of,
    check_readable_name,
)
from evlog.model.history import HistoryPiece, RemovedRecord, Standing, check_continues, check_mirror
from evlog.model.retention import METADATA_TYPE, SCHEMAS_STREAM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from evlog.engines.postgresql.connections import Connection, Session
    from evlog.engines.postgresql.core import Core

REMOVE_ROWS: Final = 10_000
"""How many events are removed in one transaction: writers wait for it."""

_EVENT_COLUMNS: Final = (
    "id, stream_id, stream_type, event_type, event_data, raw, content_type, metadata, tags, version, "
    "global_position, frame, created_at"
)
_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_ROWS_AT_ONCE: Final = 256
_COPY_END: Final = b"\xff\xff"
_SIZE: Final = Struct("!i").pack
_NUMBERS: Final = Struct("!iqiqiqiq").pack  # four columns of 8 bytes, each after its size
_NULL: Final = _SIZE(-1)
_ROW_HEAD: Final = Struct("!hi").pack(13, 16)  # thirteen columns; the first is an id of 16 bytes
_ARRAY_HEAD: Final = Struct("!iiiii").pack  # dimensions, has nulls, type of the items, their number, 1
_TEXT_TYPE: Final = 25
_CODES: Final = [_SIZE(len(name)) + name.encode() for name in CONTENT_TYPES]


# --- reading


def read_frames(core: Core, after: int, to: int) -> Iterator[tuple[int, Event]]:
    """Iterate over all events between two positions, each with the position of the first of its append."""
    text = core.sql(
        "select {columns}, frame from {schema}.events "
        "where {same} and global_position > $1 and global_position <= $2 "
        "order by global_position limit {rows}",
        columns=COLUMNS,
        rows=str(PAGE_ROWS),
    )
    statement = Statement(text)
    first = after + 1
    while after < to:
        asked = [(statement, (wire.int8(after), wire.int8(to)))]
        (result,) = core.connections.retry(lambda session: session.run(asked))  # noqa: B023 - called here
        rows = load_rows(result, tuple)
        for row in rows:
            yield max(row[-1], first), Event(row[:-1])
        if len(rows) < PAGE_ROWS:
            return
        after = rows[-1][0]


def read_removed(core: Core, after: int, to: int) -> Iterator[RemovedRecord]:
    """Iterate over the events between two positions that compactions have removed, by position."""
    statement = core.sql(
        "select r.global_position, r.version, r.stream_id, uuid_send(r.id), r.digest, "
        "case when s.version = r.version then (extract(epoch from s.last_time) * 1000000)::bigint "
        "else 0 end, r.event_type, r.tags "
        "from {schema}.removed_ids r left join {schema}.streams s using (stream_id) "
        "where {same} and r.global_position > %s and r.global_position <= %s "
        "order by r.global_position limit {rows}",
        rows=str(PAGE_ROWS),
    )
    while after < to:
        bounds = after, to
        rows = core.connections.retry(
            lambda session: session.cursor(binary=True).execute(statement, bounds).fetchall()  # noqa: B023
        )
        for *place, type, tags in rows:
            kept = _encode_tags(type, tags) if tags else b""
            yield RemovedRecord._make((*place, kept))
        if len(rows) < PAGE_ROWS:
            return
        after = rows[-1][0]


_TAGS_MAGIC: Final = b"P"
_DIGEST_BYTES: Final = 32


def _encode_tags(type: str | None, tags: list[bytes]) -> bytes:
    """Return what is kept of the tags of a removed event, for another store in PostgreSQL."""
    if type is None:
        return tags[0]  # another engine's: kept for the way back
    name = type.encode()
    return _TAGS_MAGIC + len(name).to_bytes(2, "big") + name + b"".join(tags)


def _decode_tags(raw: bytes) -> tuple[str | None, list[bytes] | None]:
    """Return the type and the digests of the tags; without the type what another engine has made."""
    if not raw.startswith(_TAGS_MAGIC):
        return None, [raw] if raw else None
    end = 3 + int.from_bytes(raw[1:3], "big")
    digests = [raw[at : at + _DIGEST_BYTES] for at in range(end, len(raw), _DIGEST_BYTES)]
    return raw[3:end].decode(), digests


# --- the standing


STANDING: Final = (
    "select coalesce(mirror_of::text, ''), coalesce(moved_to, '') from {schema}.log where {same}"
)


def standing(core: Core) -> Standing:
    """Return what the store is to others now."""
    (row,) = core.connections.fetch(STANDING)
    return Standing(*row)


def change_standing(core: Core, before: Standing, after: Standing, head: int | None) -> bool:
    """Replace the standing, durably, if it is `before` and the log ends at `head`; else return False."""
    is_sent = False

    def change(connection: Session) -> bool:
        nonlocal is_sent
        with connection.transaction():
            core.lock(connection)
            changed = connection.execute(
                core.sql(
                    "update {schema}.log set mirror_of = nullif(%s, '')::uuid, moved_to = nullif(%s, '') "
                    "where coalesce(mirror_of::text, '') = %s and coalesce(moved_to, '') = %s "
                    "and (select %s::bigint is null or position = %s from {schema}.head)"
                ),
                (*after, *before, head, head),
            )
            was_sent, is_sent = is_sent, True
        return changed.rowcount == 1 or (was_sent and standing(core) == after)

    return core.connections.retry(change)


# --- appending


def append_history(core: Core, piece: HistoryPiece) -> None:
    """Append a piece of the source's history in one transaction, flushed when this returns.

    Raises:
        MirrorConflict: the store is not a mirror of the source, or does not end where the piece begins.
    """
    pause = Pause(time.monotonic() + core.address.timeout_seconds)
    sent = raw_json = False
    while True:
        connection = None
        try:
            connection = core.connections.take()
            _append(core, connection, piece, raw_json=raw_json, sent=sent)
            return
        except (StoreUnreachable, psycopg.Error) as error:
            if isinstance(error, psycopg.Error) and not is_broken(error):
                if error.sqlstate not in REFUSED_BY_JSON or raw_json:
                    raise translate(error, core.address) from error
                raw_json = True  # PostgreSQL's parser refuses some JSON: keep its bytes
                continue
            core.connections.forget_idle()
            if not pause.take():
                raise translate(error, core.address) if isinstance(error, psycopg.Error) else error from None
            sent = True  # perhaps
        finally:
            if connection is not None:
                core.connections.give_back(connection)


def _append(core: Core, connection: Connection, piece: HistoryPiece, *, raw_json: bool, sent: bool) -> None:
    sql = core.sql
    with connection.transaction(), connection.cursor() as cursor:
        core.lock(connection)
        ((position, mirror_of),) = cursor.execute(
            sql("select h.position, mirror_of from {schema}.log, {schema}.head h")
        ).fetchall()
        if position == piece.end and sent:
            return  # the answer to the last try was lost
        check_mirror(core.address.text, (str(mirror_of), ""), piece.source_id)
        check_continues(core.address.text, position, piece.after, piece.source_id)
        if piece.events:
            with cursor.copy(sql(_COPY_EVENTS, columns=_EVENT_COLUMNS)) as copy:
                copy.write(_COPY_HEADER)
                for rows in _event_rows(piece, raw_json):  # the server takes some in while others are made
                    copy.write(rows)
                copy.write(_COPY_END)
        if piece.removed:
            cursor.executemany(sql(_ADD_REMOVED), list(map(_removed_row, piece.removed)))
        names = {event[2] for event in piece.events} | {removed.stream for removed in piece.removed}
        cursor.execute(sql(_ADD_STREAMS), (list(names),))
        if not piece.is_whole:
            cursor.execute(sql(_RAISE_VERSIONS), _last_removed(piece))
            cursor.execute(sql(_COUNT_MISSING), (list(names),))
        policies = sum(event[3] == METADATA_TYPE and event[2][0] == "$" for event in piece.events)
        schemas = max((event[1] for event in piece.events if event[2] == SCHEMAS_STREAM), default=0)
        last_us = piece.events[-1][5] if piece.events else 0
        counts = policies, len(piece.removed), piece.lost, schemas
        cursor.execute(sql(_MOVE_END), (piece.end, last_us, *counts))
        cursor.execute(sql("select pg_notify('evlog_{schema}', '')"))


def remove_history(core: Core, source_id: str, removed: Sequence[RemovedRecord]) -> None:
    """Remove events that the source has removed since they were copied; durable when this returns.

    Raises:
        MirrorConflict: the store is not a mirror of the source.
    """

    def remove(connection: Session, positions: list[int]) -> None:
        with connection.transaction():
            core.lock(connection)
            ((mirror_of,),) = connection.execute(core.sql("select mirror_of from {schema}.log")).fetchall()
            check_mirror(core.address.text, (str(mirror_of), ""), source_id)
            connection.execute(core.sql("select {schema}.remove_positions(%s)"), (positions,))

    for at in range(0, max(1, len(removed)), REMOVE_ROWS):
        positions = [each.position for each in removed[at : at + REMOVE_ROWS]]
        core.connections.retry(partial(remove, positions=positions))


def _event_rows(piece: HistoryPiece, raw_json: bool) -> Iterator[bytes]:
    """Iterate over the rows of `_EVENT_COLUMNS` in the binary format of COPY, some at a time."""
    names: dict[str, bytes] = {}  # a stream and its category, a type: each after its size
    rows: list[bytes] = []
    for number, (event, frame) in enumerate(zip(piece.events, piece.frames, strict=True), 1):
        position, version, stream, type, id, time_us, code, data, metadata = event
        if (stream_text := names.get(stream)) is None:
            stream_text = _text(check_readable_name(stream)) + _text(category_of(stream))
            names[stream] = stream_text
        if (type_text := names.get(f" {type}")) is None:
            type_text = names[f" {type}"] = _text(type)
        sized = _SIZE(len(data)) + data
        # The store's own stay JSON: the trigger that redacts and the policies read them.
        is_json = code == JSON_CODE and not (raw_json and stream[0] != SYSTEM_PREFIX)
        rows += (
            _ROW_HEAD,
            id,
            stream_text,
            type_text,
            sized + _NULL if is_json else _NULL + sized,
            _CODES[code],
            _NULL if metadata is None else _SIZE(len(metadata)) + metadata,
            _tags(event) if metadata is not None and metadata.startswith(TAGS_BEGIN) else _NULL,
            _NUMBERS(8, version, 8, position, 8, frame, 8, time_us - EPOCH_2000_US),
        )
        if not number % _ROWS_AT_ONCE:
            yield b"".join(rows)
            rows = []
    yield b"".join(rows)


def _removed_row(removed: RemovedRecord) -> tuple[Any, ...]:
    place = (removed.position, removed.version, removed.stream)
    return (*place, UUID(bytes=removed.id), removed.digest, *_decode_tags(removed.tags))


def _tags(event: Event) -> bytes:
    tags = event.tags
    raw = _ARRAY_HEAD(1, 0, _TEXT_TYPE, len(tags), 1) + b"".join(map(_text, tags))
    return _SIZE(len(raw)) + raw


def _text(text: str) -> bytes:
    raw = text.encode()
    return _SIZE(len(raw)) + raw


_COPY_EVENTS: Final = "copy {schema}.events ({columns}) from stdin (format binary)"
_ADD_REMOVED: Final = """
    insert into {schema}.removed_ids (global_position, version, stream_id, id, digest, event_type, tags)
    values (%s, %s, %s, %s, %s, %s, %s)
"""
_MOVE_END: Final = """
    update {schema}.log set position = %s,
        last_time = greatest(last_time, timestamptz 'epoch' + %s * interval '1 microsecond'),
        policies = policies + %s, removed = removed + %s, lost = lost + %s, schemas = greatest(schemas, %s)
"""
_ADD_STREAMS: Final = """
    insert into {schema}.streams (stream_id, stream_type)
    select name, split_part(name, '-', 1) from unnest(%s::text[]) name on conflict do nothing
"""
_RAISE_VERSIONS: Final = """
    update {schema}.streams s set version = greatest(s.version, r.version),
        last_time = greatest(last_time, timestamptz 'epoch' + time_us * interval '1 microsecond')
    from unnest(%s::text[], %s::bigint[], %s::bigint[]) r(stream, version, time_us) where stream = stream_id
"""
_COUNT_MISSING: Final = """
    update {schema}.streams s set missing = l.version - (
        select count(*) from {schema}.events e where e.stream_id = s.stream_id)
    from {schema}.last_versions l where l.stream_id = s.stream_id and s.stream_id = any(%s)
"""


def _last_removed(piece: HistoryPiece) -> tuple[list[Any], ...]:
    """Return the streams of removed events, and of each the last one's version and time."""
    last: dict[str, tuple[int, int]] = {}
    for removed in piece.removed:
        last[removed.stream] = max(last.get(removed.stream, (0, 0)), (removed.version, removed.time_us))
    return list(last), [version for version, _ in last.values()], [time_us for _, time_us in last.values()]
