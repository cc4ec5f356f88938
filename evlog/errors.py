"""Every exception that evlog raises, each with its data in attributes and its exit code.

     1  failed       EvlogError, the base of all  StoreAccessDenied  StoreIOError  SystemCallFailed
                     StoreClosed  ClockError  EngineError
     2  usage        InvalidArgument, also a ValueError, and its subclasses:
                     InvalidStreamName  InvalidEvent  EventTooLarge  AppendTooLarge  TooManyEvents
                     MirrorLimit  InvalidSchema  SchemaViolation
     3  conflict     WrongExpectedVersion  ConditionFailed  StreamTombstoned  SubscriptionBehind
                     ShardsApart  MirrorConflict  StoreDiverged
     4  corrupt      CorruptionError and its subclass UnsafeFile  SubscriptionAhead
     5  not-found    StoreNotFound  StoreReplaced  NotAStore  StreamNotFound  EventNotFound
                     SubscriptionNotFound  SnapshotNotFound  SchemaNotFound
     6  busy         LockTimeout  LockLost  StoreBusy  SubscriptionBusy  CompactionRunning  MirrorBusy
                     StoreThrottled
     7  id-conflict  IdConflict
     9  full         StoreFull
    10  unsupported  UnsupportedFormat  Unsupported  StoreIsMirror  StoreMoved  ExtraNotInstalled
                     ServerUnsuitable
    12  unavailable  StoreUnreachable  AppendUnknown

A message is one line: what is wrong; what to do. A program reads the attributes, never the text:
`attributes()` returns them by name, as EVLOG_ERRORS=json prints them. Any other exception is a bug in evlog
or in its caller.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self, TypeVar

    _Error = TypeVar("_Error", bound="EvlogError")

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CONFLICT = 3
EXIT_CORRUPT = 4
EXIT_NOT_FOUND = 5
EXIT_BUSY = 6
EXIT_ID_CONFLICT = 7
EXIT_TIMEOUT = 8
EXIT_FULL = 9
EXIT_UNSUPPORTED = 10
EXIT_BEHIND = 11
EXIT_UNAVAILABLE = 12
EXIT_INTERRUPTED = 130
BY_SIGNAL = 128  # and the number of the signal that ended the process, as a shell says it


class EvlogError(Exception):
    """The base of every error that evlog raises on purpose.

    Args:
        problem: what is wrong.
        advice: what to do about it, if `problem` does not say so.
    """

    exit_code: int = EXIT_FAILED

    def __init__(self, problem: str = "", advice: str | None = None) -> None:
        super().__init__(problem if advice is None else f"{problem}; {advice}")
        self._problem = problem

    @property
    def problem(self) -> str:
        """The message without its advice."""
        return self._problem

    def attributes(self) -> dict[str, object]:
        """Return the error's data by name, in the order in which the class sets it."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def unraised(self) -> Self:
        """Return an equal error without a traceback, for an error that is kept to be raised again.

        An error keeps the frames that it was raised through, and what their variables hold.
        """
        return _revive(type(self), self.args, vars(self))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the error with its attributes: `args` does not hold what a subclass's `__init__` takes."""
        return _revive, (type(self), self.args, vars(self))


def _revive(kind: type[_Error], args: tuple[object, ...], attributes: dict[str, object]) -> _Error:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class InvalidArgument(EvlogError, ValueError):
    """An argument that can never be valid: a bad range, an empty append, an unknown option."""

    exit_code = EXIT_USAGE


class InvalidStreamName(InvalidArgument):
    """A stream name outside 1..255 bytes of UTF-8, with control characters, or reserved."""

    def __init__(self, stream: object, reason: str) -> None:
        reserved = str(stream).startswith("$")
        advice = "choose another name" if reserved else "use 1 to 255 bytes of printable UTF-8"
        super().__init__(f"stream name {shorten(stream)} {reason}", advice)
        self.stream = stream
        self.reason = reason


class InvalidEvent(InvalidArgument):
    """An event whose type, id, data, metadata or content type is invalid.

    Args:
        field: what is invalid, such as "data"; "": all of it.
        reason: continues a sentence that begins with the field.
        index: which event of a `NewEvents` it is, from 0; None: the event was given by itself.
    """

    index: int | None = None

    def __init__(self, field: str, reason: str, index: int | None = None) -> None:
        number = "" if index is None else f"[{index}]"
        super().__init__(f"event{number} {field} {reason}" if field else f"event{number}: {reason}")
        self.field = field
        self.reason = reason
        if index is not None:
            self.index = index


