"""`evlog read`: events of one stream or of all, selected, in one of the forms of output.py."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import typer

from evlog.cli._support import console, options
from evlog.cli._support.options import StoreOption
from evlog.errors import InvalidArgument, StreamNotFound
from evlog.model.events import Event, check_stream_name

HELP: Final = """Print events: those of STREAM by version, or of the whole store by position.

In a pipe every event is one line of JSON. On a terminal it is a line of a table whose last column is cut to
fit; -o pretty shows all of it. --from and --to are versions with STREAM, positions without, and both are
included. WHEN is ISO 8601 (UTC if it names no zone, midnight if no time), now, today, yesterday, or an age
such as -90s, -15m, -2h or -7d. A STREAM that does not exist, or was deleted, ends with exit code 5.

What `evlog retain` hides of a stream is left out with STREAM; without, it is there until a compaction. The
store's own events, such as what `retain` writes, come out only where their stream is named: '$$order-42'.

\b
  evlog read order-42 --from 2
  evlog read --type OrderPaid --since -7d -o csv --fields time,data.amount
  evlog read --category order --reverse --limit 5
  evlog read --after 17
  evlog read order-42 --reverse -n 1 -o data
"""


def command(
    ctx: typer.Context,
    stream: Annotated[
        str | None, typer.Argument(metavar="STREAM", help="One stream; all if left out.")
    ] = None,
    first: Annotated[
        int | None, typer.Option("--from", min=0, metavar="N", help="The first version (or position).")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", min=0, metavar="N", help="The last version (or position).")
    ] = None,
    after: Annotated[
        int | None, typer.Option("--after", min=0, metavar="N", help="Where I stopped: begin behind it.")
    ] = None,
    category: options.CategoryOption = None,
    type: options.TypesOption = None,
    since: options.SinceOption = None,
    until: Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Written before then.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=0, metavar="N", help="At most so many.")
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="The last one first.")] = False,
    output: Annotated[
        Literal["json", "pretty", "table", "data", "csv"] | None,
        typer.Option("--output", "-o", help="The form; table on a terminal, else json."),
    ] = None,
    fields: Annotated[
        str | None, typer.Option("--fields", metavar="a,b,data.c", help="Only these fields, in this order.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Check what goes together, and print."""
    if stream is not None and category is not None:
        raise InvalidArgument("STREAM and --category both say which streams; give one of them")
    if first is not None and after is not None:
        raise InvalidArgument("--from and --after both say where to begin; give one of them")
    if fields is not None and output == "data":
        raise InvalidArgument("-o data prints the data alone; leave --fields out, or use -o csv")
    chosen = output or ("table" if console.stdout_is_terminal() else "json")
    names = None
    if fields is not None:
        from evlog.cli._support.fields import parse_fields

        names = parse_fields(fields)
    elif chosen == "table" and stream is not None:
        names = ["position", "version", "type", "time", "data"]  # its name would be the same in every line
    if stream is not None and not stream.startswith("$"):
        check_stream_name(stream)
    selection: dict[str, Any] = {
        "types": type or None,
        **_times(since=since, until=until),
        "reverse": reverse,
        "limit": limit,
    }
    begin = after + 1 if after is not None else first or 1
    with options.open_store(ctx, store) as opened:
        if stream is None:
            events = opened.read_all(begin - 1, last, category=category, **selection)
        else:
            events = opened.read(stream, begin, last, **selection)
            if not opened.has_stream(stream):
                raise StreamNotFound(stream)
        _print(events, chosen, names)


def _times(**texts: str | None) -> dict[str, datetime | None]:
    """--since and --until as moments, both seen from the same present."""
    from evlog.cli._support.when import parse_when

    now = datetime.now(UTC)
    return {name: None if text is None else parse_when(text, now) for name, text in texts.items()}


def _print(events: Iterator[Event], form: str, names: list[str] | None) -> None:
    if form == "json" and names is None:
        from evlog.model.json_lines import encode_lines

        chunks = encode_lines(events)
    else:
        from evlog.cli._support.output import FORMS

        chunks = FORMS[form](events, names)
    nothing = True
    for chunk in chunks:
        console.write(chunk)
        nothing = False
    if nothing and form == "table":
        console.note("no events are like that")
