"""`evlog streams`: every stream with its counts, by name."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import CATEGORY, STORE, flag, option
from evlog.model.json_lines import encode_time, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

    import evlog
    from evlog.cli._support.parameters import Given

HELP: Final = """List the streams by name: events, first and last version, last time.

All streams, or those of a category (the part of a name before its first -), or those whose name begins with
a text. In a pipe each is a line of JSON, on a terminal a line of a table. Events that `evlog retain` hides
are not counted; "retention" is what is set for the stream or its category.

\b
  evlog streams
  evlog streams --category order
  evlog streams --deleted
  evlog streams --prefix order-2026 | wc -l
"""

PARAMETERS: Final = (
    CATEGORY,
    option("--prefix", "TEXT", "Streams whose name begins with it."),
    flag("--deleted", "Deleted streams, too."),
    STORE,
)
_LINES: Final = 1000


def command(given: Given) -> None:
    """Print the streams."""
    with options.open_store(given) as store:
        streams = store.streams(given.category, given.prefix, include_deleted=given.deleted)
        if console.stdout_is_terminal():
            chunks = _as_table(streams, with_kept=bool(store.policies()))
        else:
            chunks = _as_json(streams)
        for chunk in chunks:
            console.write(chunk)


def _as_json(streams: Iterable[evlog.StreamInfo]) -> Iterator[bytes]:
    from itertools import islice

    rest = iter(streams)
    while part := list(islice(rest, _LINES)):
        yield b"".join(
            b'{"stream":%b,"events":%d,"first_version":%d,"last_version":%d,"last_time":"%b"%b}\n'
            % (
                quote(name),
                events,
                first_version,
                last_version,
                encode_time(last_time_us),
                b"" if retention is None else _retention(retention),
            )
            for name, events, first_version, last_version, last_time_us, retention in part
        )


def _retention(retention: evlog.Retention) -> bytes:
    from evlog.cli.retain import as_object

    return b',"retention":' + console.encode_object(as_object(retention)).rstrip()


def _as_table(streams: Iterable[evlog.StreamInfo], *, with_kept: bool) -> Iterator[bytes]:
    from evlog.cli._support.output import draw_table, readable_time

    rows = (
        [
            stream.name,
            str(stream.events),
            str(stream.first_version),
            str(stream.last_version),
            readable_time(encode_time(stream.last_time_us).decode()),
            *([_kept(stream.retention)] if with_kept else []),
        ]
        for stream in streams
    )
    names = ["stream", "events", "first_version", "last_version", "last_time"]
    return draw_table([*names, "kept"] if with_kept else names, rows)


def _kept(retention: evlog.Retention | None) -> str:
    from evlog.cli.retain import describe

    return "" if retention is None else describe(retention)
