"""`evlog tail`: the last events, then those that come; for eyes, for a pipe, or for a command run on each.

What goes together is checked before the store is opened; where to begin becomes one position; from there on
everything comes through one subscription, so that no event is missed or seen twice between old and new.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, NamedTuple

import typer

import evlog
from evlog.cli._support import console, options
from evlog.cli._support.begin import Wanted, find_begin
from evlog.cli._support.deliver import End, Goal, Printer, Sink, deliver
from evlog.cli._support.options import StoreOption
from evlog.cli._support.stops import Stopped, Stops, end_by
from evlog.errors import (
    EXIT_TIMEOUT,
    EvlogError,
    InvalidArgument,
    NotAStore,
    StoreNotFound,
    StreamNotFound,
    SubscriptionNotFound,
)
from evlog.model.events import check_stream_name

HELP: Final = """Print the last events, and with -f those that come, as soon as they are on disk.

In a pipe every event is one line of JSON, written out at once; on a terminal it is a row of a table. With -f
a store or STREAM that does not exist yet is waited for. --count and --until-type say what is waited for
(exit code 0); if --timeout or --idle run out before, the exit code is 8. An event of --until-type that STREAM
has already counts, however old it is, unless -n, --after or --since say where to begin. A duration is
seconds, or a number with s, m, h, d or w.

\b
  evlog tail -n 3
  evlog tail order-42 -f --until-type OrderPaid --timeout 10m
  evlog tail -f --category order | grep -m 1 OrderPaid

With --name the subscription is durable: it goes on where the last run of that name stopped, and begins at
the first event (or where -n, --after or --since say). --exec runs a shell command for each event, with
the event's JSON on stdin and EVLOG_POSITION, EVLOG_STREAM, EVLOG_TYPE, EVLOG_VERSION and EVLOG_ID in
its environment. Exit code 0 says that the event is dealt with; after --retries failures the run stops with
exit code 1, or parks the event and goes on. An event can be seen again after a crash, never be left out.

\b
  evlog tail --name copy --exec 'evlog --store /var/lib/copy append --lines'
  evlog tail --name paid --type OrderPaid --exec 'echo paid: "$EVLOG_STREAM"'
"""

_LAST: Final = 10


class NotInTime(EvlogError):
    """Time or events ran out before what was waited for came."""

    exit_code = EXIT_TIMEOUT

    def __init__(self, goal: Goal, option: str | None, duration: str | None) -> None:
        waited_for = None
        if goal.until_type is not None:
            waited_for = f"an event of type {goal.until_type!r}"
        elif goal.events is not None:
            waited_for = "one event" if goal.events == 1 else f"{goal.events} events"
        if option is None:
            message = f"there is not yet {waited_for}; add -f to wait for it"
        elif waited_for is None:
            message = f"{option} {duration} ran out; run it again to go on"
        else:
            message = (
                f"{option} {duration} ran out before {waited_for} came; give it longer, or see who is late"
            )
        super().__init__(message)
        self.option = option
        self.duration = duration
        self.until_type = goal.until_type
        self.count = goal.events


def command(
    ctx: typer.Context,
    stream: Annotated[
        str | None, typer.Argument(metavar="STREAM", help="One stream; all if left out.")
    ] = None,
    last: Annotated[
        str | None, typer.Option("-n", metavar="N|all", help=f"Begin with the last N; {_LAST} if left out.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with those that come.")] = False,
    after: Annotated[
        int | None, typer.Option("--after", min=0, metavar="N", help="Where I stopped: begin behind it.")
    ] = None,
    category: options.CategoryOption = None,
    type: options.TypesOption = None,
    since: options.SinceOption = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="A durable subscription: go on from its end.")
    ] = None,
    exec: Annotated[
        str | None,
        typer.Option("--exec", metavar="COMMAND", help="Run it for each event, JSON on its stdin."),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option("--retries", min=0, metavar="N", help="Failures of --exec on one event; 3 if left out."),
    ] = None,
    on_failure: Annotated[
        Literal["stop", "park"] | None,
        typer.Option("--on-failure", help="After these: stop, or keep it aside and go on."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", min=1, metavar="N", help="Stop after so many events.")
    ] = None,
    until_type: Annotated[
        str | None, typer.Option("--until-type", metavar="TYPE", help="Stop after an event of this type.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="Stop after so long: 90, 10m, 2h.")
    ] = None,
    idle: Annotated[
        str | None, typer.Option("--idle", metavar="DURATION", help="Stop when nothing came for so long.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Check what goes together, and deliver."""
    if stream is not None and category is not None:
        raise InvalidArgument("STREAM and --category both say which streams; give one of them")
    if stream is not None and not stream.startswith("$"):
        check_stream_name(stream)
    if until_type is not None and type and until_type not in type:
        raise InvalidArgument(
            f"--type leaves out {until_type!r}, which --until-type waits for; add --type {until_type}"
        )
    if exec is None and (retries is not None or on_failure is not None):
        raise InvalidArgument("--retries and --on-failure are about --exec; add it, or leave them out")
    if on_failure == "park" and name is None:
        raise InvalidArgument("--on-failure park keeps events aside under a name; add --name")
    explicit = last is not None or after is not None or since is not None
    moment = _moment(since)
    if name is not None and moment is not None and moment > datetime.now(UTC):
        raise InvalidArgument(
            "--since lies ahead, and --name goes on from what was; give a time that is past"
        )
    timeout_seconds = _seconds(timeout)
    if timeout_seconds == 0:
        raise InvalidArgument("--timeout 0 leaves no time at all; use --idle 0 to take only what is there")
    goal = Goal(count, until_type)
    settings = _Settings(
        wanted=Wanted(stream, category, type or None, moment),
        last=_parse_last(last, whole=name is not None or explicit),
        after=after,
        seen_type=None if explicit or stream is None else until_type,
        name=name,
        follow=follow,
        goal=goal,
        idle_seconds=_seconds(idle),
        exec=exec,
        retries=3 if retries is None else retries,
        parks=on_failure == "park",
    )
    path = options.find_store(ctx, store)
    try:
        with Stops(timeout_seconds) as stops:
            end = _tail(path, settings, stops)
    except Stopped as stopped:
        if stopped.is_timeout:
            raise NotInTime(goal, "--timeout", timeout) from None
        end_by(stopped)
    if end is End.IDLE:
        raise NotInTime(goal, "--idle", idle)
    if end is End.HEAD and until_type is not None:
        raise NotInTime(goal, None, None)


