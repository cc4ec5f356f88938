"""The targets of a mirror: an identical copy of the source, or a store that the source is merged into.

A target finds in the destination alone up to which position of the source everything was copied. It appends
the next piece together with its new position, in one step.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from evlog.errors import AppendTooLarge, MirrorConflict, MirrorLimit, TooManyEvents, Unsupported
from evlog.model.appends import AppendRequest
from evlog.model.events import JSON_CODE
from evlog.model.filters import LogSelection, StreamSelection
from evlog.model.history import Standing, check_standing, fork_id, refusal
from evlog.model.json_text import decode_json, encode_json
from evlog.model.named import NamedTuple
from evlog.model.redaction import maybe_decode_redaction
from evlog.model.retention import FINISHED_TYPE, MIRRORED_TYPE, REDACTIONS_STREAM
from evlog.state.snapshots import delete_outdated
from evlog.transfer.compare import compare, compare_merged, event_at, is_merged, knows
from evlog.transfer.pieces import read_pieces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from evlog.engine import Capabilities, Engine, Progress
    from evlog.model.events import Event
    from evlog.model.history import HistoryPiece
    from evlog.transfer.compare import Comparison

OPEN: Final = Standing()
_MERGED_STREAM: Final = "$$$mirror-"  # then the source's id: like a policy's, it keeps only its last event


class Copied(NamedTuple):
    """How a piece was copied, in numbers of events; `lost` counts positions."""

    events: int = 0
    duplicates: int = 0
    removed: int = 0
    lost: int = 0


class Target:
    """What all targets have in common. One append takes as many events as the destination allows."""

    def __init__(self, source: Engine, destination: Engine) -> None:
        self.source = source
        self.destination = destination
        self.source_id = source.store_id  # as the destination knows it
        self.most_events = self._most_events(destination.capabilities)

    def _most_events(self, capabilities: Capabilities) -> int | None:
        """Return how many events one append can have; None: any number."""
        return capabilities.max_mirrored_events

    @property
    def standing(self) -> Standing:
        """The standing that the destination has while it is written to."""
        return OPEN

    def begin(self, *, claim: bool) -> int:
        """Return up to which position everything is copied.

        Args:
            claim: write into an empty destination whose mirror it is.

        Raises:
            MirrorConflict, StoreIsMirror, StoreMoved: it cannot be continued.
        """
        raise NotImplementedError

    def delete_snapshots(self) -> None:
        """Delete the destination's snapshots that may hold what a copied redaction has erased."""
        try:
            delete_outdated(self.destination)
        except Unsupported:
            pass  # a topic of many partitions has no snapshots

    def begin_range(self, after: int, to: int) -> None:
        """Note that the source is read from after a position up to another from now on.

        Raises:
            Unsupported: what was redacted between them cannot be erased in the destination.
        """

    def append(self, piece: HistoryPiece) -> Copied:
        """Append a piece: all of it, or nothing; durable when this returns."""
        raise NotImplementedError

    def remove(self, to: int, *, is_following: bool) -> int:  # noqa: ARG002 - a merge removes nothing
        """Remove what the source's compactions have removed up to a position since it was copied.

        Args:
            is_following: this is called again soon; while the source is being compacted, it can wait.

        Returns:
            how many events it has removed.
        """
        return 0

    def compare(self, progress: Progress | None) -> Comparison:
        """Compare both stores, up to where the destination has come."""
        raise NotImplementedError

    def check_limits(self, after: int, to: int) -> None:
        """Raise MirrorLimit if an append of the source between two positions is over the limits."""
        if self._has_limits():
            for piece in read_pieces(self.source, after, to):
                self.check_piece(piece)

    def check_piece(self, piece: HistoryPiece) -> None:
        """Raise MirrorLimit if an append in the piece is over the limits."""
        if not self._has_limits():
            return
        most_bytes = self.destination.capabilities.max_event_bytes
        for event in piece.events:
            size = len(event.data) + len(event[8] or b"")
            if size > most_bytes:
                raise MirrorLimit(event.position, f"an event of {size} bytes", f"{most_bytes} bytes")
        self._check_frames(piece)

    def _check_frames(self, piece: HistoryPiece) -> None:
        """Raise MirrorLimit if an append in the piece has too many events."""
        most = self.most_events
        for frame, count in Counter(piece.frames).items():
            if most is not None and count > most:
                raise MirrorLimit(frame, f"an append of {count} events", f"{most} events")

    def _has_limits(self) -> bool:
        ours, theirs = self.source.capabilities, self.destination.capabilities
        return self.most_events is not None or theirs.max_event_bytes < ours.max_event_bytes

    def refuse_redaction(self, position: int) -> NoReturn:
        """Raise Unsupported: the redaction at a position of the source erases what was copied before."""
        raise Unsupported(
            self.destination.capabilities.engine,
            f"the redaction at position {position} of the source, whose content was copied before",
            f"copy into a new store, and remove {self.destination.address}",
        )

    def conflict(self, reason: str, advice: str) -> NoReturn:
        """Raise MirrorConflict."""
        raise MirrorConflict(self.source.address, self.destination.address, reason, advice)


