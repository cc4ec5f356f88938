"""The interface between a store and what it runs on: `Engine`, and its description, `Capabilities`.

`EventStore` checks arguments and encodes events; an engine stores them. Events go in and come out as bytes;
no engine parses their data. Rules that every engine keeps:

1. `append` is atomic, and its events are durable when it returns. Known ids are found before versions and
   conditions are checked, so that a retry succeeds.
2. Positions only increase, and a position is never given twice. A feed delivers only events that no failure
   can remove.
3. An engine raises the errors of `evlog.errors`. What it cannot do, it refuses before it writes anything.
4. Its methods may be called from any thread. After `close` they raise StoreClosed.
5. A store whose standing is set refuses every change except `append_history`, `remove_history` and
   `change_standing`.

The directory engine is in `evlog/files/engine.py`. Another package provides an engine under the entry point
group `evlog.engines`: the entry's name is the scheme of its URLs, its value a function
`open_engine(url, *, create, sync, lock_timeout_seconds) -> Engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from evlog.errors import InvalidArgument
from evlog.model.appends import AppendRequest, BatchResult, ExpectedVersion
from evlog.model.checkpoints import Checkpoint, ParkedEvent
from evlog.model.events import Event
from evlog.model.filters import EventFilter, LogSelection, StreamSelection
from evlog.model.history import HistoryPiece, RemovedRecord, Standing
from evlog.model.policy_changes import PolicyChange
from evlog.model.redaction import RedactionResult
from evlog.model.reports import (
    Compaction,
    PolicyInfo,
    Retention,
    StoreInfo,
    StreamInfo,
    TornTail,
    VerifyReport,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urllib.parse import SplitResult

Progress = Callable[[int, int], None]
"""Called now and then with the bytes that are done and all the bytes there are."""


_LEFT_OUT = -1


class Capabilities:
    """What an engine can do, and how.

    Args:
        engine: its name: "directory", "postgresql" …
        durability: one sentence: what a returned append survives.
        max_event_bytes: of an event's data and metadata.
        max_append_events: how many events one append to several streams may have; None: no limit; 1: an
            append is of one stream only.
        max_mirrored_events: how many events an append may have to be mirrored to here; None: no limit; left
            out: as `max_append_events`.
        ids: how long ids are remembered: "log": always, "window", or per "stream".
        positions: "gap-free" or "increasing".
        retention: whether it hides events by count, age and version, and deletes streams.
        compaction: whether it removes the events that retention hides.
        conditions: whether appends can have conditions on types and tags.
        redaction: whether it erases the content of single events.
        verify: what verify checks: "bytes", "structure", "digest" or "versions".
    """

    def __init__(
        self,
        *,
        engine: str,
        durability: str,
        max_event_bytes: int,
        max_append_events: int | None = None,
        max_mirrored_events: int | None = _LEFT_OUT,
        ids: str = "log",
        positions: str = "gap-free",
        retention: bool = True,
        compaction: bool = True,
        conditions: bool = True,
        redaction: bool = True,
        verify: str = "bytes",
    ) -> None:
        self.engine = engine
        self.durability = durability
        self.max_event_bytes = max_event_bytes
        self.max_append_events = max_append_events
        is_left_out = max_mirrored_events == _LEFT_OUT
        self.max_mirrored_events = max_append_events if is_left_out else max_mirrored_events
        self.ids = ids
        self.positions = positions
        self.retention = retention
        self.compaction = compaction
        self.conditions = conditions
        self.redaction = redaction
        self.verify = verify


class Feed(Protocol):
    """One follower's view of the log. For one thread at a time, except `wake`."""

    @property
    def polling(self) -> bool:
        """Whether new events are found by polling only; known after the first wait."""

    def committed(self, after: int) -> int:
        """Return the last position that may be delivered now. `after` is what the follower has scanned."""

    def end(self) -> int:
        """Return the last position of the log, once everything up to it may be delivered."""

    def read(self, after: int, to: int) -> Iterator[Event]:
        """Iterate over the feed's events after position `after`, up to and including `to`."""

    def wait(self, after: int, timeout_seconds: float) -> bool:
        """Wait until `committed` is beyond `after`; False when the time is over or `wake` was called."""

    def wake(self) -> None:
        """End the present or the next wait; from any thread or signal handler."""

    def make_durable(self, position: int) -> None:
        """Return once no failure can take back an event up to `position`."""

    def close(self) -> None:
        """Free what the feed holds."""


