"""`evlog subscriptions`: the durable subscriptions that `tail --name` made, and what they put aside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Final, Literal

import typer

import evlog
from evlog.cli._support import console, options
from evlog.cli._support.child import Command, CommandFailed
from evlog.cli._support.options import StoreOption
from evlog.cli._support.stops import Stopped, Stops, end_by
from evlog.errors import EvlogError, InvalidArgument
from evlog.model.events import Event
from evlog.model.json_lines import encode_lines, encode_time

HELP: Final = """List, show, reset and delete durable subscriptions, and deal with the events they parked.

A durable subscription is made by `evlog tail --name NAME`. `list` (what is done when nothing is said) and
`show` tell how far it has come and how much is left, `reset` has it go on behind position N, `delete` forgets
it. `parked` lists the events that its command failed on; `replay` prints them, or runs a command on each with
--exec, and those that were dealt with leave the list. A subscription that is running can only be looked at.

\b
  evlog tail --name audit --exec 'cat >> audit.log'
  evlog subscriptions
  evlog subscriptions reset audit --to 0
  evlog subscriptions parked audit
  evlog subscriptions replay audit --exec 'cat >> audit.log'
  evlog subscriptions delete audit
"""

Action = Literal["list", "show", "reset", "delete", "parked", "replay"]
_COLUMNS: Final = ("name", "filter", "position", "lag", "behind", "parked", "running")
_PARKED_COLUMNS: Final = ("position", "stream", "version", "type", "parked at", "attempts", "error")


class ReplayFailed(EvlogError):
    """Some of the parked events failed again; they stay parked."""

    def __init__(self, name: str, failed: int, replayed: int) -> None:
        super().__init__(
            f"{failed} of {failed + replayed} parked events failed again; "
            f"`evlog subscriptions parked {name}` says why"
        )
        self.name = name
        self.failed = failed
        self.replayed = replayed


def command(
    ctx: typer.Context,
    action: Annotated[Action, typer.Argument(metavar="ACTION", help=", ".join(Action.__args__))] = "list",
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The subscription; all for list.")
    ] = None,
    to: Annotated[
        int | None, typer.Option("--to", min=0, metavar="N", help="Reset: the position to go on behind.")
    ] = None,
    exec: Annotated[
        str | None, typer.Option("--exec", metavar="COMMAND", help="Replay: run it for each event.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Check what goes together, and do it."""
    if (action == "list") != (name is None):
        raise InvalidArgument(
            f"{name!r} is one subscription; say `show {name}` to see it"
            if name is not None
            else f"`{action}` is about one subscription; give its NAME"
        )
    if (action == "reset") != (to is not None):
        raise InvalidArgument("`reset NAME --to N` belongs together; give the position to go on behind")
    if exec is not None and action != "replay":
        raise InvalidArgument("--exec is about `replay`; leave it out")
    path = options.find_store(ctx, store)
    with evlog.open(path) as opened:
        if name is None:
            _list(opened)
        elif action == "show":
            _show(opened.subscription(name))
        elif action == "reset":
            opened.reset_subscription(name, to or 0)
            _show(opened.subscription(name))
        elif action == "delete":
            opened.delete_subscription(name)
            if console.stderr_is_terminal():
                console.note(f"subscription {name!r} is deleted")
        elif action == "parked":
            _list_parked(opened, name)
        else:
            _replay(opened, name, exec)


def _list(store: evlog.EventStore) -> None:
    found = store.subscriptions()
    if console.stdout_is_terminal():
        _draw(_COLUMNS, map(_row, found), "there are no subscriptions; `evlog tail --name NAME` makes one")
    else:
        for info in found:
            console.write_object(_as_object(info))


def _show(info: evlog.SubscriptionInfo) -> None:
    if console.stdout_is_terminal():
        names = ("name", "filter", "position", "events left", "behind", "parked", "running")
        lines = (
            f"{name:<12} {console.printable(text)}\n" for name, text in zip(names, _row(info), strict=True)
        )
        console.write("".join(lines).encode(errors="backslashreplace"))
    else:
        console.write_object(_as_object(info))


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
    stream, category, types = info.filter.stream, info.filter.category, info.filter.types
    parts = [] if stream is None else [stream]
    if category is not None:
        parts.append(f"--category {category}")
    parts += [f"--type {type}" for type in types or ()]
    return " ".join(parts) or "all"


def _age(seconds: float) -> str:
    """A time span to two digits or so, as eyes like it."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _list_parked(store: evlog.EventStore, name: str) -> None:
    found = store.parked(name)
    if console.stdout_is_terminal():
        _draw(_PARKED_COLUMNS, map(_parked_row, found), f"subscription {name!r} has nothing parked")
    else:
        for event in found:
            fields = event._asdict()
            fields["time"] = encode_time(fields.pop("time_us")).decode()
            console.write_object(fields)


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


def _replay(store: evlog.EventStore, name: str, exec: str | None) -> None:
    if exec is None and console.stdout_is_terminal():
        raise InvalidArgument(
            "what is printed counts as dealt with; give --exec COMMAND, or pipe the events into a program"
        )
    try:
        with Stops() as stops:
            command = _print if exec is None else Command(exec, store.path, stops)
            result = store.replay_parked(name, partial(_replay_one, command))
    except Stopped as stopped:
        end_by(stopped)
    if result.gone:
        console.note(f"{result.gone} parked events are not in the log any more; they stay listed")
    if result.failed:
        raise ReplayFailed(name, result.failed, result.succeeded)


def _replay_one(command: Callable[[Event], None], event: Event) -> None:
    try:
        command(event)
    except CommandFailed as error:
        console.note(f"position {event.position} failed again: {error}")
        raise


def _print(event: Event) -> None:
    console.write_now(b"".join(encode_lines([event])))
