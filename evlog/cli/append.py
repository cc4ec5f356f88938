"""`evlog append`: one event from the arguments; with --lines, what lines.py does.

Which options go together is decided here, before the store is opened: a wrong command line touches nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import typer

import evlog
from evlog.cli._support import console, options
from evlog.cli._support.event import encode, id_of_key, make_metadata, read_data
from evlog.cli._support.options import StoreOption
from evlog.errors import InvalidArgument
from evlog.model.events import check_stream_name

BATCH: Final = 1000
_FOR_EVER_SECONDS: Final = 1e8
_EXPECTED: Final[dict[str, int | str]] = {
    "any": evlog.ANY,
    "none": evlog.NO_STREAM,
    "exists": evlog.STREAM_EXISTS,
}
HELP: Final = """Append one event, or with --lines an event for each line of JSON on stdin.

The event is on disk when the command ends with exit code 0; the line it prints says where. --expect makes
the append conditional on the stream's version (exit code 3 if it is another one). --id or
--idempotency-key makes a retry harmless: what is known already is not written again, and the result says
"duplicate":true. Other content under a known id ends with exit code 7. A missing store is created.

\b
  evlog append order-42 OrderPlaced '{"total":30}' --expect none
  evlog append order-42 OrderPaid '{"amount":30}' --idempotency-key payment-7
  date | evlog append notes Noted - --content-type text

Lines that `evlog read` printed go in as they are. Lines of any other shape go in when STREAM and TYPE are
given or --stream-field and --type-field say where they are: a dotted path such as at.host, or for the stream
a template such as 'host-{.at.host}'. The whole line is the data unless --data-field names a part of it. With
--stream-field, the one argument is the TYPE. What --id-field names is a UUID, or any other text or number:
that is an idempotency key then.

\b
  evlog read | evlog --store copy append --lines
  echo '{"host":"a"}' | evlog append --lines --stream-field 'on-{.host}' Seen
  seq 3 | evlog append --lines numbers Counted