class CheckpointStore(Protocol):
    """Where one named subscription is kept. All but the reading methods need `acquire` first."""

    def acquire(self) -> None:
        """Begin a run or a change; ends by `release` or with this process. Raises SubscriptionBusy."""

    def release(self) -> None:
        """End what `acquire` began."""

    def is_running(self) -> bool:
        """Return whether a run holds it now, here or elsewhere."""

    def load(self) -> Checkpoint | None:
        """Return the checkpoint; None if there is no such subscription. Raises CorruptionError."""

    def create(self, checkpoint: Checkpoint) -> None:
        """Add the subscription, durably, with nothing parked."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; after a failure it is this one or the one before."""

    def sync(self) -> None:
        """Return once the last checkpoint saved is durable."""

    def begin(self, position: int) -> Any:
        """Begin a transaction of the engine's database, and return the connection of its client.

        What is saved and parked until `end` belongs to it. The caller may write to the same database.

        Raises:
            SubscriptionBusy: the checkpoint is not at `position`: another run has saved it.
            Unsupported: the engine has no such transactions.
        """

    def end(self, error: BaseException | None) -> None:
        """End the transaction: commit it, durably, or with an error roll it back."""

    def delete(self) -> None:
        """Delete the subscription and what it parked, durably."""

    def parked(self) -> list[ParkedEvent]:
        """Return the parked events in the order in which they were parked first."""

    def park(self, event: Event, error: str, attempts: int) -> None:
        """Park an event, or update its error; durable when this returns."""

    def unpark(self, position: int) -> None:
        """Remove a parked event from the list; durable when this returns."""


class SnapshotStore(Protocol):
    """Where one snapshot is kept: bytes, which are derived and can be lost."""

    def load(self) -> bytes | None:
        """Return the content; None if there is no snapshot. Raises CorruptionError."""

    def save(self, content: bytes, before: bytes | None) -> bool:
        """Replace the content in one step if it is still `before`; else, or while others save, return False.

        Args:
            before: what `load` returned; None: there was none, or it was damaged.
        """

    def delete(self) -> bool:
        """Delete the snapshot, damaged or not; return whether there was one."""