class EventTooLarge(InvalidArgument):
    """An event whose data and metadata exceed the limit for one event.

    Args:
        index: as in InvalidEvent.
    """

    index: int | None = None

    def __init__(self, size_bytes: int, limit_bytes: int, index: int | None = None) -> None:
        event = "an event" if index is None else f"event[{index}]"
        super().__init__(
            f"{event} of {size_bytes} bytes is over the limit of {limit_bytes}",
            "store the content elsewhere and append a reference to it",
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        if index is not None:
            self.index = index


class AppendTooLarge(InvalidArgument):
    """One append (one frame) that is larger than a frame can be."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"one append of {size_bytes} bytes is over the limit of {limit_bytes}",
            "append in smaller batches",
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class TooManyEvents(InvalidArgument):
    """One append with more events than the store's engine takes at once; nothing was written."""

    def __init__(self, events: int, limit: str) -> None:
        super().__init__(
            f"one append of {events} events is over the engine's limit of {limit}",
            "append fewer events at once",
        )
        self.events = events
        self.limit = limit


class MirrorLimit(InvalidArgument):
    """An append of a mirror's source exceeds its destination's limit; it and later ones are not copied."""

    def __init__(self, position: int, what: str, limit: str) -> None:
        super().__init__(
            f"{what} at position {position} is over the destination's limit of {limit}",
            "use a destination that takes it",
        )
        self.position = position
        self.limit = limit


class InvalidSchema(InvalidArgument):
    """A JSON Schema that cannot be used.

    Args:
        pointer: the place in the schema, as a JSON pointer.
    """

    def __init__(self, type: str, pointer: str, reason: str) -> None:
        place = f" at {_cut(pointer)}" if pointer else ""
        super().__init__(f"invalid schema of {shorten(type)}{place}: {_cut(reason)}", "correct it")
        self.type = type
        self.pointer = pointer
        self.reason = reason


class SchemaViolation(InvalidArgument):
    """An event's data does not fit the JSON Schema of its type; nothing was written.

    Args:
        version: of the schema.
        pointer: the place in the data, as a JSON pointer.
        index: which event of the append it is, from 0.
    """

    def __init__(self, type: str, version: int, pointer: str, reason: str, index: int) -> None:
        place = f" at {_cut(pointer)}" if pointer else ""
        super().__init__(
            f"the data does not fit version {version} of the schema of {shorten(type)}{place}: "
            f"{_cut(reason)}",
            "correct the data, or set another schema",
        )
        self.type = type
        self.version = version
        self.pointer = pointer
        self.reason = reason
        self.index = index


class WrongExpectedVersion(EvlogError):
    """The stream is not at the version that the append expected; nothing was written.

    `expected` is a version (0: no stream yet) or "exists", after KurrentDB's ExpectedVersion; `actual` is the
    stream's version, 0 where there is no such stream (or, for "exists", where it was deleted).
    """

    exit_code = EXIT_CONFLICT

    def __init__(self, stream: str, expected: int | str, actual: int) -> None:
        super().__init__(
            f"stream {shorten(stream)} is at version {actual}, expected {expected or 'none'}",
            "read its new events and decide again",
        )
        self.stream = stream
        self.expected = expected
        self.actual = actual


class ConditionFailed(EvlogError):
    """An event matches the query of an append's condition; nothing was written.

    `query` is the query's text, which `Query.parse` takes; `position` is that of the first event after
    `after` that matches.
    """

    exit_code = EXIT_CONFLICT

    def __init__(self, query: str, after: int, position: int) -> None:
        later = f" after position {after}" if after else ""
        super().__init__(
            f"the event at position {position} matches {query}, and none{later} may",
            "read the events again and decide again",
        )
        self.query = query
        self.after = after
        self.position = position


class StreamTombstoned(EvlogError):
    """The stream was permanently deleted: its name can never be used again. Nothing was written."""

    exit_code = EXIT_CONFLICT

    def __init__(self, stream: str) -> None:
        super().__init__(
            f"stream {shorten(stream)} was permanently deleted (tombstone)", "append to another stream"
        )
        self.stream = stream


class IdConflict(EvlogError):
    """An id is known already, with other content; nothing was written.

    Args:
        key: the idempotency key from which the id was made, if that is known.
    """

    exit_code = EXIT_ID_CONFLICT

    def __init__(self, id: str, stream: str, position: int, reason: str, key: str | None = None) -> None:
        name = f"event id {id}" if key is None else f"idempotency key {shorten(key)} (event id {id})"
        super().__init__(
            f"{name} {reason} (position {position})",
            f"use a new {'id' if key is None else 'key'} for a new event",
        )
        self.id = id
        self.stream = stream
        self.position = position
        self.reason = reason
        self.key = key


class CorruptionError(EvlogError):
    """Bytes on disk are not what was written; no damaged data was returned and nothing was cut."""

    exit_code = EXIT_CORRUPT

    def __init__(self, path: str, offset: int | None, detail: str, position: int | None = None) -> None:
        place = path if offset is None else f"{path} at offset {offset}"
        advice = "undamaged events can still be read: run `evlog verify --salvage OUT`, or restore a backup"
        if not path.startswith("/"):  # no file: an item of a server
            advice = "restore the data of the server, or copy a mirror back"
        super().__init__(f"{place} is damaged: {detail}", advice)
        self.path = path
        self.offset = offset
        self.position = position
        self.detail = detail


class UnsafeFile(CorruptionError):
    """A link, a FIFO, a device or a file with a second name is where a file of the store should be.

    A store that comes from elsewhere may hold such entries. evlog does not follow, read or change them.
    """

    def __init__(self, path: str, detail: str) -> None:
        EvlogError.__init__(
            self,
            f"{path} is not a file of a store: {detail}",
            "put a regular file in its place, or remove it",
        )
        self.path = path
        self.offset = None
        self.position = None
        self.detail = detail


class StoreNotFound(EvlogError):
    """There is no store at the path.

    Attributes:
        was_open: it was there when it was opened, and was moved or removed since.
    """

    exit_code = EXIT_NOT_FOUND

    def __init__(self, path: str, *, was_open: bool = False) -> None:
        if was_open:
            super().__init__(
                f"the store at {path} was moved or removed while it was open",
                "open it where it is now, or restore a backup",
            )
        else:
            super().__init__(f"no store at {path}", "create it with evlog.open(path, create=True)")
        self.path = path
        self.was_open = was_open


class StoreReplaced(EvlogError):
    """Another store, or a copy of the same one, was put in the place of a store that was open."""

    exit_code = EXIT_NOT_FOUND

    def __init__(self, path: str) -> None:
        super().__init__(
            f"the store at {path} was replaced while it was open; nothing was acknowledged: open it again"
        )
        self.path = path


class StoreDiverged(EvlogError):
    """The directory for a backup has events that the store does not have; nothing was changed."""

    exit_code = EXIT_CONFLICT

    def __init__(self, path: str, source: str, position: int) -> None:
        super().__init__(
            f"{path} is no longer a copy of {source}: its event at position {position} is not there",
            "give another directory; what was appended to a copy stays in it",
        )
        self.path = path
        self.source = source
        self.position = position


class NotAStore(EvlogError):
    """The path holds something that is not a store; nothing in it was changed."""

    exit_code = EXIT_NOT_FOUND

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} is not an evlog store: {reason}", "use an empty or new directory")
        self.path = path
        self.reason = reason


