"""Appending: one call of the function `append` and one flush, sent again when the connection breaks.

1. Among other writers the flush is a second transaction, sent in the same round trip: the first one commits
   without it, so that its lock is free while the disk works, and writers share flushes.
2. A writer whose last two appends have consecutive positions is alone. Its append is one transaction that
   commits with a flush. A second writer that begins then waits for that flush once.
"""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus

from evlog.engines.deciding import find_twins
from evlog.engines.postgresql import wire
from evlog.engines.postgresql.connections import (
    FORMAT,
    Connections,
    Statement,
    is_broken,
    is_read_only,
    translate,
)
from evlog.engines.waiting import Pause
from evlog.errors import (
    ENDS_RETRIES,
    AppendTooLarge,
    ConditionFailed,
    EngineError,
    IdConflict,
    InvalidArgument,
    StoreReplaced,
    StoreUnreachable,
    StreamTombstoned,
    UnsupportedFormat,
    WrongExpectedVersion,
    unknown_after,
)
from evlog.model.appends import NO_STREAM, BatchResult, Expectation, SchemasChanged
from evlog.model.events import CONTENT_TYPES, JSON_CODE, check_stream_name, id_text, make_ids
from evlog.model.history import Standing, refusal
from evlog.process.forks import register_fork_reset

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from psycopg.pq.abc import PGresult

    from evlog.engines.postgresql.connections import Parameters, Session
    from evlog.model.appends import AppendRequest
    from evlog.model.queries import IfNone

FLUSH: Final = (
    b"select set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'evlog', '')"
)
_FLUSH: Final = (Statement(FLUSH), ())
_BEGIN: Final = (Statement(b"begin"), ())
_COMMIT: Final = (Statement(b"commit"), ())
_MAX_BYTES: Final = 1 << 29  # a message to the server, and an array, is smaller than 1 GiB
_LOCK_TIMEOUT: Final = Statement(b"select set_config('lock_timeout', $1, true)")
REFUSED_BY_JSON: Final = frozenset({"22P02", "22P05", "54001"})  # also: nested too deeply for its parser
_KNOWN: Final = {
    "IdConflict": "is known with different content",
    "PartlyKnown": "is known, but not all ids of its append are",
}
_SERIALIZATION: Final = ("40001", "40P01")  # where the database's default is stricter
_UNIQUE: Final = "23505"


class _Contention:
    """Whether other writers append now. If they do, the positions of this engine's appends have gaps."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # guards the three below
        self._running = 0  # appends of this engine
        self._is_alone = False
        self._end = -1  # the position of the last event that this engine appended
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Begin again in a forked child: its parent is another writer."""
        self._mutex = threading.Lock()
        self._running, self._is_alone, self._end = 0, False, -1

    def enter(self) -> bool:
        """Begin an append; return whether there is no other writer."""
        with self._mutex:
            self._running += 1
            return self._is_alone and self._running == 1

    def leave(self, positions: Sequence[int]) -> None:
        """End an append to these positions; none if it failed."""
        with self._mutex:
            self._running -= 1
            self._is_alone = bool(positions) and positions[0] == self._end + 1
            if positions:
                self._end = positions[-1]


