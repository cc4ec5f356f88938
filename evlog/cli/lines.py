"""`evlog append --lines`: each line of stdin becomes an event; many events are written as one durable frame.

A frame is written when it is full, or when stdin has nothing more to read for now. So a slow `tail -f` is
durable line by line, and a file is appended at full speed. If the command ends early (a bad line, a full
disk, Ctrl-C), it tells the user how many of the lines before were appended.
"""

from __future__ import annotations

import os

from evlog import errors
from evlog.cli._support import console, options
from evlog.cli._support.event import make_metadata
from evlog.cli._support.foreign import Templates, foreign_decoder, keyed_decoder, time_reader
from evlog.cli._support.stdin import BYTE_ORDER_MARK, read_lines, stdin_descriptor
from evlog.errors import EXIT_FAILED, EXIT_OK, EventTooLarge, EvlogError, InvalidArgument, SchemaViolation
from evlog.model.encoding import with_tags
from evlog.model.events import MAX_EVENT_BYTES, TEXT_CODE, check_stream_name, check_type, now_ns
from evlog.model.json_lines import MAX_LINE_BYTES, InvalidLine, check_size, own_decoder
from evlog.model.links import KEY
from evlog.model.paths import split_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Final

    from evlog.cli._support.parameters import Given
    from evlog.cli._support.progress import LinesProgress
    from evlog.model.appends import BatchResult
    from evlog.model.events import EncodedEvent
    from evlog.model.json_lines import Decode
    from evlog.model.types import Condition
    from evlog.store import EventStore
    from evlog.transfer.imports import Import

BATCH_BYTES: Final = 8 * 1024 * 1024
# One append is collected in memory before it is written.
MAX_ATOMIC_EVENTS: Final = 1_000_000
MAX_ATOMIC_BYTES: Final = 512 * 1024 * 1024


class BadLine(InvalidArgument):
    """A line of stdin that holds no event; those before it were appended, unless it is all or nothing."""

    def __init__(self, line: int, reason: str, appended: int | None, hint: str | None = None) -> None:
        if appended is None:
            advice = "skipped"
        elif appended:
            hint = hint or "correct the line and send the rest again, or use --skip-bad"
            advice = f"{_appended_before(appended)}: {hint}"
        else:
            advice = f"nothing was appended: {hint or 'correct the line, or use --skip-bad'}"
        super().__init__(f"line {line} {reason}", advice)
        self.line = line
        self.reason = reason
        self.appended = appended


class IdConflict(errors.IdConflict):
    """A line with an id that is known with other content; those before it were appended."""

    def __init__(self, error: errors.IdConflict, line: int, appended: int) -> None:
        super().__init__(error.id, error.stream, error.position, error.reason, error.key)
        advice = f"{_appended_before(appended)}: correct the line, or use --skip-bad"
        EvlogError.__init__(self, f"line {line}: {self.problem}", advice)
        self.line = line
        self.appended = appended


def _appended_before(count: int) -> str:
    return f"{console.count_of(count, 'event before it was', 'events before it were')} appended"


