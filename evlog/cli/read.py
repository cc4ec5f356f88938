"""`evlog read`: the events of one stream or of all, selected, in one of the forms of output.py."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import BOUND, FIELDS, FILTER, OUTPUT, STORE, WHEN, argument, flag, option
from evlog.errors import EvlogError, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

    from evlog.cli._support.parameters import Given
    from evlog.model.events import Event
    from evlog.store import EventStore

HELP: Final = """Print events: those of STREAM by version, or of the whole store by position.

In a pipe every event is one line of JSON. On a terminal it is a line of a table whose last column is cut to
fit; -o pretty shows all of it. Long output goes through $PAGER. --from and --to are versions with STREAM,
positions without, and both are included. WHEN is ISO 8601 (local time if it names no zone), a time of day
such as 10:51, now, today, yesterday, or an age such as 90s, 15m, 2h or 7d. A STREAM that does not exist, or
was deleted, ends with exit code 5.

With STREAM, events that `evlog retain` hides are left out; without, they are printed until a compaction
removes them. The store's own events, such as those that `retain` writes, are printed only if their stream is
named: '$$order-42'.

\b
  evlog read order-42 --from 2
  evlog read --type OrderPaid --since 7d -o csv --fields time,data.amount
  evlog read --category order --reverse --limit 5
  evlog read --tag course:c1 --tag student:s9
  evlog read --meta user=ann --grep 'amount":9[0-9]'
  evlog read --after 17
  evlog read order-42 --reverse -n 1 -o data
"""

PARAMETERS: Final = (
    argument("STREAM", "One stream; all if left out."),
    option("--from", "N", "The first version (or position).", BOUND, name="first"),
    option("--to", "N", "The last version (or position).", BOUND, name="last"),
    option("--after", "N", "Where I stopped: begin after it.", BOUND),
    *FILTER,
    option("--until", "WHEN", "Written before then.", WHEN),
    option("--limit -n", "N", "At most N events.", BOUND),
    flag("--reverse -r", "The last one first."),
    option("--context -C", "N", "Also N events before and after each one that matches.", BOUND),
    OUTPUT,
    FIELDS,
    STORE,
)


def command(given: Given) -> None:
    """Check which options go together, and print."""
    check_selection(given)
    if given.context is not None and given.reverse:
        raise InvalidArgument("--context is for reading forwards", "leave --reverse out")
    form = options.form_of(given)
    names = options.fields_of(given)
    selection = selection_of(given)
    with options.open_store(given) as store:
        events = select(store, given, selection | {"reverse": given.reverse})
        if given.context:
            from evlog.cli._support.context import with_context

            events = with_context(store, events, given.context, given.stream, given.category)
        events = _kept_verdict(events)
        if not console.stdout_is_terminal():
            _print(events, form, given, names)
            return
        from evlog.cli._support.pager import Paged

        with Paged():
            _print(events, form, given, names)


def check_selection(given: Given) -> None:
    """Refuse options that exclude each other."""
    options.check_streams(given)
    if given.first is not None and given.after is not None:
        raise InvalidArgument("--from and --after both say where to begin", "give one of them")


def selection_of(given: Given) -> dict[str, Any]:
    """Return the filters as arguments of `read` and `read_all`."""
    content = options.content_of(given)
    times = {"since": given.since, "until": given.until}
    return {"types": given.type or None, "tags": given.tag, **content, **times, "limit": given.limit}


def select(store: EventStore, given: Given, selection: dict[str, Any]) -> Iterator[Event]:
    """Return the events that the command line selects.

    Raises:
        StreamNotFound: there is no such stream; the message may name a category.
    """
    begin = given.after + 1 if given.after is not None else given.first or 1
    if given.stream is None:
        return store.read_all(begin - 1, given.last, category=given.category, **selection)
    events = store.read(given.stream, begin, given.last, **selection)
    if not store.has_stream(given.stream):
        from evlog.cli._support.advice import missing_stream

        raise missing_stream(store, given.stream, "evlog read")
    return events


def _kept_verdict(events: Iterator[Event]) -> Iterator[Event]:
    """Yield the events; damage that ends them decides the exit code, also if the reader has left by then."""
    try:
        yield from events
    except EvlogError as error:
        console.set_verdict(error.exit_code)
        raise


def _print(events: Iterator[Event], form: str, given: Given, names: list[str] | None) -> None:
    nothing = True
    if form == "json" and names is None:
        from evlog.model.json_lines import encode_lines

        for chunk in encode_lines(events):
            console.write(chunk)
        return
    from evlog.cli._support.output import in_batches, make_form

    drawn = make_form(form, names, one_stream=given.stream is not None)
    console.write(drawn.begin())
    for batch in in_batches(events, drawn.batch_events):
        console.write(drawn.draw(batch))
        nothing = False
    if nothing and form == "table":
        console.note("no events match")
