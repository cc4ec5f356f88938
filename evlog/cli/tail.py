"""`evlog tail`: the last events, then new ones; on a terminal, in a pipe, or for a command run on each.

Options that exclude each other are refused before the store is opened. One position says where to start, and
one subscription delivers everything from there on. So no event is missed or delivered twice between old and
new ones.
"""

from __future__ import annotations

import os

from evlog.cli._support import console, options
from evlog.cli._support.deliver import HEAD, IDLE, Printer, StopCondition, deliver
from evlog.cli._support.parameters import (
    BOUND,
    DURATION,
    FIELDS,
    FILTER,
    OUTPUT,
    STORE,
    WHEN,
    argument,
    choice,
    flag,
    maybe_number,
    option,
)
from evlog.cli._support.start import start_position
from evlog.cli._support.stops import Stopped, Stops, end_by
from evlog.errors import (
    EXIT_TIMEOUT,
    EvlogError,
    InvalidArgument,
    NotAStore,
    StoreNotFound,
    SubscriptionNotFound,
)
from evlog.model.events import microseconds_of
from evlog.model.filters import EVERYTHING, LogSelection, make_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Final

    import evlog
    from evlog.cli._support.deliver import Sink
    from evlog.cli._support.parameters import Given
    from evlog.model.events import Event

HELP: Final = """Print the last events; with -f also new ones, as soon as they are on disk.

In a pipe every event is one line of JSON, written at once; on a terminal it is a row of a table. With -f a
store or STREAM that does not exist yet is waited for. --count, --until-type and --to say what to wait for:
exit code 0 if it came, 8 if --timeout or --idle ran out first, 1 if the reader of the output left first.
Events that are there already count, however old, unless -n, --after or --since say where to start. A DURATION
is seconds, or a number with s, m, h, d or w.

\b
  evlog tail -n 3
  evlog tail order-42 -f --until-type OrderPaid --timeout 10m
  evlog tail -f --category order | grep -m 1 OrderPaid

With --name the subscription is durable: it continues where the last run of that name stopped. The first run
starts at the first event, or where -n, --after or --since say; later runs ignore these. --exec runs a shell
command on each event, with the event's JSON on stdin and EVLOG_POSITION, EVLOG_STREAM, EVLOG_TYPE,
EVLOG_VERSION and EVLOG_ID in its environment; an `evlog append` in it is linked to the event. Exit code 0
acknowledges the event. After --retries failures the run stops with exit code 1, or with --on-failure park
sets the event aside with the end of the command's stderr; a command that cannot be run at all (126, 127)
always stops the run. After a crash an event can be delivered again, never left out.

With --shard K/N, N consumers share the name by stream: each takes the streams whose hash is its own, in
order, and has its own checkpoint. Another N is refused until all are at the same position.

\b
  evlog tail --name copy --exec 'evlog --store /var/lib/copy append --lines'
  evlog tail --name paid --type OrderPaid --exec 'echo paid: "$EVLOG_STREAM"'
  evlog tail --name mail --shard 2/3 --exec ./send
"""

_LAST: Final = 10
_RETRIES: Final = 3
_LONGEST_SHARD: Final = 20

PARAMETERS: Final = (
    argument("STREAM", "One stream; all if left out."),
    option(
        "-n",
        "N|all",
        f"Start with the last N; default {_LAST}, or all with any of --name, --after, --since, --to, "
        "--count, --until-type and --fail-type.",
        name="last",
    ),
    flag("--follow -f", "Continue with new events."),
    option("--after", "N", "Start after this position (with STREAM: version).", BOUND),
    option("--to", "N", "Stop after this position, matching or not.", BOUND),
    *FILTER,
    option("--until", "WHEN", "Written before then.", WHEN),
    option("--name", "NAME", "A durable subscription: continue where it stopped."),
    option("--shard", "K/N", "With --name: share it by N consumers; this one takes a Kth of the streams."),
    option("--exec", "COMMAND", "Run it on each event, JSON on its stdin.", name="exec"),
    option("--retries", "N", f"Failures of --exec on one event; default {_RETRIES}.", BOUND),
    option("--retry-delay", "DURATION", "Between two tries; else growing pauses, 0.1 s to 10 s.", DURATION),
    option("--exec-timeout", "DURATION", "End --exec after this time: it has failed then.", DURATION),
    choice("--on-failure", "stop|park", "After these: stop, or set the event aside and continue."),
    option("--count", "N", "Stop after N events.", BOUND, least=1),
    option("--until-type", "TYPE", "Stop after an event of this type (repeatable).", many=True),
    option("--fail-type", "TYPE", "Stop with exit code 1 after one of this type (repeatable).", many=True),
    option("--timeout", "DURATION", "Stop after this time: 90, 10m, 2h."),
    option("--idle", "DURATION", "Stop when no event came for this time."),
    OUTPUT,
    FIELDS,
    STORE,
)