class StreamNotFound(EvlogError):
    """No event was ever appended to the stream."""

    exit_code = EXIT_NOT_FOUND

    def __init__(self, stream: str) -> None:
        super().__init__(f"no stream {shorten(stream)}", "EventStore.streams lists the streams")
        self.stream = stream


class EventNotFound(EvlogError):
    """No event has this id or position, or a compaction has removed it.

    `event` is the id, as a text, or the position; `removed` says that the id is known.
    """

    exit_code = EXIT_NOT_FOUND

    def __init__(self, event: str | int, *, removed: bool = False) -> None:
        what = f"event {event}" if isinstance(event, str) else f"event at position {event}"
        problem = f"{what} was removed by a compaction" if removed else f"no {what}"
        super().__init__(problem, "EventStore.read_all reads the events that are there")
        self.event = event
        self.removed = removed


class SnapshotNotFound(EvlogError):
    """There is no snapshot of this name, of the stream or (None) of a selection of events."""

    exit_code = EXIT_NOT_FOUND

    def __init__(self, name: str, stream: str | None = None) -> None:
        of = "" if stream is None else f" of stream {shorten(stream)}"
        super().__init__(f"no snapshot {shorten(name)}{of}", "EventStore.snapshots lists the snapshots")
        self.name = name
        self.stream = stream


