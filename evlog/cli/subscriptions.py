"""`evlog subscriptions`: the durable subscriptions of `tail --name`, and the events that they parked."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.lag import check_lag, wait_until_passed
from evlog.cli._support.listing import filter_text, print_one, print_rows
from evlog.cli._support.parameters import (
    BOUND,
    COUNT,
    DURATION,
    LISTED_FIELDS,
    LISTING,
    STORE,
    Subcommand,
    argument,
    option,
)
from evlog.errors import EXIT_CORRUPT, EXIT_OK, EvlogError, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final

    import evlog
    from evlog.cli._support.parameters import Given
    from evlog.model.events import Event

HELP: Final = """List, check, reset and delete durable subscriptions, and handle the events that they parked.

`evlog tail --name NAME` makes a durable subscription. Without ACTION the subscriptions are listed. While a
subscription runs, it can be listed, shown, checked and waited for, and what it parked can be looked at; the
other actions end with exit code 6.

\b
  evlog tail --name audit --exec 'cat >> audit.log'
  evlog subscriptions
  evlog subscriptions reset audit --to 0
  evlog subscriptions replay audit --exec 'cat >> audit.log'
"""

_COLUMNS: Final = ("name", "filter", "position", "lag_events", "lag_seconds", "parked", "running")
_FIELDS: Final = (*_COLUMNS, "saved_time", "damage")
_PARKED_COLUMNS: Final = ("position", "stream", "version", "type", "time", "attempts", "error")
_PARKED_FIELDS: Final = ("position", "id", *_PARKED_COLUMNS[1:])
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
    return _print_all(given, found)


def _print_all(given: Given, found: list[evlog.SubscriptionInfo]) -> int:
    damaged = [info.damage for info in found if info.damage is not None]
    console.set_verdict(EXIT_CORRUPT if damaged else EXIT_OK)
    print_rows(
        given,
        map(_row, found),
        _COLUMNS,
        known=_FIELDS,
        nothing="no subscriptions; `evlog tail --name NAME` makes one",
        cells=_CELLS,
    )
    for damage in damaged:
        console.note(damage)
    return console.verdict()


def _print(given: Given, info: evlog.SubscriptionInfo) -> None:
    print_one(given, _row(info), _FIELDS[:-1], cells=_CELLS)


def _show(given: Given) -> None:
    with options.open_store(given) as store:
        _print(given, store.subscription(given.name))


def _reset(given: Given) -> None:
    if given.to is None:
        raise InvalidArgument(
            "--to is missing", "give the position after which to continue; 0 is the beginning"
        )
    with options.open_store(given) as store:
        store.reset_subscription(given.name, given.to)
        console.set_done("the subscription is reset")
        _print(given, store.subscription(given.name))


def _delete(given: Given) -> None:
    with options.open_store(given) as store:
        store.delete_subscription(given.name)
    if console.stderr_is_terminal():
        console.note(f"subscription {given.name!r} is deleted")


def _parked(given: Given) -> None:
    with options.open_store(given) as store:
        found = store.parked(given.name)
    print_rows(
        given,
        (_renamed(event._asdict(), "time_us", "time") for event in found),
        _PARKED_COLUMNS,
        known=_PARKED_FIELDS,
        nothing=f"subscription {given.name!r} has no parked events",
    )


def _drop(given: Given) -> None:
    with options.open_store(given) as store:
        store.drop_parked(given.name, given.position)
        console.set_done("the events are dropped")
        _print(given, store.subscription(given.name))


def _replay(given: Given) -> None:
    with options.open_store(given) as store:
        if given.exec is None:
            _print_parked(store, given.name, given.position)
        else:
            _run_on_parked(store, given)


def _print_parked(store: evlog.EventStore, name: str, positions: list[int]) -> None:
    """Print the parked events. They stay parked: nothing tells whether the reader has handled them."""
    found = [place.position for place in store.parked(name)]
    if positions:
        unknown = set(positions).difference(found)
        if unknown:
            from evlog.subscriptions.named import not_parked

            raise not_parked(name, min(unknown))
        found = [position for position in found if position in positions]
    events = (event for position in found for event in _event_at(store, position))
    from evlog.cli._support.output import in_batches, make_form

    form = make_form("table" if console.stdout_is_terminal() else "json", None, one_stream=False)
    for batch in in_batches(events, form.batch_events):
        console.write(form.draw(batch))
    if found:
        stay = console.count_of(len(found), "event stays", "events stay")
        console.note(f"{stay} parked; use --exec COMMAND to handle them")


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
            command = Command(given.exec, options.name_elsewhere(path, store), stops, keeps_stderr=True)
            result = store.replay_parked(given.name, run, given.position or None)
    except Stopped as stopped:
        end_by(stopped)
    if result.removed:
        console.note(f"{console.count_of(result.removed, 'event')} left the list: the log no longer has them")
    if result.failed:
        raise ReplayFailed(given.name, result.failed, result.succeeded)


def _row(info: evlog.SubscriptionInfo) -> dict[str, object]:
    fields = info._asdict() | {"filter": info.filter.as_object(), "lag_seconds": round(info.lag_seconds, 3)}
    if fields["damage"] is None:
        del fields["damage"]
    return _renamed(fields, "saved_us", "saved_time")


def _renamed(row: dict[str, object], name: str, to: str) -> dict[str, object]:
    return {to if key == name else key: value for key, value in row.items()}


def _age(seconds: float) -> str:
    """Return a time span to about two digits."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


