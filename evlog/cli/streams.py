"""`evlog streams`: every stream with its counts, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Final

import typer

import evlog
from evlog.cli import console, options
from evlog.cli.options import StoreOption
from evlog.jsonlines import encode_time, quote

HELP: Final = """List the streams by name: events, first and last version, last time.

All streams, or those of a category (the part of a name before its first -), or those whose name begins with
a text. In a pipe each is a line of JSON, on a terminal a line of a table.

\b
  evlog streams
  evlog streams --category order
  evlog streams --prefix order-2026 | wc -l
"""

_LINES: Final = 1000


def command(
    ctx: typer.Context,
    category: options.CategoryOption = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Streams whose name begins so.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Print the streams."""
    with options.open_store(ctx, store) as opened:
        streams = opened.streams(category, prefix)
        for chunk in _as_table(streams) if console.stdout_is_terminal() else _as_json(streams):
            console.write(chunk)


def _as_json(streams: Iterable[evlog.StreamInfo]) -> Iterator[bytes]:
    rest = iter(streams)
    while part := list(islice(rest, _LINES)):
        yield b"".join(
            b'{"stream":%b,"events":%d,"first_version":%d,"last_version":%d,"last_time":"%b"}\n'
            % (quote(name), events, first_version, last_version, encode_time(last_time_us))
            for name, events, first_version, last_version, last_time_us in part
        )


def _as_table(streams: Iterable[evlog.StreamInfo]) -> Iterator[bytes]:
    from evlog.cli.output import draw_table, readable_time

    rows = (
        (
            name,
            str(events),
            str(first_version),
            str(last_version),
            readable_time(encode_time(time_us).decode()),
        )
        for name, events, first_version, last_version, time_us in streams
    )
    return draw_table(("stream", "events", "first_version", "last_version", "last_time"), rows)
