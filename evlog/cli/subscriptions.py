"""`evlog subscriptions`: the durable subscriptions of `tail --name`, and the events that they parked."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import COUNT, STORE, Subcommand, argument, option
from evlog.errors import EXIT_CORRUPT, EXIT_OK, EvlogError, InvalidArgument
from evlog.model.json_lines import encode_lines, encode_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

    import evlog
    from evlog.cli._support.parameters import Given
    from evlog.model.events import Event

HELP: Final = """List, show, reset and delete durable subscriptions, and handle the events that they parked.

`evlog tail --name NAME` makes a durable subscription. Without ACTION the subscriptions are listed. While a
subscription runs, it can be listed and shown, and what it parked can be looked at; the other actions end with
exit code 6.

\b
  evlog tail --name audit --exec 'cat >> audit.log'
  evlog subscriptions
  evlog subscriptions reset audit --to 0
  evlog subscriptions replay audit --exec 'cat >> audit.log'
"""

_COLUMNS: Final = ("name", "filter", "position", "lag", "behind", "parked", "running")
_PARKED_COLUMNS: Final = ("position", "stream", "version", "type", "parked at", "attempts", "error")
_NAME: Final = argument("NAME", "The subscription.", required=True)


class ReplayFailed(EvlogError):
    """Some of the parked events failed again; they stay parked."""

    def __init__(self, name: str, failed: int, replayed: int) -> None:
        super().__init__(
            f"{failed} of {failed + replayed} parked events failed again",
            f"`evlog subscriptions parked {name}` shows why",
        )
        self.name = name
        self.failed = failed
        self.replayed = replayed


def _list(given: Given) -> int:
    with options.open_store(given) as store:
        found = store.subscriptions()
    damaged = [info.damage for info in found if info.damage is not None]
    console.set_verdict(EXIT_CORRUPT if damaged else EXIT_OK)
    if console.stdout_is_terminal():
        _draw(_COLUMNS, map(_row, found), "no subscriptions; `evlog tail --name NAME` makes one")
    else:
        for info in found:
            console.write_object(_as_object(info))
    for damage in damaged:
        console.note(damage)
    return console.verdict()


def _show(given: Given) -> None:
    with options.open_store(given) as store:
        _print(store.subscription(given.name))


def _reset(given: Given) -> None:
    if given.to is None:
        raise InvalidArgument(
            "--to is missing", "give the position after which to continue; 0 is the beginning"
        )
    with options.open_store(given) as store:
        store.reset_subscription(given.name, given.to)
        _print(store.subscription(given.name))


def _delete(given: Given) -> None:
    with options.open_store(given) as store:
        store.delete_subscription(given.name)
    if console.stderr_is_terminal():
        console.note(f"subscription {given.name!r} is deleted")


def _parked(given: Given) -> None:
    with options.open_store(given) as store:
        found = store.parked(given.name)
    if console.stdout_is_terminal():
        _draw(_PARKED_COLUMNS, map(_parked_row, found), f"subscription {given.name!r} has no parked events")
        return
    for event in found:
        fields = event._asdict()
        fields["time"] = encode_time(fields.pop("time_us")).decode()
        console.write_object(fields)


def _replay(given: Given) -> None:
    with options.open_store(given) as store:
        if given.exec is None:
            _print_parked(store, given.name)
        else:
            _run_on_parked(store, given)


def _print_parked(store: evlog.EventStore, name: str) -> None:
    """Print the parked events. They stay parked: nothing tells whether the reader has handled them."""
    found = [place.position for place in store.parked(name)]
    events = (event for position in found for event in _event_at(store, position))
    if console.stdout_is_terminal():
        from evlog.cli._support.output import as_table

        for chunk in as_table(events, None):
            console.write(chunk)
    else:
        for chunk in encode_lines(events):
            console.write(chunk)
    if found:
        console.note(f"{len(found)} events stay parked; use --exec COMMAND to handle them")


def _event_at(store: evlog.EventStore, position: int) -> Iterator[Event]:
    return store.read_all(position - 1, position, include_system=True)


def _run_on_parked(store: evlog.EventStore, given: Given) -> None:
    from evlog.cli._support.exec import Command, check_command, reason_of
    from evlog.cli._support.stops import Stopped, Stops, end_by

    check_command(given.exec)
    path = options.find_store(given)

    def run(event: Event) -> None:
        try:
            command(event)
        except EvlogError as error:
            console.note(f"position {event.position} failed again: {reason_of(error)}")
            raise

    try:
        with Stops(watch_reader=False) as stops:
            command = Command(
                given.exec, path if options.is_url(path) else store.path, stops, keeps_stderr=True
            )
            result = store.replay_parked(given.name, run)
    except Stopped as stopped:
        end_by(stopped)
    if result.gone:
        console.note(f"{result.gone} parked events are no longer in the log; they were removed from the list")
    if result.failed:
        raise ReplayFailed(given.name, result.failed, result.succeeded)


def _print(info: evlog.SubscriptionInfo) -> None:
    if not console.stdout_is_terminal():
        console.write_object(_as_object(info))
        return
    rows = zip(_COLUMNS, _row(info), strict=True)
    lines = (f"{name:<12} {console.printable(text)}\n" for name, text in rows)
    console.write("".join(lines).encode(errors="backslashreplace"))


def _as_object(info: evlog.SubscriptionInfo) -> dict[str, object]:
    fields = info._asdict() | {"filter": info.filter.as_object(), "lag_seconds": round(info.lag_seconds, 3)}
    fields["saved_time"] = encode_time(fields.pop("saved_us")).decode()
    if fields["damage"] is None:
        del fields["damage"]
    return fields


def _row(info: evlog.SubscriptionInfo) -> tuple[str, ...]:
    return (
        info.name,
        _filter_text(info),
        str(info.position),
        str(info.lag_events),
        _age(info.lag_seconds),
        str(info.parked),
        "yes" if info.running else "no",
    )


def _filter_text(info: evlog.SubscriptionInfo) -> str:
    """Return the filter as the options of `tail` that make it."""
    filter = info.filter
    parts = [] if filter.stream is None else [filter.stream]
    if filter.category is not None:
        parts.append(f"--category {filter.category}")
    parts += [f"--type {type}" for type in filter.types or ()]
    return " ".join(parts) or "all"


def _age(seconds: float) -> str:
    """Return a time span to about two digits."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _parked_row(event: evlog.ParkedEvent) -> tuple[str, ...]:
    from evlog.cli._support.output import readable_time

    time = readable_time(encode_time(event.time_us).decode())
    return (
        str(event.position),
        event.stream,
        str(event.version),
        event.type,
        time,
        str(event.attempts),
        event.error,
    )


