"""Files of events: JSON lines, CSV and SQLite. Each is an `Output` of export.py."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import os
import sqlite3
import zlib
from base64 import b64encode
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any, Final

import msgspec

from evlog.errors import ExtraNotInstalled, InvalidArgument
from evlog.files.disk.files import STEP_BYTES, WriteBack
from evlog.model.events import (
    BINARY_CODE,
    CONTENT_TYPES,
    OWN_BEGINS,
    REDACTED_BEGIN,
    Record,
    id_text,
    split_tags,
)
from evlog.model.json_lines import Quoted, encode_batch, encode_time
from evlog.transfer.cloudevents import encode_cloudevents

try:
    from zstandard import ZstdError
except ImportError:  # then no such file is opened
    _UNREADABLE: tuple[type[Exception], ...] = (gzip.BadGzipFile, EOFError, zlib.error)
else:
    _UNREADABLE = (gzip.BadGzipFile, EOFError, zlib.error, ZstdError)

_PIECE_BYTES: Final = 1 << 20
_CACHE_BYTES: Final = 2 << 20  # of SQLite, its default


class Lines:
    """JSON lines, plain or compressed, in evlog's own form or as CloudEvents, by the suffix of the file."""

    def __init__(self, path: str, old: str | None, store_id: str) -> None:
        self._name = path.rpartition(".")[0].rpartition(".")[0]  # without what makes it temporary
        self._store_id = store_id if self._name.endswith(".cloudevents.jsonl") else None
        self._quoted = Quoted()
        self._old = old
        self.position = 0
        self.last_id: str | None = None
        if old is not None:
            try:
                line = _last_line(old, self._name)
            except _UNREADABLE as error:
                raise _foreign(old, str(error) or "it is cut off") from None
            if line:
                self.position, self.last_id, _ = _parse_line(line, old)
            _copy(old, path)
        self._file = _open(path, self._name, "ab")

    def find_content(self, positions: Collection[int]) -> int | None:
        """Return one of these positions whose event the file that it continues does not have as redacted."""
        if self._old is not None:
            with _open(self._old, self._name, "rb") as file:
                for line in filter(bytes.strip, file):
                    position, _, is_redacted = _parse_line(line, self._old)
                    if position in positions and not is_redacted:
                        return position
        return None

    def write(self, events: Sequence[Record]) -> None:
        """Add events."""
        if self._store_id is None:
            self._file.write(encode_batch(events, self._quoted))
        else:
            self._file.write(b"".join(encode_cloudevents(events, self._store_id)))
        self.position = events[-1][0]

    def close(self) -> None:
        """Complete the content."""
        self._file.close()


def _copy(old: str, path: str) -> None:
    """Copy the file that an export continues."""
    with open(old, "rb") as source, open(path, "wb") as target:
        write_back = WriteBack(target.fileno())
        while piece := source.read(STEP_BYTES):
            target.write(piece)
            write_back.step(target.tell())


def _open(path: str, name: str, mode: str) -> IO[bytes]:
    """Open a file, compressed or not as its final name says; what is appended is a member of its own."""
    if name.endswith(".gz"):
        return gzip.open(path, mode)  # type: ignore[return-value]
    if name.endswith(".zst"):
        try:
            import zstandard
        except ImportError as error:
            raise ExtraNotInstalled("a file .zst", "zstandard", "zstd", error) from error
        file = open(path, mode)  # noqa: SIM115 - closed with what is wrapped around it
        if mode == "rb":
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=True)
            return io.BufferedReader(reader)
        return _ZstdFile(file, zstandard.ZstdCompressor().stream_writer(file))  # type: ignore[return-value]
    return open(path, mode)


class _ZstdFile:
    """A file to write to. zstandard's own writer leaves the file open when it cannot write its last bytes."""

    def __init__(self, file: IO[bytes], writer: IO[bytes]) -> None:
        self._file = file
        self._writer = writer
        self.write = writer.write

    def close(self) -> None:
        with self._file:
            self._writer.close()


