"""`evlog append`: one event from the arguments; with --lines, what lines.py does.

What is wrong with the command line or the event is found before the store is opened, so it changes nothing.
"""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.options import LINES_BATCH
from evlog.cli._support.parameters import COUNT, DURATION, RAW, STORE, argument, choice, flag, option
from evlog.errors import EXIT_CONFLICT, EvlogError, InvalidArgument
from evlog.model.events import check_stream_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from evlog.cli._support.parameters import Given
    from evlog.model.appends import BatchResult
    from evlog.model.events import EncodedEvent
    from evlog.model.types import Condition
    from evlog.store import EventStore

HELP: Final = """Append one event, or with --lines an event for each line of JSON on stdin.

The event is on disk when the command ends with exit code 0; the line it prints says where. --expect makes
the append conditional on the stream's version (exit code 3 if it is another one); --if-version does so for
other streams, and --if-none for events anywhere that match a query: `evlog help tags`. --id or
--idempotency-key makes a retry harmless: a known event is not written again, and the result says
"duplicate":true; with --new-only the exit code is then 3. Other content under a known id ends with exit
code 7. A missing store is created, which is said on stderr; --no-create ends with exit code 5 instead.

\b
  evlog append order-42 OrderPlaced '{"total":30}' --expect none
  evlog append order-42 OrderPaid '{"amount":30}' --idempotency-key payment-7
  date | evlog append notes Noted - --content-type text
  evlog append user-7 Registered --tag email:a@b.c --if-none tag=email:a@b.c

Lines that `evlog read` printed go in as they are; only `stream` and `type` have to be there. With --id-field
alone, lines have this shape, and any field, or a template of some, identifies the event. For lines of any
other shape give STREAM and TYPE, or --stream-field and --type-field: a dotted path such as at.host, or for
the stream a template such as 'host-{.at.host}'. The whole line is the data unless --data-field names a part
of it. With --stream-field, the one argument is the TYPE. What --id-field names is a UUID, or any other text
or number: that is an idempotency key then, which can also be a template. --data-is-text is for JSON within a
string, as kcat -J prints it. --text takes each line, also an empty one, as the text of an event. --time-field
is for importing a history: events get the times that they had, and while it runs the store takes no other
appends.

\b
  evlog read | evlog --store copy append --lines
  echo '{"host":"a"}' | evlog append --lines --stream-field 'on-{.host}' Seen
  date | evlog append --lines --text notes Noted
  evlog read | evlog --store moved append --lines --time-field time
"""

MAX_BATCH: Final = 1_000_000
PARAMETERS: Final = (
    argument("STREAM", "Such as order-42."),
    argument("TYPE", "What happened."),
    argument("DATA", "JSON text, @FILE, or - for stdin; {} if left out.", RAW),
    option("--expect -e", "any|none|exists|N", "The version that the stream must have."),
    option("--if-version", "STREAM=N", "Another stream must be at N, 0 if new (repeatable).", many=True),
    option("--if-none", "QUERY", "No event may match: 'type=A|B,tag=c:1' (repeatable).", many=True),
    option("--after", "N", "With --if-none: only events after position N count.", COUNT),
    option("--tag", "TEXT", "A tag, such as course:c1; lines: or 'course:{.a.b}' (repeatable).", many=True),
    option("--id", "UUID", "The event's id."),
    option("--idempotency-key", "TEXT", "Any text that names this event."),
    option("--meta", "KEY=VALUE", "A text in the metadata (repeatable).", many=True),
    option("--metadata", "JSON", "The metadata, an object."),
    option("--correlation-id", "TEXT", "Metadata: what it belongs to; else $EVLOG_CORRELATION_ID."),
    option("--causation-id", "TEXT", "Metadata: what caused it; else $EVLOG_CAUSATION_ID."),
    choice("--content-type", "json|text|binary", "What DATA is; default json."),
    choice("--sync", "always|none", "none: faster, but a power failure may lose acknowledged events."),
    option(
        "--lock-timeout",
        "DURATION",
        "How long to wait for other writers: 30, 2m; else without limit.",
        DURATION,
    ),
    flag("--new-only", "Exit code 3 if the event is known already."),
    flag("--no-create", "Do not create a missing store."),
    flag("--lines", "Append each line of stdin."),
    option("--stream-field", "a.b", "Lines: the stream, or 'host-{.a.b}'."),
    option("--type-field", "a.b", "Lines: the event type."),
    option("--id-field", "a.b", "Lines: a UUID or an idempotency key, or '{.a}/{.b}'."),
    option("--data-field", "a.b", "Lines: the data; . is the whole line."),
    option("--time-field", "a.b", "Lines: when it happened: ISO 8601, or seconds since 1970."),
    flag("--data-is-text", "Lines: --data-field names a string that holds JSON."),
    flag("--text", "Lines: each one is an event's text."),
    flag("--atomic", "Lines: all in one append, or none."),
    option("--batch", "N", f"Lines: events a write; default {LINES_BATCH}.", COUNT, least=1, most=MAX_BATCH),
    flag("--ack", "Lines: print each result when it is durable."),
    choice("--format", "events|cloudevents", "Lines: their shape; default events."),
    flag("--skip-bad", "Lines: report a bad line and continue."),
    STORE,
)
_FOR_LINES: Final = (
    *("stream_field", "type_field", "id_field", "data_field", "time_field", "data_is_text"),
    *("text", "atomic", "batch", "ack", "skip_bad"),
)
_FOR_ONE: Final = ("id", "idempotency_key", "content_type", "new_only")


