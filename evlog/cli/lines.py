"""`evlog append --lines`: each line of stdin becomes an event, many of them to a durable frame.

A frame is written when it is full, and at once when stdin has nothing more to read: a slow `tail -f` is
durable line by line, a file goes in at full speed. Whatever ends the command early (a bad line, a full disk,
Ctrl-C), the lines before are written or known to be missing, and the user is told how many were appended.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import typer

from evlog.cli._support import console
from evlog.cli._support.foreign import foreign_decoder
from evlog.cli._support.stdin import read_lines
from evlog.errors import EXIT_FAILED, EventTooLarge, EvlogError, IdConflict, InvalidArgument
from evlog.model.events import MAX_EVENT_BYTES, EncodedEvent
from evlog.model.json_lines import MAX_LINE_BYTES, Decode, InvalidLine, encode_results, own_decoder

if TYPE_CHECKING:
    from evlog import EventStore
    from evlog.cli._support.progress import Progress

BATCH: Final = 1000
BATCH_BYTES: Final = 8 * 1024 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class BadLine(InvalidArgument):
    """A line of stdin that is no event; those before it were appended, unless it is all or nothing."""

    def __init__(self, line: int, reason: str, appended: int | None) -> None:
        if appended is None:
            after = "skipped"
        elif appended:
            after = f"{appended} events before it were appended: mend it and send the rest, or use --skip-bad"
        else:
            after = "nothing was appended: mend it, or use --skip-bad"
        super().__init__(f"line {line} {reason}; {after}")
        self.line = line
        self.reason = reason
        self.appended = appended


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says about the lines and how to append them."""

    stream: str | None = None
    type: str | None = None
    stream_field: str | None = None
    type_field: str | None = None
    id_field: str | None = None
    data_field: str | None = None
    metadata: bytes | None = None
    expected: int | str | None = None
    atomic: bool = False
    batch: int | None = None
    ack: bool = False
    skip_bad: bool = False

    def check(self) -> None:
        """Find what does not go together, and whatever else a decoder cannot be made of.

        Raises:
            InvalidArgument: the first of these.
        """
        if self.atomic and (self.batch is not None or self.skip_bad):
            other = "--skip-bad" if self.skip_bad else "--batch"
            raise InvalidArgument(f"--atomic is all or nothing, {other} is not; leave one of them out")
        if self.expected is not None and not (self.atomic and self.streams_constant):
            raise InvalidArgument(
                "--expect is about one append to one stream; add --atomic and STREAM, or leave it out"
            )
        if self.stream_field is not None and self.stream is not None and self.type is not None:
            raise InvalidArgument("STREAM and --stream-field both name the stream; give one of them")
        if self.type_field is not None and self.constant_type is not None:
            raise InvalidArgument("TYPE and --type-field both name the type; give one of them")
        if self.metadata is not None and not self.is_foreign:
            raise InvalidArgument(
                "lines of evlog's own shape bring their own metadata; give TYPE, or leave --meta out"
            )

    @property
    def is_foreign(self) -> bool:
        """Whether the lines are of another shape than evlog's own."""
        fields = (self.type, self.stream_field, self.type_field, self.id_field, self.data_field)
        return any(field is not None for field in fields)

    @property
    def streams_constant(self) -> bool:
        """Whether all events go to one stream, because it was an argument."""
        return self.stream is not None and self.stream_field is None

    @property
    def constant_type(self) -> str | None:
        """TYPE, which is the only argument when the stream comes from a field."""
        return self.type if self.stream_field is None else self.stream

    def decoder(self) -> Decode:
        """What turns a line into an event."""
        stream = self.stream if self.streams_constant else None
        if not self.is_foreign:
            return own_decoder(stream)
        return foreign_decoder(
            stream,
            self.constant_type,
            stream_field=self.stream_field,
            type_field=self.type_field,
            id_field=self.id_field,
            data_field=self.data_field,
            metadata=self.metadata,
        )


def append_lines(store: EventStore, decode: Decode, options: Options) -> None:
    """Append stdin's lines and print what came of it.

    Raises:
        BadLine: a line is no event; those before it are appended, unless `atomic`.
        EvlogError: an append failed; its `appended` attribute says how many events were appended before.
    """
    appender = _Appender(store, decode, options)
    progress = _progress()
    fd = os.open(os.devnull, os.O_RDONLY) if sys.stdin is None else sys.stdin.fileno()
    try:
        try:
            appender.run(read_lines(fd), progress)
        finally:
            if progress is not None:
                progress.close()
    except KeyboardInterrupt:
        console.note(f"interrupted; so far {console.encode_object(appender.summary()).decode().strip()}")
        raise
    except console.ClosedPipe:
        raise typer.Exit(EXIT_FAILED) from None  # quietly, but lines are left that nobody will acknowledge
    if not options.ack:
        console.write_object(appender.summary())