def _draw(names: tuple[str, ...], rows: Iterable[tuple[str, ...]], nothing: str) -> None:
    from evlog.cli._support.output import draw_table

    drawn = False
    for chunk in draw_table(names, rows):
        console.write(chunk)
        drawn = True
    if not drawn:
        console.note(nothing)


SUBCOMMANDS: Final = {
    "list": Subcommand(
        """List the subscriptions: how far each has come, and how much is left.

"lag" is the number of positions after the last one scanned, "behind" the age of the first of these events.

\b
  evlog subscriptions list
  evlog subscriptions list | grep '"parked":[1-9]'
""",
        (STORE,),
        _list,
    ),
    "show": Subcommand(
        """Show one subscription.

\b
  evlog subscriptions show audit
""",
        (_NAME, STORE),
        _show,
    ),
    "reset": Subcommand(
        """Have the next run continue after another position.

\b
  evlog subscriptions reset audit --to 0
  evlog subscriptions reset audit --to 17
""",
        (
            _NAME,
            option("--to", "N", "Continue after this position; 0: from the beginning.", COUNT),
            STORE,
        ),
        _reset,
    ),
    "delete": Subcommand(
        """Delete a subscription: its checkpoint and its list of parked events. No event is deleted.

\b
  evlog subscriptions delete audit
""",
        (_NAME, STORE),
        _delete,
    ),
    "parked": Subcommand(
        """List the parked events of a subscription, each with its error and the end of the stderr.

\b
  evlog subscriptions parked audit
""",
        (_NAME, STORE),
        _parked,
    ),
    "replay": Subcommand(
        """Run a command on each parked event; exit code 0 removes the event from the list.

The exit code is 1 if the command failed on some of them. Without --exec the events are only printed, and stay
parked.

\b
  evlog subscriptions replay audit
  evlog subscriptions replay audit --exec 'cat >> audit.log'
""",
        (_NAME, option("--exec", "COMMAND", "Run it on each event, JSON on its stdin.", name="exec"), STORE),
        _replay,
    ),
}
DEFAULT: Final = "list"