"""


def command(
    ctx: typer.Context,
    stream: Annotated[str | None, typer.Argument(metavar="STREAM", help="Such as order-42.")] = None,
    type: Annotated[str | None, typer.Argument(metavar="TYPE", help="What happened.")] = None,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="JSON text, @FILE, or - for stdin; {} if left out.")
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect", "-e", metavar="any|none|exists|N", help="The version that the stream must have."
        ),
    ] = None,
    id: Annotated[str | None, typer.Option("--id", metavar="UUID", help="The event's id.")] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="TEXT", help="Any text that stands for this event."),
    ] = None,
    meta: Annotated[
        list[str] | None,
        typer.Option("--meta", metavar="KEY=VALUE", help="A text in the metadata (repeatable)."),
    ] = None,
    metadata: Annotated[
        str | None, typer.Option("--metadata", metavar="JSON", help="The metadata, an object.")
    ] = None,
    correlation_id: Annotated[
        str | None, typer.Option("--correlation-id", metavar="TEXT", help="Metadata: what it belongs to.")
    ] = None,
    causation_id: Annotated[
        str | None, typer.Option("--causation-id", metavar="TEXT", help="Metadata: what caused it.")
    ] = None,
    content_type: Annotated[
        Literal["json", "text", "binary"] | None,
        typer.Option("--content-type", help="What DATA is; json if left out."),
    ] = None,
    sync: Annotated[
        Literal["always", "none"],
        typer.Option("--sync", help="none: quicker, but a power failure may take what was acknowledged."),
    ] = "always",
    lock_timeout: Annotated[
        float | None,
        typer.Option(
            "--lock-timeout",
            min=0,
            metavar="SECONDS",
            help="How long to wait for other writers; else for ever.",
        ),
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Append each line of stdin.")] = False,
    stream_field: Annotated[
        str | None, typer.Option("--stream-field", metavar="a.b", help="Lines: the stream, or 'host-{.a.b}'.")
    ] = None,
    type_field: Annotated[
        str | None, typer.Option("--type-field", metavar="a.b", help="Lines: the event type.")
    ] = None,
    id_field: Annotated[
        str | None, typer.Option("--id-field", metavar="a.b", help="Lines: a UUID or an idempotency key.")
    ] = None,
    data_field: Annotated[
        str | None, typer.Option("--data-field", metavar="a.b", help="Lines: the data; . is the whole line.")
    ] = None,
    atomic: Annotated[bool, typer.Option("--atomic", help="Lines: all in one append, or none.")] = False,
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, max=1_000_000, metavar="N", help=f"Lines: events a write; {BATCH}."),
    ] = None,
    ack: Annotated[bool, typer.Option("--ack", help="Lines: print each result when it is durable.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Lines: report a bad line and go on.")] = False,
    store: StoreOption = None,
) -> None:
    """Check which options go together, and append."""
    given_metadata = make_metadata(meta, metadata, correlation_id, causation_id)
    expected = None if expect is None else parse_expected(expect)
    settings = {"sync": sync, "lock_timeout": _timeout(lock_timeout)}
    for_lines: dict[str, Any] = {
        "stream_field": stream_field,
        "type_field": type_field,
        "id_field": id_field,
        "data_field": data_field,
        "atomic": atomic,
        "batch": batch,
        "ack": ack,
        "skip_bad": skip_bad,
    }
    if lines:
        for_one = {"id": id, "idempotency_key": idempotency_key, "content_type": content_type}
        _refuse(for_one, "is for a single event; each line brings its own (see --id-field and --data-field)")
        if data is not None:
            raise InvalidArgument("--lines takes STREAM and TYPE, no DATA; the lines come from stdin")
        from evlog.cli.lines import Options, append_lines

        chosen = Options(stream=stream, type=type, metadata=given_metadata, expected=expected, **for_lines)
        chosen.check()
        decode = chosen.decoder()
        with open_or_create(ctx, store, settings) as opened:
            append_lines(opened, decode, chosen)
            options.report_torn_tails(opened)
        return
    _refuse(for_lines, "is for lines of JSON on stdin; add --lines")
    if stream is None or type is None:
        missing = "STREAM and TYPE are" if stream is None else "TYPE is"
        raise InvalidArgument(f"{missing} missing; the shortest form is `evlog append order-42 OrderPaid`")
    if id is not None and idempotency_key is not None:
        raise InvalidArgument("--id and --idempotency-key both name the event; give one of them")
    event = evlog.NewEvent(
        type,
        read_data(data, content_type or "json"),
        id=id if idempotency_key is None else id_of_key(idempotency_key),
        metadata=given_metadata,
        content_type=content_type or "json",
    )
    # What is wrong with the event is found before a store is made for it.
    check_stream_name(stream)
    encode(event)
    with open_or_create(ctx, store, settings) as opened:
        _append_one(opened, stream, event, evlog.ANY if expected is None else expected)
        options.report_torn_tails(opened)


def _append_one(store: evlog.EventStore, stream: str, event: evlog.NewEvent, expected: int | str) -> None:
    result = store.append(stream, [event], expected=expected)
    line = {
        "stream": result.stream,
        "version": result.first_version,
        "position": result.first_position,
        "id": str(result.ids[0]),
        "duplicate": result.duplicate,
    }
    try:
        console.write_object(line)
        console.flush()
    except console.OutputFailed as error:
        # Whoever sees a failure may try again, and would have the event twice.
        done = f"the event is appended at position {result.first_position} all the same"
        raise console.OutputFailed(f"{error.reason} ({done})") from None


def open_or_create(ctx: typer.Context, option: str | None, settings: dict[str, Any]) -> evlog.EventStore:
    """Open the store to append to, or make it; one that nobody named is made here, and its user told."""
    named = options.named_store(ctx, option)
    path = named or options.find_store(ctx, option)
    store = evlog.open(path, create=True, **settings)
    if named is None and store.created:
        console.note(f"created the store ./{path}")
    return store


def parse_expected(text: str) -> int | str:
    """Turn --expect into what the library takes: any, none, exists or a version."""
    if text in _EXPECTED:
        return _EXPECTED[text]
    if text.isascii() and text.isdigit():
        return int(text)
    raise InvalidArgument(
        f"--expect {text!r} is none of any, none, exists and a version such as 3; give one of them"
    )


def _refuse(options: dict[str, Any], reason: str) -> None:
    for name, value in options.items():
        if value not in (None, False):
            raise InvalidArgument(f"--{name.replace('_', '-')} {reason}")


def _timeout(seconds: float | None) -> float | None:
    if seconds is None:
        return None
    if seconds != seconds:  # noqa: PLR0124 - NaN passes every range check
        raise InvalidArgument("--lock-timeout is not a number; give seconds, such as 30")
    return seconds if seconds < _FOR_EVER_SECONDS else None