class Shape:
    """How lines become events: what `--lines` and its arguments and options say."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._templates = Templates()
        self._metadata = make_metadata(given, str if given.text else self._templates.mark)
        fields = (given.type, given.stream_field, given.type_field, given.data_field)
        self._is_foreign = any(field is not None for field in fields)
        # With a field for the stream, the only argument is the TYPE.
        by_field = given.stream_field is not None
        self.stream: str | None = None if by_field else given.stream
        self._type: str | None = given.stream if by_field else given.type

    def check(self, expected: int | str | None) -> None:
        """Raise InvalidArgument for options that exclude each other."""
        given = self._given
        fields = (given.stream_field, given.type_field, given.id_field, given.data_field, given.time_field)
        if given.text and (given.type is None or fields != (None,) * 5):
            raise InvalidArgument(
                "--text takes whole lines", "give STREAM and TYPE, and none of the --…-field options"
            )
        if given.atomic and (given.batch is not None or given.skip_bad):
            other = "--skip-bad" if given.skip_bad else "--batch"
            raise InvalidArgument(f"--atomic is all or nothing, {other} is not", "leave one of them out")
        if given.atomic and given.time_field is not None:
            raise InvalidArgument("an import with --time-field is no single append", "leave --atomic out")
        if not given.atomic and (given.if_version or given.if_none or given.after is not None):
            raise InvalidArgument("conditions are about one append", "add --atomic, or leave them out")
        if expected is not None and not (given.atomic and self.stream is not None):
            raise InvalidArgument(
                "--expect is about one append to one stream", "add --atomic and STREAM, or leave it out"
            )
        if given.format == "cloudevents" and (self._is_foreign or given.text or given.id_field is not None):
            raise InvalidArgument(
                "CloudEvents bring their own type, id and data", "leave TYPE and the field options out"
            )
        if given.stream_field is not None and given.stream is not None and given.type is not None:
            raise InvalidArgument("STREAM and --stream-field both name the stream", "give one of them")
        if given.type_field is not None and self._type is not None:
            raise InvalidArgument("TYPE and --type-field both name the type", "give one of them")
        options = (given.metadata, given.correlation_id, given.causation_id)
        if not self._is_foreign and (given.meta or given.tag or options != (None, None, None)):
            raise InvalidArgument(
                "lines of evlog's own shape bring their own metadata and tags",
                "give TYPE, or leave --meta and --tag out",
            )
        if given.data_is_text and given.data_field is None:
            raise InvalidArgument("--data-is-text needs a field that has the text", "add --data-field")
        if given.id_field is not None and KEY.encode() in (self._metadata or b""):
            raise InvalidArgument(f"--id-field sets {KEY} in the metadata", "leave it out there")

    def decoder(self) -> Callable[[bytes], tuple[Any, ...]]:
        """Return the function that turns a line into a stream, an event, and with --time-field its time."""
        decode, field = self._event_decoder(), self._given.time_field
        if field is None:
            return decode
        read_time = time_reader(field, lambda: now_ns() // 1000)
        return lambda line: (*decode(line), read_time(line))

    def _event_decoder(self) -> Decode:
        field = self._given.time_field
        ignored = set() if field is None else {split_path(field)[0]} - {"id"}
        if self._given.text:
            return _text_decoder(
                str(self.stream), str(self._type), with_tags(self._given.tag, self._metadata)
            )
        if self._given.format == "cloudevents":
            from evlog.transfer.cloudevents import cloudevents_decoder

            return cloudevents_decoder(self.stream)
        if not self._is_foreign and self._given.id_field is not None:
            return keyed_decoder(self.stream, self._metadata, self._given.id_field, ignored=ignored)
        if not self._is_foreign:
            return own_decoder(self.stream, self._metadata, ignored=ignored)
        given = self._given
        return foreign_decoder(
            self.stream,
            self._type,
            stream_field=given.stream_field,
            type_field=given.type_field,
            id_field=given.id_field,
            data_field=given.data_field,
            data_is_text=given.data_is_text,
            metadata=self._metadata,
            tags=given.tag,
            templates=self._templates,
        )


def _text_decoder(stream: str, type: str, metadata: bytes | None) -> Decode:
    """Return a decoder of lines each of which is an event's text, also an empty one."""
    check_stream_name(stream)
    check_type(type)

    def decode(line: bytes) -> tuple[str, EncodedEvent]:
        text = line.removesuffix(b"\r")
        check_size(len(text) + len(metadata or b""))
        try:
            text.decode()
        except UnicodeDecodeError:
            raise InvalidLine("is not UTF-8") from None
        return stream, (type, None, TEXT_CODE, text, metadata)

    return decode


def append_lines(given: Given, expected: int | str | None, conditions: Sequence[Condition]) -> int:
    """Append stdin's lines and print the result; return the exit code.

    Raises:
        BadLine: a line holds no event; those before it are appended, unless `atomic`.
        EvlogError: an append failed; its `appended` attribute says how many events were appended before.
    """
    shape = Shape(given)
    shape.check(expected)
    decode = shape.decoder()
    versions = None if expected is None else {str(shape.stream): expected}
    fd = stdin_descriptor()
    with options.open_or_create(given) as store:
        try:
            if given.time_field is not None:
                return _import_all(store, decode, given, fd)
            appender = _Appender(store, decode, given, versions, conditions)
            return _append_all(appender, fd, with_summary=not given.ack)
        finally:
            options.report_torn_tails(store)


