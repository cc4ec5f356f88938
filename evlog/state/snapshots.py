"""What a snapshot holds, and when it can be used.

1. A snapshot gives exactly the state that folding all events gives. Deleting it costs only time.
2. It names its fold, the fold's version and initial value, and its selection of events. With others it is
   rebuilt.
3. It names the event at its position. If the store does not have that event there (an older backup was
   restored), it is rebuilt.
4. A snapshot of a stream names the first event that was folded. If retention or a deletion hides that event,
   or shows an earlier one, the snapshot is rebuilt. A snapshot of a selection says how many events
   compactions had removed, and both kinds say how many redactions there were. If such a number has changed,
   the snapshot is rebuilt.
5. State and position are one content. An engine replaces it in one step, unless another process has done so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from evlog.errors import CorruptionError, SnapshotNotFound
from evlog.model.checkpoints import check_kept_name
from evlog.model.events import moment_of, now_ns
from evlog.model.filters import EVERYTHING
from evlog.model.named import NamedTuple
from evlog.model.retention import REDACTIONS_STREAM

if TYPE_CHECKING:
    from datetime import datetime

    from evlog.engine import Engine, SnapshotStore


class Content(msgspec.Struct):
    """The content of a snapshot, as it is kept."""

    fold: str
    fold_version: int | str
    selection: dict[str, Any]
    position: int
    """Everything up to here is folded."""
    event_id: str
    """Of the last event up to `position`, matching or not: 32 hex digits."""
    event_position: int
    state: msgspec.Raw
    events: int = 0
    version: int = 0
    """Of a stream: that of its last event."""
    first_version: int = 0
    """Of a stream: that of the first event folded."""
    removals: int = 0
    """Of a selection: how many events compactions had removed."""
    redactions: int = 0
    """The version of the stream of redactions."""
    time_us: int = 0
    """Of the last event folded."""
    saved_us: int = 0
    initial_crc: int = 0
    """Of the state before the first event, where that is given as a value."""


class _Head(msgspec.Struct):
    """The part of a content that says how far it is."""

    position: int


class SnapshotInfo(NamedTuple):
    """A snapshot: whose state it is, and as of when.

    Attributes:
        stream: None: the state is of a selection of the log.
        selection: which events were folded; an empty dict: all of the stream, or of the log.
        position: everything up to and including it is folded.
        version: of the stream's last event that was folded; 0 for a selection.
        events: how many were folded.
        fold, fold_version: the name and version of the fold.
        state: the state, as JSON.
        saved_us: when it was saved, microseconds since 1970.
        damage: what is wrong with it; the next fold rebuilds it. None if nothing is.
    """

    name: str
    stream: str | None
    selection: dict[str, Any]
    position: int
    version: int
    events: int
    fold: str
    fold_version: int | str
    state: bytes
    saved_us: int
    damage: str | None = None

    @property
    def saved_time(self) -> datetime:
        """When it was saved, in UTC."""
        return moment_of(self.saved_us)


_decode_content = msgspec.json.Decoder(Content).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_UNDECODABLE = (msgspec.MsgspecError, RecursionError)  # JSON can be nested too deeply


def maybe_load(engine: Engine, name: str, stream: str | None) -> tuple[bytes | None, Content | None]:
    """Return the bytes of a snapshot, and its content; None for what is not there or is damaged."""
    try:
        raw = engine.snapshot(name, stream).load()
        return raw, None if raw is None else _decode_content(raw)
    except CorruptionError:
        return None, None
    except _UNDECODABLE:
        return raw, None


def save(engine: Engine, name: str, stream: str | None, content: Content, before: bytes | None) -> bool:
    """Replace a snapshot, unless another process did; its events are durable before it is."""
    feed = engine.follow(EVERYTHING)
    try:
        feed.make_durable(content.position)  # a snapshot must not outlive the events that are in it
    finally:
        feed.close()
    content.saved_us = now_ns() // 1000
    return engine.snapshot(name, stream).save(msgspec.json.encode(content), before)


def position_of(engine: Engine, name: str, stream: str | None) -> int:
    """Return the position up to which a snapshot has everything; 0 if it is missing or damaged."""
    try:
        raw = engine.snapshot(name, stream).load()
        return 0 if raw is None else _decode_head(raw).position
    except (CorruptionError, *_UNDECODABLE):
        return 0


def list_all(engine: Engine) -> list[SnapshotInfo]:
    """Return all snapshots, by name and stream."""
    found = []
    for name, stream in engine.snapshot_names():
        try:
            found.append(describe(engine, name, stream))
        except SnapshotNotFound:
            continue  # deleted meanwhile
        except CorruptionError as error:
            found.append(SnapshotInfo(name, stream, {}, 0, 0, 0, "", 0, b"null", 0, str(error)))
    return found


def describe(engine: Engine, name: str, stream: str | None) -> SnapshotInfo:
    """Return one snapshot.

    Raises:
        SnapshotNotFound: there is none.
        CorruptionError: it is damaged.
    """
    raw = engine.snapshot(check_kept_name(name, "snapshot"), stream).load()
    if raw is None:
        raise SnapshotNotFound(name, stream)
    try:
        content = _decode_content(raw)
    except _UNDECODABLE as error:
        detail = f"the snapshot {name!r}: {error}; the next fold rebuilds it"
        raise CorruptionError(engine.address, None, detail) from None
    return SnapshotInfo(
        name,
        stream,
        content.selection,
        content.position,
        content.version,
        content.events,
        content.fold,
        content.fold_version,
        bytes(content.state),
        content.saved_us,
    )


def delete(engine: Engine, name: str, stream: str | None) -> None:
    """Delete a snapshot, damaged or not, durably.

    Raises:
        SnapshotNotFound: there is none.
    """
    if not engine.snapshot(check_kept_name(name, "snapshot"), stream).delete():
        raise SnapshotNotFound(name, stream)


def delete_outdated(engine: Engine) -> None:
    """Delete all snapshots from before the last redaction: they are not used, and may hold what it erased."""
    redactions = engine.versions([REDACTIONS_STREAM])[0]
    for name, stream in engine.snapshot_names():
        kept = engine.snapshot(name, stream)
        if is_outdated(kept, redactions):
            kept.delete()


def is_outdated(kept: SnapshotStore, redactions: int) -> bool:
    """Return whether a snapshot is damaged, or from before the last redaction.

    Args:
        redactions: the version of the stream of redactions.
    """
    try:
        raw = kept.load()
        return raw is not None and _decode_content(raw).redactions != redactions
    except (CorruptionError, *_UNDECODABLE):
        return True