def _last_line(path: str, name: str) -> bytes:
    """Return the last line that is not empty."""
    last = b""
    with _open(path, name, "rb") as file:
        if name.endswith(".jsonl"):
            _skip_to_last_lines(file)
        for line in file:
            last = line if line.strip() else last
    return last


def _skip_to_last_lines(file: IO[bytes]) -> None:
    """Seek in a plain file to a place near its end after which a whole line follows."""
    size = back = file.seek(0, io.SEEK_END)
    length = _PIECE_BYTES
    while back > 0:
        back = max(0, size - length)
        length *= 2  # a line can have 100 MB
        file.seek(back)
        if file.read(size - back).rstrip(b"\n").count(b"\n"):
            break
    file.seek(back)
    if back:
        file.readline()


class _Line(msgspec.Struct):
    """What a line says of itself: one of evlog's own, or a CloudEvent."""

    position: int | None = None
    sequence: str = ""
    id: str | None = None
    redacted: bool = False
    evlogredacted: bool = False


_decode_line: Final = msgspec.json.Decoder(_Line).decode


def _parse_line(line: bytes, path: str) -> tuple[int, str | None, bool]:
    """Return an event's position and id, and whether it is redacted."""
    try:
        fields = _decode_line(line)
        position = int(fields.sequence) if fields.position is None else fields.position
    except (msgspec.MsgspecError, ValueError):
        raise _foreign(path, "one of its lines is not an event") from None
    except RecursionError:
        raise _foreign(path, "one of its lines is nested too deeply") from None
    return position, fields.id, fields.redacted or fields.evlogredacted


def _foreign(path: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"cannot append to {path}: {reason}", "export to another file")


# --- rows

COLUMNS: Final = (
    "position", "stream", "version", "id", "type", "time", "content_type", "data", "metadata", "tags",
    "redacted",
)  # fmt: skip