def _import_all(store: EventStore, decode: Callable[[bytes], tuple[Any, ...]], given: Given, fd: int) -> int:
    from evlog.cli._support.stops import Stopped, Stops, end_by
    from evlog.transfer.imports import Import

    importer = None
    with Stops(watch_reader=False) as stops:  # SIGTERM must not leave a store that takes no other appends
        try:
            with Import(store) as load:
                importer = _Importer(load, store, decode, given)
                try:
                    return _append_all(importer, fd, with_summary=not given.ack)
                finally:
                    stops.ignore()
        except Stopped as stopped:
            if importer is not None:
                _note_summary("interrupted", importer)
            end_by(stopped)


def _append_all(appender: _Appender, fd: int, *, with_summary: bool) -> int:
    progress = _maybe_progress(fd)
    try:
        try:
            appender.run(read_lines(fd), progress)
        finally:
            console.clear_status()
        if with_summary:
            console.set_done(appender.done_text())
            _print_summary(appender.summary())
    except KeyboardInterrupt:
        _note_summary("interrupted", appender)
        raise
    except (BadLine, IdConflict):
        raise  # their own messages say how many events were appended
    except console.OutputFailed as error:
        raise console.OutputFailed(error.reason, appender.done_text()) from None
    except console.ClosedPipe:
        # Without --ack everything is appended. With it, no reader learns of the last events.
        return EXIT_OK if with_summary else EXIT_FAILED
    except EvlogError:
        if appender.appended and not console.errors_as_json():  # as JSON the error has the number
            _note_summary("failed", appender)
        raise
    return EXIT_OK


def _note_summary(how: str, appender: _Appender) -> None:
    console.note(f"{how}; so far {console.encode_object(appender.summary()).decode().strip()}")