class SubscriptionNotFound(EvlogError):
    """There is no subscription of this name."""

    exit_code = EXIT_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no subscription {shorten(name)}", "EventStore.subscriptions lists the subscriptions"
        )
        self.name = name


class SchemaNotFound(EvlogError):
    """The event type has no schema, or not that version of one."""

    exit_code = EXIT_NOT_FOUND

    def __init__(self, type: str, version: int | None = None) -> None:
        which = "no schema" if version is None else f"no version {version} of a schema"
        super().__init__(f"{which} of {shorten(type)}", "EventStore.schemas lists the schemas")
        self.type = type
        self.version = version


class SubscriptionBusy(EvlogError):
    """The subscription of this name is running, here or in another process.

    Attributes:
        holder: a text that names the process; None: unknown, as on a server.
    """

    exit_code = EXIT_BUSY

    def __init__(self, name: str, holder: str | None = None) -> None:
        where = "" if holder is None else f" in {holder}"
        super().__init__(
            f"subscription {shorten(name)} is already running{where}",
            "stop that run first, or use another name",
        )
        self.name = name
        self.holder = holder


class ShardsApart(EvlogError):
    """A subscription's number of consumers cannot change: the present ones are not at the same position."""

    exit_code = EXIT_CONFLICT

    def __init__(self, name: str, positions: dict[str, int]) -> None:
        found = ", ".join(f"{each} is at {position}" for each, position in positions.items())
        super().__init__(
            f"subscription {shorten(name)} is shared by another number of consumers: {found}",
            f"run each of them to the same position first, for example to {max(positions.values())}",
        )
        self.name = name
        self.positions = positions


class LockTimeout(EvlogError):
    """Another writer held the store's lock for longer than this writer could wait.

    Attributes:
        timeout_seconds: None: a server's own `lock_timeout`.
    """

    exit_code = EXIT_BUSY

    def __init__(self, path: str, timeout_seconds: float | None) -> None:
        waited = (
            "longer than its server's lock_timeout" if timeout_seconds is None else f"{timeout_seconds:g} s"
        )
        super().__init__(
            f"{path} was locked by another writer for {waited}", "try again, or increase lock_timeout"
        )
        self.path = path
        self.timeout_seconds = timeout_seconds


class LockLost(EvlogError):
    """The lock file was removed or replaced while a writer held its lock; nothing was acknowledged."""

    exit_code = EXIT_BUSY

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} was removed or replaced while it was locked, and nothing was acknowledged",
            "leave that file alone, and try again with the same ids",
        )
        self.path = path


class StoreBusy(EvlogError):
    """Other processes replaced the store's segments faster than this one could read them."""

    exit_code = EXIT_BUSY

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is being changed faster than it can be read; try again")
        self.path = path


class StoreFull(EvlogError):
    """The disk is full, or a quota or file size limit is reached; a partial write was removed again."""

    exit_code = EXIT_FULL

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"no space to write {path} ({reason})", "free some space, or raise the limit, and try again"
        )
        self.path = path
        self.reason = reason


class StoreAccessDenied(EvlogError):
    """The file system or a server does not permit what the call needs."""

    def __init__(self, path: str, reason: str, *, creating: bool = False) -> None:
        verb, whose = "open", "its owner, mode and mount"
        if creating:
            verb, whose = "create", "the owner, mode and mount of its directory"
        elif "://" in path:
            verb, whose = "use", "the user, its password and its rights on the server"
        super().__init__(f"cannot {verb} {path} ({reason})", f"check {whose}")
        self.path = path
        self.reason = reason