_CELLS: Final[dict[str, Callable[[Any], str]]] = {
    "filter": lambda kept: filter_text(kept) or "all",
    "lag_seconds": _age,
    "running": lambda running: "yes" if running else "no",
}


def _wait(given: Given) -> None:
    with options.open_store(given) as store:
        info = wait_until_passed(store, given.name, given.position, given.timeout)
    console.set_done("the subscription has passed the position")
    _print(given, info)


def _check(given: Given) -> int:
    if given.max_lag is None and given.max_parked is None:
        raise InvalidArgument("there is nothing to check", "give --max-lag N, --max-parked N or both")
    with options.open_store(given) as store:
        found = store.subscriptions() if given.name is None else [store.subscription(given.name)]
    console.set_done("the subscriptions are checked")
    code = _print_all(given, found)
    check_lag(found, given.max_lag, given.max_parked)
    return code


_POSITIONS: Final = argument("POSITION", "Only these parked events; all if left out.", COUNT, many=True)


SUBCOMMANDS: Final = {
    "list": Subcommand(
        """List the subscriptions: how far each has come, and how much is left.

"lag_events" is the number of positions after the last one scanned, "lag_seconds" the age of the first of
these events.

\b
  evlog subscriptions list
  evlog subscriptions list | grep '"parked":[1-9]'
""",
        (LISTING, LISTED_FIELDS, STORE),
        _list,
    ),
    "show": Subcommand(
        """Show one subscription.

\b
  evlog subscriptions show audit
""",
        (_NAME, LISTING, LISTED_FIELDS, STORE),
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
            LISTING,
            LISTED_FIELDS,
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
        (_NAME, LISTING, LISTED_FIELDS, STORE),
        _parked,
    ),
    "replay": Subcommand(
        """Run a command on each parked event; exit code 0 removes the event from the list.

The exit code is 1 if the command failed on some of them. Without --exec the events are only printed, and stay
parked.

\b
  evlog subscriptions replay audit
  evlog subscriptions replay audit 17 --exec 'cat >> audit.log'
""",
        (
            _NAME,
            _POSITIONS,
            option("--exec", "COMMAND", "Run it on each event, JSON on its stdin.", name="exec"),
            STORE,
        ),
        _replay,
    ),
    "drop": Subcommand(
        """Give up on parked events: they leave the list, and stay in the log.

\b
  evlog subscriptions drop audit 17
""",
        (
            _NAME,
            argument("POSITION", "The events to give up.", COUNT, required=True, many=True),
            LISTING,
            LISTED_FIELDS,
            STORE,
        ),
        _drop,
    ),
    "wait": Subcommand(
        """Wait until a subscription has scanned a position: by default today's last one.

The exit code is 8 if --timeout runs out first.

\b
  evlog subscriptions wait audit --timeout 1m
""",
        (
            _NAME,
            option("--position", "N", "Until it has scanned this position; else today's last one.", COUNT),
            option("--timeout", "DURATION", "How long at most: 90, 10m, 2h.", DURATION),
            LISTING,
            LISTED_FIELDS,
            STORE,
        ),
        _wait,
    ),
    "check": Subcommand(
        """Compare lag and parked events with limits, for monitoring: exit code 11 if one is exceeded.

All subscriptions, or the one that is named.

\b
  evlog subscriptions check --max-lag 1000 --max-parked 10
""",
        (
            argument("NAME", "The subscription; all if left out."),
            option("--max-lag", "N", "Positions that are not scanned yet.", BOUND),
            option("--max-parked", "N", "Parked events.", BOUND),
            LISTING,
            LISTED_FIELDS,
            STORE,
        ),
        _check,
    ),
}
DEFAULT: Final = "list"