class _Appender:
    """Collects events into frames, and counts."""

    def __init__(
        self,
        store: EventStore,
        decode: Callable[[bytes], tuple[Any, ...]],
        given: Given,
        versions: dict[str, int | str] | None = None,
        conditions: Sequence[Condition] = (),
    ) -> None:
        self._store = store
        self._decode = decode
        self._given = given
        self._versions = versions
        self._conditions = conditions
        self._most_events = store.capabilities.max_append_events or MAX_ATOMIC_EVENTS + 1
        # What the decoder gives, by columns, and the number of each line.
        self._columns: list[list[Any]] = [[] for _ in range(3 if given.time_field is None else 4)]
        self._pending_bytes = 0
        self.appended = self.duplicates = self.skipped = 0
        self.first_position: int | None = None
        self.last_position: int | None = None

    def summary(self) -> dict[str, object]:
        """Return what happened so far, as it is printed."""
        return {
            "appended": self.appended,
            "duplicates": self.duplicates,
            "skipped": self.skipped,
            "first_position": self.first_position,
            "last_position": self.last_position,
        }

    def done_text(self) -> str:
        """Return what is done, for a message that the output failed."""
        return f"{console.count_of(self.appended, 'event is', 'events are')} appended"

    def run(self, chunks: Iterator[list[bytes] | None], progress: LinesProgress | None) -> None:
        """Append all lines, in frames."""
        atomic = self._given.atomic
        batch = MAX_ATOMIC_EVENTS + 1 if atomic else self._given.batch or options.LINES_BATCH
        batch_bytes = MAX_ATOMIC_BYTES if atomic else BATCH_BYTES
        number = 0  # of lines before the present ones
        for lines in chunks:
            begin = 0
            while lines and begin < len(lines):
                part = lines[begin : begin + batch - len(self._columns[0])]
                self._collect(number, part)
                begin += len(part)
                number += len(part)
                if len(self._columns[0]) >= batch or self._pending_bytes >= batch_bytes:
                    if atomic:
                        raise InvalidArgument(
                            f"--atomic takes at most {MAX_ATOMIC_EVENTS:,} events "
                            f"and {MAX_ATOMIC_BYTES:,} bytes of lines, and nothing was appended",
                            "leave --atomic out, or send less",
                        )
                    self._flush()
            if lines is None and not atomic:
                self._flush()
            if progress is not None:
                progress.show(number, self.summary())
        self._flush()

    def _collect(self, number: int, lines: list[bytes]) -> None:
        """Turn lines into events: all at once, which is fastest, or one by one if one of them is bad."""
        self._pending_bytes += sum(map(len, lines))
        try:
            columns = list(zip(*map(self._decode, lines), strict=True))
        except InvalidArgument:
            for at, line in enumerate(lines, number + 1):
                self._collect_one(at, line)
        else:
            numbers = range(number + 1, number + len(lines) + 1)
            for column, cells in zip(self._columns, (*columns, numbers), strict=True):
                column += cells

    def _collect_one(self, number: int, line: bytes) -> None:
        try:
            found = self._decode(line)
        except InvalidArgument as error:
            second = self._decode_again(number, line, error)
            if second is None:
                return
            found = second
        for column, cell in zip(self._columns, (*found, number), strict=True):
            column.append(cell)

    def _decode_again(self, number: int, line: bytes, error: InvalidArgument) -> tuple[Any, ...] | None:
        """Skip an empty line, decode a first line without its byte order mark, report any other line."""
        if not line.strip():
            return None
        if len(line) > MAX_LINE_BYTES:  # cut by read_lines, so the decoder's reason is not the right one
            error = EventTooLarge(len(line), MAX_EVENT_BYTES)
        if number == 1 and line.startswith(BYTE_ORDER_MARK):
            try:
                return self._decode(line.removeprefix(BYTE_ORDER_MARK))
            except InvalidArgument as second:
                error = second
        self._bad(number, error, line)
        return None

    def _bad(self, number: int, error: EvlogError, line: bytes = b"") -> None:
        if isinstance(error, SchemaViolation):
            reason = f"is refused: {error.problem}"
        else:
            reason = str(error) if isinstance(error, InvalidLine) else f"holds no event: {error}"
        if self._given.skip_bad:
            self.skipped += 1
            console.report(BadLine(number, reason, None))
            return
        if not self._given.atomic:
            self._flush()
        hint = _hint(line, is_text=self._given.text) if isinstance(error, InvalidLine) else None
        if hint is None and self._given.atomic:
            hint = "correct the line"
        raise BadLine(number, reason, self.appended, hint) from None

    def _flush(self) -> None:
        """Write the collected events as one frame, or as few frames as the store's engine allows."""
        try:
            while self._columns[0]:
                count = len(self._columns[0]) if self._given.atomic else self._most_events
                try:
                    self._append(*(column[:count] for column in self._columns))
                except SchemaViolation as error:
                    self._leave_out(error)
                except (errors.TooManyEvents, errors.AppendTooLarge):
                    if self._given.atomic or min(count, len(self._columns[0])) == 1:
                        raise
                    self._most_events = min(count, len(self._columns[0])) // 2
                else:
                    for column in self._columns:
                        del column[:count]
        except errors.IdConflict:
            if self._given.atomic:
                raise
            self._append_singly()
        except BadLine:
            raise
        except EvlogError as error:
            error.appended = self.appended  # type: ignore[attr-defined]  # where a program has to continue
            raise
        for column in self._columns:
            column.clear()
        self._pending_bytes = 0

    def _leave_out(self, error: SchemaViolation) -> None:
        """Write the events before the one that does not fit its schema, and keep those after it."""
        number = self._columns[-1][error.index]
        later = [column[error.index + 1 :] for column in self._columns]
        for column in self._columns:
            del column[error.index :]
        if not self._given.atomic:
            self._flush()
        self._bad(number, error)
        for column, rest in zip(self._columns, later, strict=True):
            column[:] = rest

    def _append_singly(self) -> None:
        """Append up to the event whose id is in conflict, and say in which line that is."""
        for row in zip(*self._columns, strict=True):
            try:
                self._append(*([cell] for cell in row))
            except errors.IdConflict as error:
                if not self._given.skip_bad:
                    raise IdConflict(error, row[-1], self.appended) from None
                self._bad(row[-1], error)

    def _append(self, *columns: list[Any]) -> None:
        result = self._write(*columns[:-1])
        self.appended += result.appended
        self.duplicates += result.duplicate_count
        if result.last_position is not None:
            self.last_position = result.last_position
            if self.first_position is None:
                self.first_position = result.first_position
        if self._given.ack:
            options.print_results(result, columns[-1])

    def _write(self, *columns: list[Any]) -> BatchResult:
        streams, events = columns
        return self._store.append_encoded(
            streams,
            events,
            expected=self._versions,
            conditions=self._conditions,
            skip_known=not self._given.atomic,
        )


