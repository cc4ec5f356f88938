"""`evlog show`: single events, by id or position."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import FIELDS, OUTPUT, STORE, argument
from evlog.errors import EventNotFound, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from evlog.cli._support.parameters import Given
    from evlog.model.events import Event
    from evlog.store import EventStore

HELP: Final = """Print single events, by id or position.

In a pipe each is one line of JSON; on a terminal a paragraph with all of its data. If one of them does not
exist, or a compaction has removed it, the others are printed and the exit code is 5.

\b
  evlog show 1
  evlog show 1 -o data
  evlog show $(evlog read -n 3 -o csv --fields id | tail -n +2)
"""

PARAMETERS: Final = (
    argument("ID", "The event's id, or its position.", required=True, many=True),
    OUTPUT,
    FIELDS,
    STORE,
)
_HEX_DIGITS: Final = 32


def command(given: Given) -> None:
    """Print the events in the order in which they are named."""
    names = [parse_event(text) for text in given.id]
    form = options.form_of(given, "pretty")
    fields = options.fields_of(given)
    missing: list[EventNotFound] = []
    from evlog.cli._support.output import in_batches, make_form

    drawn = make_form(form, fields, one_stream=False)
    with options.open_store(given) as store:
        console.write(drawn.begin())
        for batch in in_batches(_found(store, names, missing), drawn.batch_events):
            console.write(drawn.draw(batch))
    for error in missing[:-1]:
        console.note(error.problem)
    if missing:
        raise missing[-1]


def parse_event(text: str) -> int | str:
    """Return a position, or the text of an id; raise InvalidArgument for anything else."""
    if text.isascii() and text.isdecimal() and len(text) < _HEX_DIGITS:
        return int(text)
    from uuid import UUID

    try:
        return str(UUID(text))
    except ValueError:
        raise InvalidArgument(
            f"invalid event {text!r:.80}", "give its id (a UUID) or its position (a number)"
        ) from None


def _found(store: EventStore, names: Sequence[int | str], missing: list[EventNotFound]) -> Iterator[Event]:
    for name in names:
        try:
            yield store.get(name)
        except EventNotFound as error:
            missing.append(error)