class Appender:
    """Appends of one engine. Any thread may use it."""

    def __init__(
        self, connections: Connections, store_id: str, *, sync: bool, lock_timeout_seconds: float | None
    ) -> None:
        self._connections = connections
        self._store_id = UUID(store_id).bytes
        self._sync = sync
        self._contention = _Contention()
        self._lock_timeout_seconds = lock_timeout_seconds
        # It appends nothing if another store was made in a schema that was dropped, or a newer evlog has
        # changed this one.
        self._statement = Statement(
            connections.address.sql(
                "select case when o_store_id = $20 and o_format <= {format} "
                "then {schema}.append({parameters}) end, "
                "set_config('synchronous_commit', $19, true), o_store_id, o_format from {schema}.describe()",
                format=str(FORMAT),
                parameters=", ".join(f"${number}" for number in range(1, 19)),
            )
        )
        self._before: list[tuple[Statement, Parameters]] = []
        if lock_timeout_seconds is not None:
            self._before = [(_LOCK_TIMEOUT, (b"%d" % max(1, int(lock_timeout_seconds * 1000)),))]

    def append(self, request: AppendRequest) -> BatchResult:
        """Append all events in one transaction, or none; flushed when this returns (with `sync`)."""
        streams, events = request.streams, request.events
        if not events:
            raise InvalidArgument("no events to append; give at least one")
        if not request.system:
            for stream in dict.fromkeys(streams):
                check_stream_name(stream)
        count = sum(event[1] is None for event in events)
        made = iter(make_ids(count) if count else ())
        ids = [event[1] or next(made) for event in events]
        twins = find_twins(streams, events, ids, skip_known=request.skip_known)
        if not twins:
            positions, versions, duplicates = self._send(_Call(request, ids))
            return BatchResult(streams, versions, positions, ids, duplicates)
        kept = [at for at in range(len(ids)) if at not in twins]
        rest = request._replace(
            streams=[streams[at] for at in kept],
            events=[events[at] for at in kept],
            expectations=[
                Expectation(bisect_left(kept, each.at), each.stream, each.version)
                for each in request.expectations
            ],
        )
        positions, versions, duplicates = self._send(_Call(rest, [ids[at] for at in kept]))
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
        self._connections.retry(lambda session: session.execute(FLUSH))

    def _send(self, call: _Call) -> tuple[list[int], list[int], list[bool]]:
        """Send an append, again with the same ids after a broken connection, and return its outcome."""
        try:
            return self._retry(call)
        except ENDS_RETRIES as error:
            if not call.is_unsure:
                raise
            raise unknown_after(error, self._connections.address.text) from error

    def _retry(self, call: _Call) -> tuple[list[int], list[int], list[bool]]:
        deadline = time.monotonic() + self._connections.address.timeout_seconds
        pause = Pause(deadline)
        while True:
            connection = None
            try:
                connection = self._connections.take()
                return self._execute(connection, call)
            except (StoreUnreachable, psycopg.Error) as error:
                if isinstance(error, psycopg.Error) and not is_broken(error):
                    self._change(call, error, deadline)
                    continue
                self._connections.forget_idle()
                if connection is not None:
                    call.look_up = call.is_unsure = True
                if not pause.take():
                    if isinstance(error, psycopg.Error):
                        raise translate(error, self._connections.address) from error
                    raise
            finally:
                if connection is not None:
                    self._connections.give_back(connection)

    def _execute(self, connection: Session, call: _Call) -> tuple[list[int], list[int], list[bool]]:
        positions: list[int] = []
        shares_flush = False
        # An id that is looked up may be that of an event that is committed and not flushed.
        commits_itself = self._contention.enter() and not call.look_up and self._sync
        try:
            connection.is_warned = False
            commit = b"on" if commits_itself else b"off"
            append = [*self._before, (self._statement, (*call.values(), commit, self._store_id))]
            if commits_itself or not self._sync:
                results = connection.run(append)
            elif self._connections.address.listens:
                # One transaction of the protocol: with two, this thread would wake for the first answer, too.
                shares_flush = True
                _, *results = connection.run([_BEGIN, *append, _COMMIT, _FLUSH])
            else:  # a pooler may hide a crash between two transactions: the restarted server would flush
                results = connection.run([*append, _FLUSH])
            if connection.is_warned and self._sync:
                # The wait for the standby was cancelled. The server then reports the commit as done.
                raise psycopg.OperationalError("the server has stopped waiting for its synchronous standby")
            answer = results[len(self._before)]
            if answer.get_value(0, 0) is None:
                raise self._other(answer)
            positions, versions, duplicates = call.outcome(answer)
            return positions, versions, duplicates
        except psycopg.Error as error:
            if is_read_only(error):
                connection.close()
            elif connection.pgconn.transaction_status == TransactionStatus.INERROR:
                connection.rollback()
            elif shares_flush and not is_broken(error) and error.sqlstate not in _SERIALIZATION:
                raise psycopg.OperationalError(f"it is committed and not flushed: {error}") from error
            raise
        finally:
            self._contention.leave(positions)

    def _other(self, answer: PGresult) -> Exception:
        """Return the error for a store that is not the one that was opened, or is now of a newer format."""
        address, format = self._connections.address.text, answer.get_value(0, 3) or b""
        if answer.get_value(0, 2) == self._store_id:
            return UnsupportedFormat(address, int.from_bytes(format), FORMAT)
        return StoreReplaced(address)

    def _change(self, call: _Call, error: psycopg.Error, deadline: float) -> None:
        """Change what the server refused so that it can be sent again, or raise the refusal."""
        state = error.sqlstate
        if state == _UNIQUE and error.diag.constraint_name != "events_id_key":
            state = _SERIALIZATION[0]  # in a stricter isolation it took the position of another append
        if is_read_only(error) and not call.is_moving:
            call.is_moving = True
            self._connections.forget_idle()
        elif state in REFUSED_BY_JSON and not call.raw_json:
            call.raw_json = True
        elif not call.look_up and (
            state == _UNIQUE or (state == "EV000" and _detail(error).get("error") == "LookUp")
        ):
            call.look_up = True
        elif state not in _SERIALIZATION or time.monotonic() >= deadline:
            raise self._refusal(error, call) from error

    def _refusal(self, error: psycopg.Error, call: _Call) -> Exception:
        """Return the error for an append that the server refused."""
        if error.sqlstate != "EV000":
            return translate(error, self._connections.address, self._lock_timeout_seconds)
        address, detail = self._connections.address.text, _detail(error)
        match detail.get("error"):
            case "Refused":
                return refusal(address, Standing(detail["mirror_of"] or "", detail["moved_to"] or ""))
            case "SchemasChanged":
                return SchemasChanged()
            case "ConditionFailed":
                condition = call.conditions[detail["at"]]
                return ConditionFailed(str(condition.query), condition.after, detail["position"])
            case "BeyondEnd":
                after, head = detail["after"], detail["head"]
                return InvalidArgument(f"position {after} is beyond the log's end, {head}; read again")
            case "WrongExpectedVersion":
                expected = detail["expected"]
                version = int(expected) if expected.isdigit() else expected
                return WrongExpectedVersion(detail["stream"], version, detail["actual"])
            case "StreamTombstoned":
                return StreamTombstoned(detail["stream"])
            case "IdConflict" | "PartlyKnown" as kind:
                id = id_text(call.ids[detail["at"]])
                return IdConflict(id, detail["stream"], detail["position"], _KNOWN[kind])
            case _:
                return EngineError(address, f"{error.diag.message_primary}: {error.diag.message_detail}")