class KnownEvent(EvlogError):
    """--new-only is given, and the event was appended before."""

    exit_code = EXIT_CONFLICT

    def __init__(self, position: int) -> None:
        super().__init__(
            f"the event is known already, at position {position}; nothing was written",
            "leave --new-only out to take that as success",
        )
        self.position = position


def command(given: Given) -> int | None:
    """Check which options go together, and append."""
    expected = None if given.expect is None else options.parse_version(given.expect, "--expect")
    if given.lines:
        _refuse(given, _FOR_ONE, "is for a single event; each line brings its own")
        if given.data is not None:
            raise InvalidArgument("--lines takes STREAM and TYPE, not DATA", "give the lines on stdin")
        from evlog.cli.lines import append_lines

        return append_lines(given, expected, find_conditions(given))
    _refuse(given, _FOR_LINES, "is for lines on stdin; add --lines")
    if given.stream is None or given.type is None:
        missing = "STREAM and TYPE are" if given.stream is None else "TYPE is"
        raise InvalidArgument(f"{missing} missing", "write for example `evlog append order-42 OrderPaid`")
    if given.data is None and given.type.startswith(("{", "[", "@")):
        raise InvalidArgument(
            f"TYPE is missing: {given.type:.40} looks like DATA",
            "write for example `evlog append order-42 OrderPaid '{\"amount\":10}'`",
        )
    from evlog.cli._support.event import make_event

    stream = check_stream_name(given.stream)
    event = make_event(given)
    conditions = find_conditions(given)
    with options.open_or_create(given) as store:
        result = _append_one(store, stream, event, expected, conditions)
        options.report_torn_tails(store)
    if given.new_only and result.duplicate_count:
        raise KnownEvent(result.positions[0])
    return None


def _append_one(
    store: EventStore,
    stream: str,
    event: EncodedEvent,
    expected: int | str | None,
    conditions: Sequence[Condition],
) -> BatchResult:
    versions = None if expected is None else {stream: expected}
    result = store.append_encoded([stream], [event], expected=versions, conditions=conditions)
    console.set_done(f"the event is appended, at position {result.positions[0]}")
    options.print_results(result)
    return result


def find_conditions(given: Given) -> Sequence[Condition]:
    """Return what --if-version, --if-none and --after state."""
    if not (given.if_version or given.if_none or given.after is not None):
        return ()
    from evlog.cli._support.conditions import parse_conditions

    return parse_conditions(given)


def _refuse(given: Given, names: tuple[str, ...], reason: str) -> None:
    for name in names:
        if getattr(given, name) not in (None, False):
            raise InvalidArgument(f"--{name.replace('_', '-')} {reason}")