class _Settings(NamedTuple):
    """What the command line says, checked."""

    wanted: Wanted
    last: int | None
    after: int | None
    seen_type: str | None
    name: str | None
    follow: bool
    goal: Goal
    idle_seconds: float | None
    exec: str | None
    retries: int
    parks: bool


def _tail(path: str, settings: _Settings, stops: Stops) -> End:
    wanted, name = settings.wanted, settings.name
    with _open(path, follow=settings.follow) as store:
        if wanted.stream is not None and not settings.follow and not store.has_stream(wanted.stream):
            raise StreamNotFound(wanted.stream)
        begin = 0
        if name is None or not _is_known(store, name):
            begin = find_begin(store, wanted, settings.last, settings.after, settings.seen_type)
        with stops.held:  # what was begun is ended, whatever comes
            subscription = store.subscribe(
                name,
                after=begin,
                stream=wanted.stream,
                category=wanted.category,
                types=wanted.types,
                since=wanted.since if name is None else None,  # it may lie ahead
                follow=settings.follow,
            )
            sink: Sink | None = None
            try:
                with stops.let_through:
                    sink = _make_sink(store, settings, stops, subscription)
                    return deliver(
                        subscription,
                        sink,
                        settings.goal,
                        after_version=0 if wanted.stream is None or name else settings.after or 0,
                        follow=settings.follow,
                        idle_seconds=settings.idle_seconds,
                    )
            finally:
                stops.ignore()
                subscription.close(None if sink is None else sink.undone)


def _make_sink(
    store: evlog.EventStore, settings: _Settings, stops: Stops, subscription: evlog.Subscription
) -> Sink:
    if settings.exec is not None:
        from evlog.cli._support.child import Command, Runner

        command = Command(settings.exec, store.path, stops)
        return Runner(command, subscription, stops, settings.retries, parks=settings.parks)
    if not console.stdout_is_terminal():
        return Printer(None)
    from evlog.cli._support.live import LiveTable

    table = LiveTable(one_stream=settings.wanted.stream is not None)
    return Printer(table, heading_first=settings.follow and subscription.position >= store.head)


def _open(path: str, *, follow: bool) -> evlog.EventStore:
    """Open the store; one that does not exist yet is waited for."""
    try:
        return evlog.open(path)
    except StoreNotFound:
        if not follow:
            raise
    if os.path.lexists(path) and not os.path.isdir(path):
        raise NotAStore(path, "it is no directory")  # and nothing will make it one
    console.note(f"no store at {path} yet; waiting for it")
    evlog.wait_for_store(path)
    return evlog.open(path)


def _is_known(store: evlog.EventStore, name: str) -> bool:
    try:
        store.subscription(name)
    except SubscriptionNotFound:
        return False
    return True


def _parse_last(text: str | None, *, whole: bool) -> int | None:
    """-n as a number, None for all."""
    if text is None:
        return None if whole else _LAST
    if text == "all":
        return None
    if not text.isdecimal():
        raise InvalidArgument(f"-n {text!r} is no number of events; give a whole number, or all")
    return min(int(text), sys.maxsize)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    from evlog.cli._support.when import parse_when

    return parse_when(text)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    from evlog.cli._support.when import parse_duration

    return parse_duration(text)