class _Appender:
    """Collects events into frames, and counts."""

    def __init__(self, store: EventStore, decode: Decode, options: Options) -> None:
        self._store = store
        self._decode = decode
        self._options = options
        self._streams: list[str] = []
        self._events: list[EncodedEvent] = []
        self._numbers: list[int] = []  # the line of each event
        self._pending_bytes = 0
        self.appended = self.duplicates = self.skipped = 0
        self.first_position: int | None = None
        self.last_position: int | None = None

    def summary(self) -> dict[str, object]:
        """What happened so far, as it is printed."""
        return {
            "appended": self.appended,
            "duplicates": self.duplicates,
            "skipped": self.skipped,
            "first_position": self.first_position,
            "last_position": self.last_position,
        }

    def run(self, chunks: Iterator[list[bytes] | None], progress: Progress | None) -> None:
        """Append all lines, in frames."""
        atomic = self._options.atomic
        batch = sys.maxsize if atomic else self._options.batch or BATCH
        batch_bytes = sys.maxsize if atomic else BATCH_BYTES
        number = 0  # of lines before those that are looked at
        for lines in chunks:
            begin = 0
            while lines and begin < len(lines):
                part = lines[begin : begin + batch - len(self._events)]
                self._collect(number, part)
                begin += len(part)
                number += len(part)
                if len(self._events) >= batch or self._pending_bytes >= batch_bytes:
                    self._flush()
            if lines is None and not atomic:
                self._flush()
            if progress is not None:
                progress.show(number, self.summary())
        self._flush()

    def _collect(self, number: int, lines: list[bytes]) -> None:
        """Turn lines into events: all at once, which is quickest, or one by one if one of them is bad."""
        self._pending_bytes += sum(map(len, lines))
        try:
            streams, events = zip(*map(self._decode, lines), strict=True)
        except InvalidArgument:
            for at, line in enumerate(lines, number + 1):
                self._collect_one(at, line)
        else:
            self._streams += streams
            self._events += events
            self._numbers += range(number + 1, number + len(lines) + 1)

    def _collect_one(self, number: int, line: bytes) -> None:
        try:
            found = self._decode(line)
        except InvalidArgument as error:
            mended = self._second_look(number, line, error)
            if mended is None:
                return
            found = mended
        self._streams.append(found[0])
        self._events.append(found[1])
        self._numbers.append(number)

    def _second_look(
        self, number: int, line: bytes, error: InvalidArgument
    ) -> tuple[str, EncodedEvent] | None:
        """An empty line is skipped, a byte order mark taken off; any other bad line is bad."""
        if not line.strip():
            return None
        if len(line) > MAX_LINE_BYTES:  # cut by read_lines, so not what the decoder takes it for
            error = EventTooLarge(len(line), MAX_EVENT_BYTES)
        if number == 1 and line.startswith(_BYTE_ORDER_MARK):
            try:
                return self._decode(line.removeprefix(_BYTE_ORDER_MARK))
            except InvalidArgument as second:
                error = second
        self._bad(number, error)
        return None

    def _bad(self, number: int, error: EvlogError) -> None:
        reason = str(error) if isinstance(error, InvalidLine) else f"holds no event: {error}"
        if self._options.skip_bad:
            self.skipped += 1
            console.report(BadLine(number, reason, None))
            return
        if not self._options.atomic:
            self._flush()
        raise BadLine(number, reason, self.appended) from None

    def _flush(self) -> None:
        """Write what was collected as one frame."""
        if not self._events:
            return
        try:
            self._append(self._streams, self._events)
        except IdConflict:
            if self._options.atomic:
                raise
            self._append_singly()
        except EvlogError as error:
            error.appended = self.appended  # type: ignore[attr-defined]  # for the one who has to go on from here
            raise
        self._streams.clear()
        self._events.clear()
        self._numbers.clear()
        self._pending_bytes = 0

    def _append_singly(self) -> None:
        """Append up to the event whose id is in conflict, and say in which line that is."""
        for stream, event, number in zip(self._streams, self._events, self._numbers, strict=True):
            try:
                self._append([stream], [event])
            except IdConflict as error:
                if not self._options.skip_bad:
                    error.line, error.appended = number, self.appended  # type: ignore[attr-defined]
                    raise
                self._bad(number, error)

    def _append(self, streams: list[str], events: list[EncodedEvent]) -> None:
        options = self._options
        expected = None if options.expected is None else {str(options.stream): options.expected}
        result = self._store.append_encoded(streams, events, expected=expected, skip_known=not options.atomic)
        self.appended += result.appended
        self.duplicates += result.duplicate_count
        if result.last_position is not None:
            self.last_position = result.last_position
            if self.first_position is None:
                self.first_position = result.first_position
        if options.ack:
            console.write(
                encode_results(
                    result.streams, result.versions, result.positions, result.ids, result.duplicates
                )
            )
            console.flush()


def _progress() -> Progress | None:
    """Something to look at, for a user who would see nothing else; not while that user types the lines."""
    if not console.stderr_is_terminal() or sys.stdin is None or sys.stdin.isatty():
        return None
    from evlog.cli._support.progress import Progress

    return Progress(sys.stdin.fileno())