class NotInTime(EvlogError):
    """A timeout, or the end of the log, came before the awaited events."""

    exit_code = EXIT_TIMEOUT

    def __init__(self, condition: StopCondition, option: str | None, duration: str | None) -> None:
        if option is None:
            advice = "use -f to wait for it" if condition.to is None else "use -f, or a later --to or --until"
            super().__init__(f"{condition} not found", advice)
        elif not condition:
            super().__init__(f"{option} {duration} ran out", "run it again to continue")
        else:
            super().__init__(
                f"{option} {duration} ran out before {condition} came",
                f"increase {option}, or check the producer",
            )
        self.option = option
        self.duration = duration
        self.until_types = list(condition.until_types)
        self.count = condition.count


class FailTypeCame(EvlogError):
    """An event of a type that --fail-type names came first."""

    def __init__(self, event: Event) -> None:
        super().__init__(
            f"{event.type} came at position {event.position}, in {event.stream!r}",
            f"`evlog show {event.position}` shows it",
        )
        self.position = event.position
        self.stream = event.stream
        self.type = event.type


class ReaderLeft(EvlogError):
    """The reader of stdout left before the awaited events came."""

    def __init__(self, condition: StopCondition) -> None:
        super().__init__(
            f"the reader of the output left before {condition} came",
            "use a reader that reads to the end, or redirect the output to /dev/null",
        )
        self.until_types = list(condition.until_types)
        self.count = condition.count


def command(given: Given) -> None:
    """Check which options go together, deliver the events, and report if the awaited ones did not come."""
    _check(given)
    plan = _Plan(given)
    path = options.find_store(given)
    condition = plan.condition
    try:
        end = _run(path, plan)
    except console.ClosedPipe:
        if condition.until_types or (condition and plan.follow):
            raise ReaderLeft(condition) from None
        raise
    except Stopped:  # the time is over
        raise NotInTime(condition, "--timeout", given.timeout) from None
    if condition.failed_by is not None:
        raise FailTypeCame(condition.failed_by)
    if end is IDLE:
        raise NotInTime(condition, "--idle", given.idle)
    if end is HEAD and condition.until_types:
        raise NotInTime(condition, None, None)


class _Plan:
    """What the command line asks for."""

    def __init__(self, given: Given) -> None:
        self.name: str | None = given.name
        self.shard = _maybe_shard(given.shard)
        content = options.content_of(given)
        self.filter = make_filter(given.stream, given.category, given.type or None, tags=given.tag, **content)
        self.since: datetime | None = given.since
        self.until: datetime | None = given.until
        self.after: int | None = given.after
        self.condition = StopCondition(given.count, given.until_type, given.fail_type, given.to)
        starts = given.after is not None or given.since is not None
        self.last = _parse_last(
            given.last, whole=bool(self.name or starts or self.condition or given.fail_type)
        )
        self.follow: bool = given.follow
        self.timeout_seconds = _maybe_seconds(given.timeout)
        self.idle_seconds = _maybe_seconds(given.idle)
        self.form: str = options.form_of(given)
        self.fields = options.fields_of(given)
        self.exec: str | None = given.exec
        self.retries: int = _RETRIES if given.retries is None else given.retries
        self.retry_delay_seconds: float | None = given.retry_delay
        self.exec_timeout_seconds: float | None = given.exec_timeout
        self.parks = given.on_failure == "park"
        if self.timeout_seconds == 0:
            raise InvalidArgument("--timeout 0 leaves no time", "use --idle 0 to take only what is there")
        if self.exec_timeout_seconds == 0:
            raise InvalidArgument("--exec-timeout 0 leaves no time", "give a longer time, or leave it out")
        if self.name is not None and self.since is not None and self.since > given.now:
            raise InvalidArgument("--since must be in the past when --name is used", "give an earlier time")
        if self.until is not None and self.until > given.now:
            raise InvalidArgument("--until must be in the past", "use --timeout to stop later")


def _check(given: Given) -> None:
    """Refuse options that exclude or need each other."""
    options.check_streams(given)
    if "" in [*given.type, *given.until_type, *given.fail_type]:
        raise InvalidArgument("the type of an event cannot be empty", "give its name")
    for name, types in (("--until-type", given.until_type), ("--fail-type", given.fail_type)):
        left_out = [type for type in types if given.type and type not in given.type]
        if left_out:
            raise InvalidArgument(
                f"--type leaves out {left_out[0]!r}, which {name} waits for", f"add --type {left_out[0]}"
            )
    for_exec = ("retries", "on_failure", "retry_delay", "exec_timeout")
    if given.exec is None and any(getattr(given, name) is not None for name in for_exec):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in for_exec)
        raise InvalidArgument(f"{names} need --exec", "add it, or leave them out")
    if given.to is not None and given.stream is not None:
        raise InvalidArgument("--to is a position of the store", "leave STREAM out, or use --count")
    if given.shard is not None and given.name is None:
        raise InvalidArgument("--shard needs a subscription to share", "add --name")
    if given.on_failure == "park" and given.name is None:
        raise InvalidArgument("--on-failure park needs a subscription to park events in", "add --name")
    if given.exec is not None:
        if given.output is not None or given.fields is not None:
            raise InvalidArgument("--exec gives events to a command", "leave --output and --fields out")
        from evlog.cli._support.exec import check_command

        check_command(given.exec)