class IdenticalTarget(Target):
    """An identical copy: its own end says up to where the source was copied.

    1. What a compaction of the source has removed is removed here before the event that records its end is
       copied. So the next run repeats a removal that was killed.
    2. A compaction that was killed has recorded no end. If the numbers of events that the two stores have
       removed differ, the destination still has some that the source has removed.
    """

    _copied_before = 0  # by the present range of positions; 0: nothing of it can have been removed
    _seen_removals = 0  # how many events the source had removed when this was looked at last
    _done_removals = 0  # the same when the two were compared last
    _elsewhere = "use an empty destination, or merge into it"

    @property
    def standing(self) -> Standing:
        """That of a mirror of the source."""
        return Standing(mirror_of=self.source_id)

    def begin_range(self, after: int, to: int) -> None:
        """Note up to where was copied before the source is read again.

        The events of the range itself are read without the content that its redactions erase.
        """
        self._copied_before = after
        if self.destination.capabilities.redaction or not after:
            return
        for event in self.source.read_stream(StreamSelection(REDACTIONS_STREAM, reverse=True)):
            if event.position <= after:
                break
            made = maybe_decode_redaction(event) if event.position <= to else None
            copied = [] if made is None else [position for position in made.positions if position <= after]
            if any(map(self._has_content, copied)):
                self.refuse_redaction(event.position)

    def _has_content(self, position: int) -> bool:
        """Return whether the destination has an event that is not redacted, as far as can be known."""
        try:
            copied = event_at(self.destination, position)
        except Unsupported:  # a topic of many partitions
            return True
        return copied is not None and not copied.redacted

    def begin(self, *, claim: bool) -> int:
        """Return the end of the mirror, whose last event must be the source's."""
        source, destination = self.source, self.destination
        standing, own = destination.standing, self.standing
        if standing.moved_to:
            raise refusal(destination.address, standing)
        position = self._copied_to()
        if standing == OPEN and not position:
            if not claim:
                return 0
            if destination.change_standing(OPEN, own, head=0):
                standing = own
        if standing == OPEN:
            self.conflict("it holds other events", self._elsewhere)
        if standing != own:
            reason = f"it is a mirror of store {standing.mirror_of}"
            if standing.is_import:
                reason = "events are imported to it with their times, or such an import was killed"
            if standing.is_unfinished_fork:
                is_ours = standing.mirror_of == fork_id(source.store_id)
                reason = f"it is an unfinished fork of {'the source' if is_ours else 'another store'}"
            self.conflict(reason, "use an empty destination")
        last = next(destination.read_all(LogSelection.last(position)), None)
        if position > source.head() or (last is not None and not knows(source, last.position, last.id_bytes)):
            self.conflict(
                f"its last event (position {position}) is not the source's",
                "use an empty destination; one of the two was restored from an older copy",
            )
        if claim and destination.versions([REDACTIONS_STREAM])[0]:
            destination.remove_history(self.source_id, [])  # a run that was killed may have left it to do
            self.delete_snapshots()
        return position

    def _copied_to(self) -> int:
        """Return the position of the last event that came from the source."""
        return self.destination.head()

    def append(self, piece: HistoryPiece) -> Copied:
        """Append a piece as it is at the source."""
        removed, is_compacted = len(piece.removed), False
        if self._copied_before and any(event[3] == FINISHED_TYPE for event in piece.events):
            removed += self._remove(self._copied_before)
            self._copied_before = 0
            is_compacted = True
        piece.source_id = self.source_id
        self.destination.append_history(piece)
        if any(event[2] == REDACTIONS_STREAM for event in piece.events):
            self.delete_snapshots()
        if is_compacted:  # the compaction has erased what was redacted, also by a redaction of this piece
            self.destination.remove_history(self.source_id, [])
        return Copied(len(piece.events), 0, removed, piece.lost)

    def remove(self, to: int, *, is_following: bool) -> int:
        """Remove what a killed compaction of the source has removed."""
        removals = self.source.removals()
        is_running = is_following and removals != self._seen_removals
        self._seen_removals = removals
        if is_running or removals == self._done_removals:
            return 0
        try:
            is_done = removals == self.destination.removals()
        except Unsupported:  # a topic of many partitions keeps what it was given
            is_done = True
        removed = 0 if is_done else self._remove(to)
        self._done_removals = removals
        return removed

    def _remove(self, to: int) -> int:
        """Remove what the source has removed up to a position since it was copied; return how many events."""
        known = {each.position for each in self.destination.read_removed(0, to)}
        found = [each for each in self.source.read_removed(0, to) if each.position not in known]
        if found:
            self.destination.remove_history(self.source_id, found)
        return len(found)

    def compare(self, progress: Progress | None) -> Comparison:
        """Compare both stores by position."""
        return compare(self.source, self.destination, progress)