class _Importer(_Appender):
    """Appends events with the times that are in the lines."""

    def __init__(
        self,
        load: Import,
        store: EventStore,
        decode: Callable[[bytes], tuple[Any, ...]],
        given: Given,
    ) -> None:
        super().__init__(store, decode, given)
        self._load = load

    def run(self, chunks: Iterator[list[bytes] | None], progress: LinesProgress | None) -> None:
        """Append all lines, and say how many times could not be kept."""
        try:
            super().run(chunks, progress)
        finally:
            if self._load.delayed:
                count = console.count_of(self._load.delayed, "event was", "events were")
                console.note(f"{count} earlier than the event before, and got its time")

    def _write(self, *columns: list[Any]) -> BatchResult:
        return self._load.append_encoded(*columns)


# What makes text of files that begin in these ways: iconv would take any of them for a text in latin1.
_CONVERTERS: Final = {
    b"\x1f\x8b": "gzip -dc",
    b"\x28\xb5\x2f\xfd": "zstd -dc",
    b"\xfd7zXZ": "xz -dc",
    b"BZh": "bzip2 -dc",
    b"\xff\xfe": "iconv -f utf-16 -t utf-8",
    b"\xfe\xff": "iconv -f utf-16 -t utf-8",
}


def _hint(line: bytes, *, is_text: bool) -> str | None:
    """Return advice about a line that is not an event because all of the input has another shape."""
    try:
        line.decode()
    except UnicodeDecodeError:
        found = (command for begin, command in _CONVERTERS.items() if line.startswith(begin))
        return f"convert the input, for example with `{next(found, 'iconv -f latin1 -t utf-8')}`"
    if is_text:
        return None
    begin = line.strip()
    if begin.startswith(b"["):
        return "evlog takes one JSON object a line; `jq -c '.[]'` makes lines of an array"
    if begin.startswith(b"{") and not begin.endswith(b"}"):
        return "evlog takes one JSON object a line; `jq -c .` makes a line of each"
    if not begin.startswith(b"{"):
        return "for lines of plain text use --lines --text STREAM TYPE, for CSV see `evlog help import`"
    return None


def _print_summary(summary: dict[str, Any]) -> None:
    if not console.stdout_is_terminal():
        console.write_now(console.encode_object(summary))
        return
    first, last = summary["first_position"], summary["last_position"]
    text = f"{console.count_of(summary['appended'], 'event')} appended"
    if last is not None:
        text += f", position {first}" if first == last else f", positions {first} to {last}"
    text += "".join(
        f", {text}"
        for name, text in (
            ("duplicates", f"{summary['duplicates']:,} known already"),
            ("skipped", f"{console.count_of(summary['skipped'], 'line')} skipped"),
        )
        if summary[name]
    )
    console.write_now(f"{text}\n".encode())


def _maybe_progress(fd: int) -> LinesProgress | None:
    """Return a progress line for a terminal, unless the user types the lines on it."""
    if not console.can_show_status() or os.isatty(fd):
        return None
    from evlog.cli._support.progress import LinesProgress

    return LinesProgress(fd)