class Engine(Protocol):
    """What a store runs on. `EventStore` documents the meaning of arguments that have the same names."""

    @property
    def address(self) -> str:
        """The directory, or the URL without its password."""

    @property
    def store_id(self) -> str:
        """The store's own id: the text of a UUID."""

    @property
    def created(self) -> bool:
        """Whether opening it has created the store."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do, and how."""

    @property
    def torn_tails(self) -> Sequence[TornTail]:
        """What this object removed from the end of a log: appends that a crash left unfinished."""

    def append(self, request: AppendRequest) -> BatchResult:
        """Append all events, or none.

        Raises:
            SchemasChanged: new events would be written, and `$schemas` is at another version. This is found
                before conditions are checked.
        """

    def read_stream(self, selection: StreamSelection) -> Iterator[Event]:
        """Iterate over the selected events of a stream."""

    def read_all(self, selection: LogSelection) -> Iterator[Event]:
        """Iterate over the selected events of the log."""

    def find_ids(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Return the positions of known ids, also of those whose events were removed."""

    def versions(self, streams: Sequence[str]) -> list[int]:
        """Return the last version of each stream, visible or not; 0 if it never had an event."""

    def streams(
        self, category: str | None, prefix: str | None, *, include_deleted: bool, include_system: bool
    ) -> Iterator[StreamInfo]:
        """Iterate over the streams by name."""

    def head(self) -> int:
        """Return the last position; 0 in an empty log."""

    def follow(self, filter: EventFilter) -> Feed:
        """Return a feed of the events that the filter selects."""

    def checkpoint(self, name: str) -> CheckpointStore:
        """Return the place of the subscription with this checked name, whether or not there is one."""

    def checkpoint_names(self) -> list[str]:
        """Return the names of all subscriptions, sorted."""

    def set_retention(self, change: PolicyChange) -> None:
        """Set the given parts of a policy, durably."""

    def retention(self, stream: str | None, category: str | None) -> Retention:
        """Return what is kept of a stream or of a category's streams."""

    def policies(self) -> list[PolicyInfo]:
        """Return every policy in force."""

    def delete_stream(self, stream: str, *, tombstone: bool, expected: ExpectedVersion) -> int:
        """Hide all events of a stream, durably, and return its last version."""

    def redact(self, events: Sequence[Event], reason: str) -> RedactionResult:
        """Erase the content of these events, which were read before, for every reader, durably.

        Args:
            events: those that no redaction names yet; if none, only make earlier redactions durable.
        """

    def compact(self, *, dry_run: bool, force: bool, compress: bool, progress: Progress | None) -> Compaction:
        """Remove what policies hide."""

    def verify(self, *, quick: bool, against: str | None, progress: Progress | None) -> VerifyReport:
        """Check everything that is stored."""

    def info(self) -> StoreInfo:
        """Return the store in numbers."""

    # --- snapshots

    def snapshot(self, name: str, stream: str | None) -> SnapshotStore:
        """Return the place of the snapshot with this checked name, of a stream or of a selection (None)."""

    def snapshot_names(self) -> list[tuple[str, str | None]]:
        """Return the name and the stream of each snapshot, sorted by name."""

    def removals(self) -> int:
        """Return how many events compactions have removed; it changes whenever one removes any."""

    # --- mirrors

    @property
    def standing(self) -> Standing:
        """Whether the store is a mirror, or has moved."""

    def change_standing(self, before: Standing, after: Standing, *, head: int | None = None) -> bool:
        """Replace the standing, durably, if it is `before`, and if the log ends at `head`; else return False.

        Once this returns True, no append that was checked against the old standing can be acknowledged.
        """

    def read_frames(self, after: int, to: int) -> Iterator[tuple[int, Event]]:
        """Iterate over all events after position `after` up to `to`, each with a number for its append.

        The number is a position: that of the append's first event among those asked for.
        """

    def read_removed(self, after: int, to: int) -> Iterator[RemovedRecord]:
        """Iterate over the events after position `after` up to `to` that compactions removed, in order."""

    def append_history(self, piece: HistoryPiece) -> None:
        """Append a piece of the source's history as it is there: all of it, or nothing; durable on return.

        Raises:
            MirrorConflict: the store is not a mirror of the source, or does not end where the piece begins.
        """

    def remove_history(self, source_id: str, removed: Sequence[RemovedRecord]) -> None:
        """Remove what the source's compactions have removed since it was copied; durable on return.

        It also erases the content of redacted events, as a compaction does. Events that were removed before
        are skipped, so the call can be repeated.

        Raises:
            MirrorConflict: the store is not a mirror of the source.
        """

    def close(self) -> None:
        """Close what is open."""


# --- engines by URL

_IN_SCHEMES = {ord(mark): "x" for mark in "+-."}
_OWN_ENGINES = {
    "postgresql": "evlog.engines.postgresql",
    "postgres": "evlog.engines.postgresql",
    "nats": "evlog.engines.nats",
    "dynamodb": "evlog.engines.dynamodb",
    "kafka": "evlog.engines.kafka",
}


def scheme_of(where: str) -> str | None:
    """Return the scheme of a URL; None for a path, as `./x://y` is."""
    scheme, found, _ = where.partition("://")
    is_scheme = found and scheme.isascii() and scheme[:1].isalpha()
    return scheme.lower() if is_scheme and scheme.translate(_IN_SCHEMES).isalnum() else None


def make_url(scheme: str, host: str, path: str, query: str) -> str:
    """Return a URL of these parts; unlike `urlunsplit` it keeps the `//` in front of an empty host."""
    return f"{scheme}://{host}{path}" + (query and f"?{query}")


def split_url(url: str) -> SplitResult:
    """Return the parts of a URL; unlike `urlsplit` of Python 3.14 it takes `a,[::1]` for two hosts.

    Raises:
        ValueError: a host cannot be read.
    """
    from urllib.parse import SplitResult, urlsplit

    scheme, _, rest = url.partition("://")
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    hosts, slash, path = rest.partition("/")
    for host in hosts.split(","):
        urlsplit(f"//{host}")
    return SplitResult(scheme, hosts, slash + path, query, fragment)


def check_marks(url: str) -> None:
    """Raise InvalidArgument if a URL cannot be split, or a mark in a password without escapes ends its host.

    What follows the mark would be taken for a host, a path or an option, and be shown in messages.
    """
    scheme, _, rest = url.partition("://")
    path, _, query = rest.partition("#")[0].partition("?")
    host, _, path = path.partition("/")
    mark = None
    if "#" in rest:
        mark = "#"
    elif host.count("@") > 1:
        mark = "@"
    elif "@" not in host:
        names = [option.partition("=")[0] for option in query.split("&")]
        ports = [each.rpartition("]")[2].partition(":") for each in host.split(",")]
        is_password = any(colon and not port.isdecimal() for _, colon, port in ports)
        if "@" in path:
            mark = "/"
        elif any("@" in name for name in names) or (is_password and "@" in query):
            mark = "?"
    if mark is not None:
        raise InvalidArgument(
            f"invalid URL of {scheme}:// (an unexpected {mark})",
            f"in a user, a password or an option, write %{ord(mark):02X} for {mark}",
        )
    try:
        split_url(url)
    except ValueError:  # its message may show the password
        advice = "write an IPv6 address as [::1], and escape other characters than letters and digits as %40"
        raise InvalidArgument(f"invalid URL of {scheme}:// (its host cannot be read)", advice) from None


def maybe_find_opener(where: str) -> Callable[..., Engine] | None:
    """Return what opens a URL of the scheme in `where`; None if that is a path.

    Raises:
        InvalidArgument: no installed engine has the scheme, or the URL has a mark that must be escaped.
    """
    scheme = scheme_of(where)
    if scheme is None:
        return None
    opener: Callable[..., Engine]
    if scheme in _OWN_ENGINES:
        from importlib import import_module

        check_marks(where)
        opener = import_module(_OWN_ENGINES[scheme]).open_engine
        return opener
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group="evlog.engines")}
    if scheme not in found:
        known = ", ".join(f"{name}://" for name in sorted({*found, *_OWN_ENGINES}))
        raise InvalidArgument(f"unknown scheme {scheme}://; use a directory, or a URL of an engine ({known})")
    opener = found[scheme].load()
    return opener