class StoreIOError(EvlogError):
    """The disk failed a write, a sync or a read. After a failed write or sync the outcome is unknown.

    The writer that raised it refuses further appends until the store is opened again.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"reading or writing {path} failed ({reason}), and nothing was acknowledged",
            "check the disk, then open the store again and retry with the same ids",
        )
        self.path = path
        self.reason = reason


class SystemCallFailed(EvlogError):
    """The operating system refused a call for a reason of its own: a limit, or a missing capability."""

    def __init__(self, path: str, reason: str, advice: str) -> None:
        super().__init__(f"cannot use {path} ({reason})", advice)
        self.path = path
        self.reason = reason


class SubscriptionBehind(EvlogError):
    """A compaction would remove events that a named subscription has not read; nothing was changed."""

    exit_code = EXIT_CONFLICT

    def __init__(self, subscription: str, checkpoint: int, position: int) -> None:
        super().__init__(
            f"subscription {shorten(subscription)} is at position {checkpoint}, and the compaction would "
            f"remove events up to position {position} that it has not read",
            "let it catch up, or pass force=True",
        )
        self.subscription = subscription
        self.checkpoint = checkpoint
        self.position = position


class SubscriptionAhead(EvlogError):
    """A subscription is at an event that the log does not have: one was restored from another copy."""

    exit_code = EXIT_CORRUPT

    def __init__(self, subscription: str, checkpoint: int, head: int) -> None:
        super().__init__(
            f"subscription {shorten(subscription)} is at an event (position {checkpoint}) that this log "
            f"(it ends at position {head}) does not have; one of them was restored from another copy: "
            "reset the subscription to the position to continue from (0 delivers every event again)"
        )
        self.subscription = subscription
        self.checkpoint = checkpoint
        self.head = head


class CompactionRunning(EvlogError):
    """Another process compacts the store, or holds off compactions to finish a verification.

    Attributes:
        holder: a text that names the process; None: unknown.
    """

    exit_code = EXIT_BUSY

    def __init__(self, path: str, holder: str | None = None) -> None:
        problem = f"{path} is being compacted or verified by {holder or 'another process'}"
        super().__init__(problem, "wait until that has finished")
        self.path = path
        self.holder = holder


class ClockError(EvlogError):
    """The system clock is outside the years that an event's time can have."""

    def __init__(self, time_us: int) -> None:
        super().__init__(
            f"the system clock is {time_us // 1_000_000} seconds from 1970, outside the years 1970 to 9999; "
            "set the clock and try again"
        )
        self.time_us = time_us


class StoreClosed(EvlogError):
    """The store object was closed."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the store {path} is closed", "open it again")
        self.path = path


class UnsupportedFormat(EvlogError):
    """Another evlog wrote a file or a store, in a format that this one cannot read."""

    exit_code = EXIT_UNSUPPORTED

    def __init__(self, path: str, found: int, supported: int) -> None:
        advice = "install a newer evlog" if found > supported else "export it with the evlog that wrote it"
        super().__init__(f"{path} has format {found}, this evlog reads format {supported}", advice)
        self.path = path
        self.found = found
        self.supported = supported


class Unsupported(EvlogError):
    """The store's engine does not offer the operation; nothing was changed."""

    exit_code = EXIT_UNSUPPORTED

    def __init__(
        self, engine: str, operation: str, advice: str = "`evlog help engines` shows which one does"
    ) -> None:
        super().__init__(f"the {engine} engine does not offer {operation}", advice)
        self.engine = engine
        self.operation = operation


class StoreIsMirror(EvlogError):
    """The store is a mirror, an unfinished fork, or imported to: it takes no other events. Not changed."""

    exit_code = EXIT_UNSUPPORTED

    def __init__(
        self, path: str, mirror_of: str, *, is_unfinished_fork: bool = False, is_import: bool = False
    ) -> None:
        if is_import:
            super().__init__(
                f"events are imported to {path} with their times, or such an import was killed",
                "wait for its end, or run the same import again",
            )
        elif is_unfinished_fork:
            super().__init__(f"{path} is an unfinished fork", "run the same `evlog fork` again, or remove it")
        else:
            super().__init__(
                f"{path} is a mirror of store {mirror_of}",
                "use that store; `evlog help mirror` says how a mirror ends",
            )
        self.path = path
        self.mirror_of = mirror_of
        self.is_unfinished_fork = is_unfinished_fork
        self.is_import = is_import


