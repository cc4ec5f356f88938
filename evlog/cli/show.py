"""`evlog show`: single events, by id, position or idempotency key."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import FIELDS, OUTPUT, STORE, argument
from evlog.errors import EventNotFound, InvalidArgument
from evlog.model.events import id_of_key, id_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from evlog.cli._support.parameters import Given
    from evlog.model.events import Event
    from evlog.store import EventStore

HELP: Final = """Print single events, by id, position or idempotency key.

In a pipe each is one line of JSON; on a terminal a paragraph with all of its data. `key:payment-7` names the
event that was appended with this idempotency key. If one of them does not exist, or a compaction has removed
it, the others are printed and the exit code is 5.

\b
  evlog show 1
  evlog show 1 -o data
  evlog show key:payment-7
  evlog show $(evlog read -n 3 -o csv --fields id | tail -n +2)
"""

_NAMES: Final = "The event's id, its position, or key: and its idempotency key."
EVENT: Final = argument("ID", _NAMES, required=True)
EVENTS: Final = argument("ID", _NAMES, required=True, many=True)
PARAMETERS: Final = (
    EVENTS,
    OUTPUT,
    FIELDS,
    STORE,
)
_HEX_DIGITS: Final = 32
_KEY: Final = "key:"


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
    """Return a position, or the text of an id, also of one that a key gives; else raise InvalidArgument."""
    if text.isascii() and text.isdecimal() and len(text) < _HEX_DIGITS:
        return int(text)
    if text.startswith(_KEY):
        return id_text(id_of_key(text.removeprefix(_KEY)))
    from uuid import UUID

    try:
        return str(UUID(text))
    except ValueError:
        raise InvalidArgument(
            f"invalid event {text!r:.80}",
            "give its id (a UUID), its position (a number), or key: and its idempotency key",
        ) from None


def _found(store: EventStore, names: Sequence[int | str], missing: list[EventNotFound]) -> Iterator[Event]:
    for name in names:
        try:
            yield store.get(name)
        except EventNotFound as error:
            missing.append(error)