def _detail(error: psycopg.Error) -> dict[str, Any]:
    """Return what the function `append` says of a refusal; nothing if it is not that function's."""
    try:
        return {**json.loads(error.diag.message_detail or "{}")}
    except (ValueError, TypeError):
        return {}


class _Call:
    """A call of the function `append`: its arguments, in columns, and what its answer means."""

    def __init__(self, request: AppendRequest, ids: Sequence[bytes]) -> None:
        self.is_moving = False  # the server takes no writes: another connection may lead to the primary
        self.raw_json = False  # store JSON as bytes: PostgreSQL's parser refuses some of it
        self.look_up = False  # look for every id: one of them is known, or the append was sent before
        self.is_unsure = False  # it was sent and not answered: it may have been made
        self.ids = ids
        self._streams = request.streams
        self._types, self._given, self._codes, self._data, self._metadata = zip(*request.events, strict=True)
        size = sum(map(len, self._data)) + sum(map(len, filter(None, self._metadata)))
        if size > _MAX_BYTES:
            raise AppendTooLarge(size, _MAX_BYTES)
        self._expectations = request.expectations
        self.conditions = request.conditions
        self._flags = (
            None if request.schemas is None else wire.int8(request.schemas),
            wire.boolean(request.skip_known),
            wire.boolean(request.system),
        )

    def values(self) -> list[bytes | None]:
        """Return the arguments in order."""
        streams, codes, data, expectations = self._streams, self._codes, self._data, self._expectations
        is_quick, version = len(data) == 1 and not (self.look_up or self.conditions), None
        if expectations:
            (first, *others) = expectations
            is_quick = is_quick and not others and first.stream == streams[0] and first.version != NO_STREAM
            version = first.version if isinstance(first.version, int) else None
        if streams.count(streams[0]) == len(streams) and not any(each.at for each in expectations):
            streams = streams[:1]
        json = raw = None
        if self.raw_json:
            raw = wire.array(wire.BYTEA, data)
        elif not any(codes):
            json = wire.array(wire.JSON, data)
        else:
            pairs = list(zip(codes, data, strict=True))
            json = wire.array(wire.JSON, [value if code == JSON_CODE else None for code, value in pairs])
            raw = wire.array(wire.BYTEA, [None if code == JSON_CODE else value for code, value in pairs])
        return [
            wire.boolean(is_quick),
            None if version is None else wire.int8(version),
            wire.texts(streams),
            wire.texts(self._types),
            wire.uuids(self.ids),
            wire.boolean(any(self._given)),
            wire.boolean(self.look_up),
            wire.texts([CONTENT_TYPES[code] for code in codes]) if any(codes) else None,
            json,
            raw,
            wire.array(wire.JSON, self._metadata) if any(self._metadata) else None,
            wire.int4s([each.at for each in expectations]) if expectations else None,
            wire.texts([each.stream for each in expectations]) if expectations else None,
            wire.texts([str(each.version) for each in expectations]) if expectations else None,
            _as_json(self.conditions) if self.conditions else None,
            *self._flags,
        ]

    def outcome(self, result: PGresult) -> tuple[list[int], list[int], list[bool]]:
        """Return the positions and versions, and which events were there before this append.

        An id that evlog made for it was not.
        """
        count = len(self.ids)
        first, version, versions, positions, known = wire.read_record(result.get_value(0, 0))
        if known is not None:
            duplicates = [
                one and given is not None
                for one, given in zip(wire.read_booleans(known), self._given, strict=True)
            ]
            return wire.read_int8s(positions), wire.read_int8s(versions), duplicates
        start = int.from_bytes(first or b"")
        consecutive = list(range(start, start + count))
        if versions is not None:
            return consecutive, wire.read_int8s(versions), [False] * count
        start = int.from_bytes(version or b"")
        return consecutive, list(range(start, start + count)), [False] * count


def _as_json(conditions: Sequence[IfNone]) -> bytes:
    return json.dumps(
        [{"after": min(each.after, wire.MAX_INT8), "items": each.query.items} for each in conditions]
    ).encode()
