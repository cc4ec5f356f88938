"""Appending: one call of the function `append` and one flush, sent again when the connection breaks."""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import psycopg

from evlog.engines.postgresql.connections import Connections, is_broken, translate
from evlog.errors import (
    AppendUnknown,
    IdConflict,
    InvalidArgument,
    InvalidEvent,
    StoreUnreachable,
    StreamTombstoned,
    WrongExpectedVersion,
)
from evlog.model.appends import BatchResult, Expectation, SchemasChanged
from evlog.model.events import CONTENT_TYPES, JSON_CODE, check_stream_name, id_text, make_ids
from evlog.model.history import Standing, refusal
from evlog.model.retention import SCHEMAS_STREAM

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from evlog.engines.postgresql.connections import Connection
    from evlog.model.events import EncodedEvent

_RETRY_SECONDS: Final = 30.0  # a failover takes some seconds
FLUSH: Final = (
    b"select set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'evlog', '')"
)
_REFUSED_BY_JSON: Final = frozenset({"22P02", "22P05", "54001"})  # also: nested too deeply for its parser
_SERIALIZATION: Final = frozenset({"40001", "40P01"})  # where the database's default is stricter


class Appender:
    """Appends of one engine. Any thread may use it."""

    def __init__(self, connections: Connections, *, sync: bool, lock_timeout_seconds: float | None) -> None:
        self._connections = connections
        self._sync = sync
        # A pooler may hide a crash between two transactions: the flush would be the next server's.
        self._flushes_apart = sync and connections.address.listens
        self._lock_timeout_seconds = lock_timeout_seconds
        self._statement = connections.address.sql(
            "select o_positions, o_versions, o_duplicates, set_config('synchronous_commit', 'off', true) "
            "from {schema}.append(%s, %s, %s::uuid[], %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        )

    def append(
        self,
        streams: Sequence[str],
        events: Sequence[EncodedEvent],
        expectations: Sequence[Expectation],
        *,
        skip_known: bool = False,
        system: bool = False,
        schemas: int | None = None,
    ) -> BatchResult:
        """Append all events in one transaction, or none; flushed when this returns (with `sync`)."""
        if not events:
            raise InvalidArgument("no events to append; give at least one")
        if not system:
            for stream in dict.fromkeys(streams):
                check_stream_name(stream)
        if schemas is not None:
            expectations = [*expectations, Expectation(0, SCHEMAS_STREAM, schemas)]
        made = iter(make_ids(sum(event[1] is None for event in events)))
        ids = [event[1] or next(made) for event in events]
        twins = _twins(streams, events, ids, skip_known=skip_known)
        kept = [at for at in range(len(ids)) if at not in twins] if twins else range(len(ids))
        request = _Request(streams, events, ids, kept, expectations, skip_known, system)
        positions, versions, duplicates = self._send(request)
        if not twins:
            return BatchResult(streams, versions, positions, ids, duplicates)
        place = {at: number for number, at in enumerate(kept)}
        chosen = [place[twins.get(at, at)] for at in range(len(ids))]
        return BatchResult(
            streams,
            [versions[number] for number in chosen],
            [positions[number] for number in chosen],
            ids,
            [at in twins or duplicates[number] for at, number in enumerate(chosen)],
        )

    def flush(self) -> None:
        """Return once everything that is committed is flushed, and synchronous standbys have it."""
        with self._connections.lend() as connection:
            connection.execute(FLUSH)

    def _send(self, request: _Request) -> tuple[list[int], list[int], list[bool]]:
        """Send an append, again with the same ids after a broken connection, and return its outcome."""
        deadline = time.monotonic() + _RETRY_SECONDS
        pause_seconds, sent = 0.05, False
        while True:
            connection = None
            try:
                connection = self._connections.take()
                sent = True
                positions, versions, known = self._execute(connection, request)
                return positions, versions, request.duplicates(known)
            except (StoreUnreachable, psycopg.Error) as error:
                if isinstance(error, psycopg.Error) and not is_broken(error):
                    if error.sqlstate in _REFUSED_BY_JSON and not request.raw_json:
                        request.raw_json = True
                    elif error.sqlstate not in _SERIALIZATION or time.monotonic() >= deadline:
                        raise self._refusal(error, request) from error
                    continue
                self._connections.forget_idle()
                if time.monotonic() >= deadline:
                    if not sent:
                        raise
                    raise AppendUnknown(self._connections.address.text, str(error)) from error
                if sent:
                    request.look_up_all_ids()
                time.sleep(pause_seconds)
                pause_seconds = min(1.0, 2 * pause_seconds)
            finally:
                if connection is not None:
                    self._connections.give_back(connection)

    def _execute(self, connection: Connection, request: _Request) -> tuple[Any, Any, Any]:
        with connection.pipeline() as pipeline:
            if self._lock_timeout_seconds is not None:
                milliseconds = str(max(1, int(self._lock_timeout_seconds * 1000)))
                connection.execute("select set_config('lock_timeout', %s, true)", (milliseconds,))
            cursor = connection.cursor(binary=True)
            cursor.execute(self._statement, request.values())
            if self._flushes_apart:
                pipeline.sync()  # ends the transaction: the flush is another one
            if self._sync:
                connection.execute(FLUSH)
            pipeline.sync()
            row = cursor.fetchone()
        assert row is not None
        return row[0], row[1], row[2]

    def _refusal(self, error: psycopg.Error, request: _Request) -> Exception:
        """Return the error for an append that the server refused."""
        if error.sqlstate != "EV000":
            return translate(error, self._connections.address, self._lock_timeout_seconds or 0.0)
        detail = json.loads(error.diag.message_detail or "{}")
        kind, stream = detail["error"], detail["stream"]
        if kind == "Refused":
            standing = Standing(detail["mirror_of"] or "", detail["moved_to"] or "")
            return refusal(self._connections.address.text, standing)
        if kind == "WrongExpectedVersion" and stream == SCHEMAS_STREAM and not request.system:
            return SchemasChanged()
        if kind == "WrongExpectedVersion":
            expected = detail["expected"]
            return WrongExpectedVersion(
                stream, int(expected) if expected.isdigit() else expected, detail["actual"]
            )
        if kind == "StreamTombstoned":
            return StreamTombstoned(stream)
        reason = (
            "is known with different content"
            if kind == "IdConflict"
            else "is known, but not all ids of its append are"
        )
        return IdConflict(id_text(request.ids[detail["at"]]), stream, detail["position"], reason)


class _Request:
    """The arguments of the function `append`, in columns."""

    def __init__(
        self,
        streams: Sequence[str],
        events: Sequence[EncodedEvent],
        ids: Sequence[bytes],
        kept: Sequence[int],
        expectations: Sequence[Expectation],
        skip_known: bool,
        system: bool,
    ) -> None:
        self.raw_json = False  # store JSON as bytes: PostgreSQL's parser refuses some of it
        self.ids = [ids[at] for at in kept]
        self._streams = [streams[at] for at in kept]
        self._events = [events[at] for at in kept]
        self._given = self._looked_up = [event[1] is not None for event in self._events]
        self._expected = (
            [bisect_left(kept, each.at) for each in expectations],
            [each.stream for each in expectations],
            [str(each.version) for each in expectations],
        )
        self.system = system
        self._flags = (skip_known, system)

    def look_up_all_ids(self) -> None:
        """Look for every id: the append was sent before."""
        self._looked_up = [True] * len(self.ids)

    def duplicates(self, known: list[bool] | None) -> list[bool]:
        """Return which events were there before this append; an id that evlog made was not."""
        if known is None:
            return [False] * len(self.ids)
        return [one and given for one, given in zip(known, self._given, strict=True)]

    def values(self) -> tuple[Any, ...]:
        """Return the arguments in order."""
        events = self._events
        as_json = [event[2] == JSON_CODE and not self.raw_json for event in events]
        return (
            self._streams,
            [event[0] for event in events],
            [id.hex() for id in self.ids],
            self._looked_up,
            [CONTENT_TYPES[event[2]] for event in events],
            [event[3].decode() if json else None for event, json in zip(events, as_json, strict=True)],
            [None if json else event[3] for event, json in zip(events, as_json, strict=True)],
            [None if event[4] is None else event[4].decode() for event in events],
            *self._expected,
            *self._flags,
        )


def _twins(
    streams: Sequence[str], events: Sequence[EncodedEvent], ids: Sequence[bytes], *, skip_known: bool
) -> dict[int, int]:
    """Return the events whose id was given before in the same append, with the index of the first."""
    if len(set(ids)) == len(ids):
        return {}
    first: dict[bytes, int] = {}
    twins = {}
    for at, id in enumerate(ids):
        before = first.setdefault(id, at)
        if before == at:
            continue
        if not skip_known:
            raise InvalidEvent("id", f"{id_text(id)} is given twice in one append; give each event its own")
        one, other = events[before], events[at]
        if (streams[before], one[0], one[2], one[3]) != (streams[at], other[0], other[2], other[3]):
            reason = "is given twice in one append with different content"
            raise IdConflict(id_text(id), streams[at], 0, reason)
        twins[at] = before
    return twins