class ForkTarget(IdenticalTarget):
    """An identical copy that will go its own way: no mirror continues it, and it continues no mirror."""

    _elsewhere = "fork into a new directory"

    def __init__(self, source: Engine, destination: Engine) -> None:
        super().__init__(source, destination)
        self.source_id = fork_id(source.store_id)

    def begin(self, *, claim: bool) -> int:
        """Return the end of what an earlier run has copied."""
        refuse_mirrors_only(self.destination)
        return super().begin(claim=claim)

    def _copied_to(self) -> int:
        """Leave out the redactions of its own, which a run that was killed at its end has made."""
        position = self.destination.head()
        for event in self.destination.read_all(LogSelection(reverse=True)):
            if event.stream != REDACTIONS_STREAM or knows(self.source, event.position, event.id_bytes):
                break
            position = event.position - 1
        return position


class MergeTarget(Target):
    """A store with events of its own. Each append also writes up to where the source was merged."""

    def _most_events(self, capabilities: Capabilities) -> int | None:
        """Return one less than an append takes: the position of the merge is an event, too."""
        most = capabilities.max_append_events
        return None if most is None else most - 1

    def __init__(self, source: Engine, destination: Engine) -> None:
        super().__init__(source, destination)
        self._stream = _MERGED_STREAM + source.store_id

    def _check_frames(self, piece: HistoryPiece) -> None:
        """Accept every append: what is too large for one append is cut."""

    def begin(self, *, claim: bool) -> int:  # noqa: ARG002 - the first append writes it
        """Return up to where the destination says that the source was merged."""
        check_standing(self.destination.address, self.destination.standing)
        merges = self.destination.read_stream(StreamSelection(self._stream, limit=1, reverse=True))
        last = next(merges, None)
        if last is None:
            return 0
        merged = decode_json(last.data.decode())
        position: int = merged["position"]
        if position > self.source.head() or not knows(
            self.source, merged["last"], bytes.fromhex(merged["id"])
        ):
            self.conflict(
                f"the event at position {merged['last']}, which was merged, is not the source's any more",
                "use another destination; the source was restored from an older copy",
            )
        return position

    def append(self, piece: HistoryPiece) -> Copied:
        """Append a piece's events at the end; those whose ids are known are skipped."""
        rows = [row for row in zip(piece.frames, piece.events, strict=True) if is_merged(row[1])]
        self._redact(piece)  # first, because the append says that all of the piece is done
        return self._append(rows, piece.end) if rows else Copied()

    def _append(self, rows: Sequence[tuple[int, Event]], end: int) -> Copied:
        """Append events, each after the number of its append, and that the source is merged up to `end`.

        What is over a limit of the destination is appended in two parts: some limits are known only to it.
        """
        try:
            if self.most_events is not None and len(rows) > self.most_events:
                raise TooManyEvents(len(rows), f"{self.most_events} events")
            return self._append_at_once([event for _, event in rows], end)
        except (TooManyEvents, AppendTooLarge) as error:
            if len(rows) == 1:
                limit = error.limit if isinstance(error, TooManyEvents) else f"{error.limit_bytes} bytes"
                raise MirrorLimit(rows[0][1].position, "an event with its tags", limit) from error
        # Between two appends of the source, where there are two. A compacted directory has joined them.
        ends = [at for at in range(1, len(rows)) if rows[at][0] != rows[at - 1][0]]
        cut = min(ends or [len(rows) // 2], key=lambda at: abs(2 * at - len(rows)))
        parts = self._append(rows[:cut], rows[cut - 1][1].position), self._append(rows[cut:], end)
        return Copied(*map(sum, zip(*parts, strict=True)))

    def _append_at_once(self, events: Sequence[Event], end: int) -> Copied:
        last = events[-1]
        merged = {"position": end, "last": last.position, "id": last.id_bytes.hex()}
        done = self.destination.append(
            AppendRequest(
                [*(event.stream for event in events), self._stream],
                [
                    *((event.type, event.id_bytes, event[6], event.data, event[8]) for event in events),
                    (MIRRORED_TYPE, None, JSON_CODE, encode_json(merged).encode(), None),
                ],
                skip_known=True,
                system=True,
            )
        )
        return Copied(done.appended - 1, done.duplicate_count)

    def _redact(self, piece: HistoryPiece) -> None:
        """Redact here what was merged before, and what the redactions in a piece name."""
        source = [event for event in piece.events if event.stream == REDACTIONS_STREAM]
        if not source:
            return
        read = self.destination.read_stream(StreamSelection(REDACTIONS_STREAM))
        known = [made for made in map(maybe_decode_redaction, read) if made is not None]
        named = {position for made in known for position in made.positions}
        for made in filter(None, map(maybe_decode_redaction, source)):
            places = self.destination.find_ids([id for _, id, _ in made.events])
            found = (event_at(self.destination, place) for place in places.values() if place not in named)
            if events := [event for event in found if event is not None]:
                if not self.destination.capabilities.redaction:
                    self.refuse_redaction(made.position)
                self.destination.redact(events, made.reason)
        self.delete_snapshots()

    def compare(self, progress: Progress | None) -> Comparison:
        """Compare both stores by the ids of what was merged."""
        return compare_merged(self.source, self.destination, self.begin(claim=False), progress)


def refuse_mirrors_only(engine: Engine) -> None:
    """Raise Unsupported if a store takes a mirror and nothing else, as a topic of many partitions does."""
    engine.find_ids([])