class StoreMoved(EvlogError):
    """The store was moved to another address by `mirror --cutover`; it can still be read."""

    exit_code = EXIT_UNSUPPORTED

    def __init__(self, path: str, moved_to: str) -> None:
        super().__init__(f"the store {path} has moved", f"use {shorten(moved_to, 200)}")
        self.path = path
        self.moved_to = moved_to


class MirrorConflict(EvlogError):
    """The destination of a mirror or a fork holds what its source does not; nothing was written."""

    exit_code = EXIT_CONFLICT

    def __init__(self, source: str, destination: str, reason: str, advice: str) -> None:
        super().__init__(f"{destination} cannot take the events of {source}: {reason}", advice)
        self.source = source
        self.destination = destination
        self.reason = reason


class MirrorBusy(EvlogError):
    """Another mirror, or an import of events with their times, writes to the same destination."""

    exit_code = EXIT_BUSY

    def __init__(self, destination: str) -> None:
        super().__init__(
            f"another mirror or import writes to {destination}",
            "wait until it has ended, or use another destination",
        )
        self.destination = destination


class ExtraNotInstalled(EvlogError):
    """Something needs a library that is not installed with evlog by default; nothing was written.

    Args:
        error: that of the import, which says whether the library is missing or cannot be loaded.
    """

    exit_code = EXIT_UNSUPPORTED

    def __init__(self, needed_by: str, library: str, extra: str, error: ImportError | None = None) -> None:
        problem, advice = "is not installed", f"run pip install 'evlog-store[{extra}]'"
        missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if error is not None and missing != library.replace("-", "_"):
            problem = f"cannot be loaded ({' '.join(str(error).split())})"
            advice = f"install it again, or {advice}; it may also lack memory"
        super().__init__(f"{needed_by} needs {library}, which {problem}", advice)
        self.needed_by = needed_by
        self.library = library
        self.extra = extra


class ServerUnsuitable(EvlogError):
    """A server is too old, or is set up in a way that cannot keep a store; nothing was written."""

    exit_code = EXIT_UNSUPPORTED

    def __init__(self, address: str, reason: str, advice: str) -> None:
        super().__init__(f"{address} cannot keep a store: {reason}", advice)
        self.address = address
        self.reason = reason


class StoreUnreachable(EvlogError):
    """The server cannot be reached, or has no quorum; nothing was sent."""

    exit_code = EXIT_UNAVAILABLE

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot reach {address} ({reason})", "check the address and the server")
        self.address = address
        self.reason = reason


class StoreThrottled(EvlogError):
    """The service takes no more calls for now: a limit of its own, or of the table; nothing was written."""

    exit_code = EXIT_BUSY

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"{address} is throttled ({reason})", "try again later, or raise the service's limits"
        )
        self.address = address
        self.reason = reason


class AppendUnknown(EvlogError):
    """The connection was lost for good after an append was sent: the store may or may not have the append."""

    exit_code = EXIT_UNAVAILABLE

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"lost {address} before it answered ({reason}), so the append may have been made",
            "retry with the same ids or keys",
        )
        self.address = address
        self.reason = reason


class EngineError(EvlogError):
    """The server failed in a way that evlog does not know."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"the server at {address} failed ({reason})", "see its log")
        self.address = address
        self.reason = reason


# Errors that end the retries of an append before these have looked for its ids: they do not say whether an
# earlier try was made.
ENDS_RETRIES = (
    StoreUnreachable,
    StoreAccessDenied,
    StoreNotFound,
    StoreThrottled,
    StoreFull,
    StoreClosed,
    StoreIsMirror,
    StoreMoved,
    LockTimeout,
    UnsupportedFormat,
    CorruptionError,
    EngineError,
)


def unknown_after(error: EvlogError, address: str) -> AppendUnknown:
    """Return the error of an append that may have been made, when this one ended its retries."""
    return AppendUnknown(address, getattr(error, "reason", error.problem))


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:100] + "…" + text[-90:]  # what is wrong is often at the end


def shorten(value: object, length: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 20] + "…" + text[-10:]