def rows_of(events: Sequence[Record]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of COLUMNS of each event; `data` is a text, or bytes where it is binary."""
    for position, version, stream, type, id, time_us, code, data, metadata in events:
        tags, rest = b"[]", metadata or b"{}"
        if rest.startswith(OWN_BEGINS):
            tags, rest = split_tags(rest)
        yield (
            position, stream, version, id_text(id), type, encode_time(time_us).decode(), CONTENT_TYPES[code],
            data if code == BINARY_CODE else data.decode(), rest.decode(), tags.decode(),
            (metadata or b"").startswith(REDACTED_BEGIN),
        )  # fmt: skip


class Csv:
    """RFC 4180, with a header; binary data as base64, no tags as an empty cell."""

    def __init__(self, path: str, old: str | None, _store_id: str) -> None:
        self.position = 0
        self.last_id: str | None = None
        self._old = old
        if old is not None:
            for self.position, self.last_id, _ in _parse_csv(old):
                pass
            _copy(old, path)
        self._file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115 - `close` does it
        self._rows = csv.writer(self._file)
        if old is None or not os.path.getsize(path):
            self._rows.writerow(COLUMNS)

    def find_content(self, positions: Collection[int]) -> int | None:
        """Return one of these positions whose event the file that it continues does not have as redacted."""
        found = [] if self._old is None else _parse_csv(self._old)
        return next((at for at, _, is_redacted in found if at in positions and not is_redacted), None)

    def write(self, events: Sequence[Record]) -> None:
        """Add events."""
        self._rows.writerows(
            (
                *row[:7],
                b64encode(row[7]).decode() if isinstance(row[7], bytes) else row[7],
                row[8],
                "" if row[9] == "[]" else row[9],  # as `read -o csv` prints it
                "true" if row[-1] else "false",
            )
            for row in rows_of(events)
        )
        self.position = events[-1][0]

    def close(self) -> None:
        """Complete the content."""
        self._file.close()


def _parse_csv(path: str) -> Iterator[tuple[int, str, bool]]:
    """Yield each event's position and id, and whether it is redacted."""
    csv.field_size_limit(1 << 30)
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        try:
            header = next(rows, None)
            if header is not None and tuple(header) != COLUMNS:
                raise _foreign(path, "its columns are others")
            for row in filter(None, rows):
                yield int(row[0]), row[3], row[10] == "true"
        except (ValueError, LookupError, csv.Error) as error:
            raise _foreign(path, str(error)) from None


_SCHEMA: Final = """
create table if not exists events (
  position integer primary key, stream text not null, version integer not null, id text not null unique,
  type text not null, time text not null, content_type text not null, data not null, metadata text not null,
  tags text not null, redacted integer not null
);
create index if not exists events_by_stream on events (stream, version);
create index if not exists events_by_type on events (type, position);
create index if not exists events_by_time on events (time);
create view if not exists streams as
  select stream, count(*) as events, min(version) as first_version, max(version) as last_version,
    max(time) as last_time
  from events group by stream;
"""


class Sqlite:
    """A database of SQLite: table `events` with indexes, view `streams`; binary data as blobs."""

    def __init__(self, path: str, old: str | None, _store_id: str) -> None:
        if old is not None:
            _copy(old, path)
        self._path = path
        self._old = old
        open(path, "ab").close()  # for its error, which says why the file cannot be made; SQLite's does not
        self._database = sqlite3.connect(path, isolation_level=None)
        try:
            self._database.execute(f"pragma cache_size = -{_CACHE_BYTES >> 10}")
            # The whole file takes its place at the end, so a journal would protect nothing.
            self._database.execute("pragma journal_mode = off")
            self._database.execute("pragma synchronous = off")
            self._database.executescript(_SCHEMA)
            names = self._database.execute("select name from pragma_table_info('events')").fetchall()
            if tuple(name for (name,) in names) != COLUMNS:
                raise sqlite3.DatabaseError("the columns of its table events are others")
            query = "select position, id from events order by position desc limit 1"
            found = self._database.execute(query).fetchone()
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise self._error_of(error) if old is None else _foreign(old, str(error)) from None
        end: tuple[int, str | None] = found or (0, None)
        self.position, self.last_id = end
        self._database.execute("begin")

    def find_content(self, positions: Collection[int]) -> int | None:
        """Return one of these positions whose event the file that it continues does not have as redacted."""
        query = "select position from events where position = ? and not redacted"
        found = (self._database.execute(query, (position,)).fetchone() for position in positions)
        try:
            return next((row[0] for row in found if row), None)
        except sqlite3.DatabaseError as error:
            raise _foreign(self._old or self._path, str(error)) from None

    def write(self, events: Sequence[Record]) -> None:
        """Add events."""
        try:
            self._database.executemany("insert into events values (?,?,?,?,?,?,?,?,?,?,?)", rows_of(events))
        except sqlite3.OperationalError as error:
            raise self._error_of(error) from None
        except sqlite3.IntegrityError:
            raise InvalidArgument(
                "the file has an event with the same id: it is of another store", "export to another file"
            ) from None
        self.position = max(self.position, events[-1][0])

    def close(self) -> None:
        """Complete the content."""
        try:
            if self._database.in_transaction:
                self._database.execute("commit")
        except sqlite3.OperationalError as error:
            raise self._error_of(error) from None
        finally:
            self._database.close()

    def _error_of(self, error: sqlite3.Error) -> OSError:
        """Return the file system's error, found by another write: SQLite reports only a full disk."""
        if "full" in str(error):
            return OSError(errno.ENOSPC, str(error))
        try:
            with open(self._path, "ab") as file:  # SQLite writes at most its cache behind the end
                file.write(bytes(_CACHE_BYTES + _PIECE_BYTES))
        except OSError as reason:
            return reason
        return OSError(errno.EIO, str(error))
