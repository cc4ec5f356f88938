"""Export: events into one file, whose suffix names its format. Read this before the formats.

1. The file is written under a temporary name and renamed in one step. A run that is killed leaves the former
   file unchanged, and at most one file whose name ends in `.tmp`. The next export to the file removes that:
   its lock is free, because its process is dead.
2. An export that appends copies the former file's content and adds the events after its last position. It
   refuses a file that still has the content of a redacted event: what the file says decides, not when it was
   written, so nothing is kept between two exports.
3. Events come in position order, or in version order of one stream, in batches.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from itertools import islice, takewhile
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Protocol

from evlog.errors import EvlogError, InvalidArgument, StoreAccessDenied, StoreFull, SystemCallFailed
from evlog.files.disk.files import WriteBack, take_over
from evlog.files.disk.opening import NO_ROOM
from evlog.files.write.create import maybe_store_around
from evlog.model.events import BatchedEvents, Event
from evlog.model.named import NamedTuple

if TYPE_CHECKING:
    from evlog.engine import Progress
    from evlog.model.events import Record

_PIECE_EVENTS: Final = 64
_BATCH_BYTES: Final = 8 << 20  # of data; a step that is written back at once
_DATA: Final = itemgetter(7)
_BATCH_EVENTS: Final = 2048  # with more, the processor's caches no longer hold them


class ExportResult(NamedTuple):
    """What an export wrote."""

    path: str
    events: int
    """written by this run"""
    position: int
    """the last one in the file; 0 if it has no events"""


class Output(Protocol):
    """A file that is being written, in one format."""

    @property
    def position(self) -> int:
        """The last position in it."""

    @property
    def last_id(self) -> str | None:
        """The id of the last event of the file that it continues; None if there is none, or it has no ids."""

    def find_content(self, positions: Collection[int]) -> int | None:
        """Return one of these positions whose event the file that it continues does not have as redacted.

        None: there is none. It is called before anything is added.
        """

    def write(self, events: Sequence[Record]) -> None:
        """Add events, which follow each other by position or in one stream."""

    def close(self) -> None:
        """Complete the content."""


# The class of each format. A module is imported when its format is wanted.
_FORMATS: Final = {
    ".jsonl": ("evlog.transfer.formats", "Lines"),
    ".jsonl.gz": ("evlog.transfer.formats", "Lines"),
    ".jsonl.zst": ("evlog.transfer.formats", "Lines"),
    ".csv": ("evlog.transfer.formats", "Csv"),
    ".sqlite": ("evlog.transfer.formats", "Sqlite"),
    ".parquet": ("evlog.transfer.parquet", "Parquet"),
}
SUFFIXES: Final = (*_FORMATS, ".cloudevents.jsonl")


def check_suffix(path: str, *, with_fields: bool = False) -> None:
    """Raise InvalidArgument if the file's name does not name a format, or not one with fields of choice."""
    _suffix_of(path)
    if with_fields and not path.endswith(".parquet"):
        raise InvalidArgument(
            "fields are for a file .parquet", "for CSV use `evlog read -o csv --fields`, which prints it"
        )


def _suffix_of(path: str) -> str:
    for suffix in sorted(_FORMATS, key=len, reverse=True):
        if path.endswith(suffix) and os.path.basename(path) != suffix:
            return suffix
    raise InvalidArgument(f"{path!r} names no format", f"give a name that ends in {', '.join(SUFFIXES)}")


def _format_of(path: str) -> Callable[[str, str | None, str], Output]:
    module, name = _FORMATS[_suffix_of(path)]
    found: Callable[[str, str | None, str], Output] = getattr(import_module(module), name)
    return found