def _run(path: str, plan: _Plan) -> str:
    """Deliver what the plan asks for; return why that ended."""
    # A command of --exec writes to stdout itself, so the command, not evlog, notices that the reader has
    # left.
    with Stops(plan.timeout_seconds, watch_reader=plan.exec is None) as stops:
        try:
            opened = _maybe_open(path, plan, stops)
            if opened is None:
                return IDLE
            with opened as store:
                return _deliver(store, path, plan, stops)
        except Stopped as stopped:
            if stopped.is_timeout:
                raise
            end_by(stopped)


def _deliver(store: evlog.EventStore, path: str, plan: _Plan, stops: Stops) -> str:
    name, filter = plan.name, plan.filter
    if filter.stream is not None and not store.has_stream(filter.stream):
        if not plan.follow:
            from evlog.cli._support.advice import missing_stream

            raise missing_stream(store, filter.stream, "evlog tail")
        if console.stderr_is_terminal():
            console.note(f"no stream {filter.stream!r} yet; waiting for it")
    if plan.until is not None:
        plan.condition.to = _last_before(store, plan.until, plan.condition.to)
    start, to = 0, plan.condition.to
    if name is None or not _is_known(store, name):
        start = start_position(
            store, filter, last=plan.last, after=plan.after, to=to, since=plan.since, until=plan.until
        )
    with stops.held:  # so that a subscription that was begun is closed
        subscription = store.subscribe(
            name,
            after=start,
            stream=filter.stream,
            category=filter.category,
            types=filter.types,
            tags=filter.tags,
            metadata=dict(filter.metadata) or None,
            grep=filter.grep or None,
            since=plan.since if name is None else None,  # it can be in the future
            to=to,
            follow=plan.follow,
            shard=plan.shard,
        )
        try:
            with stops.let_through:
                sink = _make_sink(store, path, plan, stops, subscription)
                subscription.hold_at(lambda: sink.undone)
                return deliver(
                    subscription,
                    sink,
                    plan.condition,
                    stops,
                    after_version=0 if filter.stream is None or name else plan.after or 0,
                    follow=plan.follow,
                    idle_seconds=plan.idle_seconds,
                )
        finally:
            stops.ignore()
            subscription.close()


def _last_before(store: evlog.EventStore, until: datetime, to: int | None) -> int:
    """Return the last position up to `to` that was written before a time in the past; 0 if there is none."""
    chosen = EVERYTHING.replace(until_us=microseconds_of(until))
    last = next(store.engine.read_all(LogSelection(0, to, chosen, 1, reverse=True)), None)
    return 0 if last is None else last.position


def _make_sink(
    store: evlog.EventStore, path: str, plan: _Plan, stops: Stops, subscription: evlog.Subscription
) -> Sink:
    if plan.exec is not None:
        from evlog.cli._support.exec import Command, Runner

        command = Command(
            plan.exec,
            options.name_elsewhere(path, store),
            stops,
            keeps_stderr=plan.parks,
            timeout_seconds=plan.exec_timeout_seconds,
        )
        return Runner(
            command,
            subscription,
            stops,
            plan.retries,
            parks=plan.parks,
            delay_seconds=plan.retry_delay_seconds,
        )
    if plan.form == "json" and plan.fields is None:
        return Printer(None)
    from evlog.cli._support.output import make_form

    form = make_form(plan.form, plan.fields, one_stream=plan.filter.stream is not None, live=plan.follow)
    return Printer(form, heading_first=plan.follow and subscription.position >= store.head)


def _maybe_open(path: str, plan: _Plan, stops: Stops) -> evlog.EventStore | None:
    """Open the store; with --follow, wait until it exists, for as long as for an event."""
    from evlog.store import open

    try:
        return open(path)
    except StoreNotFound:
        if not plan.follow or options.is_url(path):
            raise
    if os.path.lexists(path) and not os.path.isdir(path):
        raise NotAStore(path, "not a directory")  # and it will not become one
    console.note(f"no store at {path} yet; waiting for it")
    from evlog import wait_for_store

    stops.waiting = True
    found = wait_for_store(path, plan.idle_seconds)
    stops.waiting = False
    return open(path) if found else None


def _is_known(store: evlog.EventStore, name: str) -> bool:
    try:
        store.subscription(name)
    except SubscriptionNotFound:
        return False
    return True


def _parse_last(text: str | None, *, whole: bool) -> int | None:
    """Return -n as a number; None for all."""
    if text is None:
        return None if whole else _LAST
    if text == "all":
        return None
    number = maybe_number(text, cut=True)
    if number is None:
        raise InvalidArgument(f"invalid value {text!r} for -n", 'use a whole number or "all"')
    return number


def _maybe_shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (text.isascii() and number.isdecimal() and count.isdecimal() and len(text) < _LONGEST_SHARD):
        raise InvalidArgument(f"invalid value {text!r} for --shard", "use for example 1/3, 2/3 and 3/3")
    return int(number), int(count)


def _maybe_seconds(text: str | None) -> float | None:
    if text is None:
        return None
    from evlog.model.when import parse_duration

    return parse_duration(text)