def export(
    path: str | os.PathLike[str],
    read: Callable[[int], Iterable[Event]],
    *,
    store_id: str = "",
    append: bool = False,
    redacted: Collection[int] = (),
    fields: Sequence[str] | None = None,
    head: int | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Write events to a file, in the format of its suffix; durable when this returns.

    Args:
        path: the suffix is one of SUFFIXES. A file that is there is replaced in one step at the end.
        read: is called with the last position in the file, and returns the events after it.
        store_id: for a format that names the source of its events.
        append: keep what the file holds.
        redacted: the positions of all events of the store that were redacted before; what the file holds of
            them is looked at. Without any the file is not read for this.
        fields: the columns of a Parquet file; left out, one for each field of an event. A column can also be
            a value in the event, such as `data.amount`. Its type is that of all its values, so the events are
            read twice.
        head: the last position of the store; a file that ends after it is not continued.
        progress: called with how many positions are done, and how many there are.

    Raises:
        InvalidArgument: the suffix names no format, the file to append to is in another one, from another
            store or has the content of a redacted event, the path is that of a folder or device or in a
            store, or a name in `fields` is not a field.
        ExtraNotInstalled: the format needs a library that is not installed.
        StoreFull, StoreAccessDenied, SystemCallFailed: the file system refuses; the file that was there is
            unchanged.
        Whatever `read` raises.
    """
    path = os.fsdecode(path)
    make = _format_of(path)
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise InvalidArgument(f"{path!r} is not a file", "give the name of a file")
    if store := maybe_store_around(f"{path}.tmp"):
        raise InvalidArgument(f"{path!r} is in the store {store}", "give a path outside of it")
    old = path if append and os.path.lexists(path) else None
    if fields is not None:
        make, read = _with_fields(path, old, fields, read)
    try:
        with _temporary(path) as (temporary, fd):
            output = make(temporary, old, store_id)
            try:
                count = _write_events(output, fd, path, read, redacted, head, progress)
            except BaseException:
                with suppress(Exception):  # the first error says what is wrong
                    output.close()
                raise
            output.close()
            _put_in_place(temporary, fd, path)
    except OSError as error:
        raise _refusal(path, error) from error
    return ExportResult(path, count, output.position)


def _write_events(
    output: Output,
    fd: int,
    path: str,
    read: Callable[[int], Iterable[Event]],
    redacted: Collection[int],
    head: int | None,
    progress: Progress | None,
) -> int:
    """Write the events after those that the output has already to its file, `fd`; return how many."""
    begin, write_back = output.position, WriteBack(fd)
    if begin:
        _check_same_log(path, begin, output.last_id, head, read)
        _check_redacted(path, output, {position for position in redacted if position <= begin})
    count = 0
    for batch in in_batches(read(begin), _BATCH_EVENTS):
        output.write(batch)
        write_back.step(os.fstat(fd).st_size)
        count += len(batch)
        if progress is not None:
            progress(max(0, batch[-1][0] - begin), max(1, (head or 0) - begin))
    return count


@contextmanager
def _temporary(path: str) -> Iterator[tuple[str, int]]:
    """Create a file beside the path, locked; at the end remove it, unless it has taken the path's name.

    Where there is a file at the path, no other user can read the new one before it has that file's mode.

    Yields:
        Its path, and a descriptor of it.
    """
    _remove_leftovers(path)
    while True:
        name = f"{path}.{os.urandom(4).hex()}.tmp"
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if os.path.exists(path) else 0o666)
        try:
            with suppress(OSError):  # a file system without locks: then nothing is removed either
                fcntl.flock(fd, fcntl.LOCK_EX)
            if os.path.lexists(name):  # else another export removed it before it was locked
                yield name, fd
                return
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
            os.close(fd)


def _remove_leftovers(path: str) -> None:
    """Remove what killed exports to the path have left. What a live one writes is locked."""
    folder, base = os.path.split(path)
    is_leftover = re.compile(re.escape(base) + r"\.[0-9a-f]{8}\.tmp").fullmatch
    with suppress(OSError):  # the export itself says what is wrong
        for name in filter(is_leftover, os.listdir(folder or ".")):
            with suppress(OSError):
                _remove_unlocked(os.path.join(folder, name))


def _remove_unlocked(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(fd)


def _check_same_log(
    path: str, position: int, id: str | None, head: int | None, read: Callable[[int], Iterable[Event]]
) -> None:
    """Raise InvalidArgument if the last event of a file is not the store's at that position."""
    fault = None
    if head is not None and position > head:
        fault = f"it ends at position {position}, the store at {head}"
    elif id is not None:
        event = next(iter(read(position - 1)), None)
        if event is not None and event.position == position and str(event.id) != id:
            fault = f"its event at position {position} is not the store's"
    if fault is not None:
        raise InvalidArgument(
            f"cannot append to {path}: {fault}; it is of another store, or the store was restored",
            "export to another file",
        )


def _check_redacted(path: str, output: Output, positions: Collection[int]) -> None:
    """Raise InvalidArgument if a file has the content of an event at one of these positions."""
    position = output.find_content(positions) if positions else None
    if position is not None:
        raise InvalidArgument(
            f"cannot append to {path}: it has the content of event {position}, which is redacted",
            "export again without --append, which replaces the file",
        )


def _refusal(path: str, error: OSError) -> EvlogError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in NO_ROOM:
        return StoreFull(path, reason)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return StoreAccessDenied(path, reason, creating=error.filename != path)
    return SystemCallFailed(path, reason, "check the folder; a file that was there is unchanged")


def _with_fields(
    path: str, old: str | None, fields: Sequence[str], read: Callable[[int], Iterable[Event]]
) -> tuple[Callable[[str, str | None, str], Output], Callable[[int], Iterable[Event]]]:
    """Return what makes a Parquet file with these columns, and what reads the events that decided on them."""
    check_suffix(path, with_fields=True)
    from evlog.transfer.parquet import Parquet, choose_columns

    columns, last = choose_columns(fields, old, lambda position: in_batches(read(position), _BATCH_EVENTS))

    def read_again(position: int) -> Iterator[Event]:
        return takewhile(lambda event: event.position <= last, read(position))

    return partial(Parquet, columns=columns), read_again


def in_batches(events: Iterable[Event], most: int) -> Iterator[Sequence[Record]]:
    """Yield the events' records, about `most` at a time, and fewer where they are large."""
    batch: list[Record] = []
    size_bytes = 0
    for piece in events.batches if isinstance(events, BatchedEvents) else _pieces(events):
        if not batch and len(piece) >= most // 2:  # a large frame: not copied
            yield piece
            continue
        batch += piece
        size_bytes += sum(map(len, map(_DATA, piece)))
        if len(batch) >= most or size_bytes >= _BATCH_BYTES:
            yield batch
            batch = []
            size_bytes = 0
    if batch:
        yield batch


def _pieces(events: Iterable[Event]) -> Iterator[Sequence[Record]]:
    iterator = iter(events)
    while piece := list(islice(iterator, _PIECE_EVENTS)):
        yield piece


def _put_in_place(temporary: str, fd: int, path: str) -> None:
    """Rename the file, durably; it takes owner, group and mode from the one that it replaces."""
    with suppress(FileNotFoundError):
        old = os.stat(path)
        take_over(fd, os.fstat(fd), old, stat.S_IMODE(old.st_mode))
    os.fsync(fd)
    os.replace(temporary, path)
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
