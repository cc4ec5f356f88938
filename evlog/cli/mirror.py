"""`evlog mirror`: copy a store into another one, on any two engines, exactly once."""

from __future__ import annotations

import os

from evlog.cli._support import console, options
from evlog.cli._support.parameters import PATH, argument, flag
from evlog.cli._support.progress import with_progress
from evlog.errors import EXIT_OK, InvalidArgument, StoreNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from evlog.cli._support.parameters import Given
    from evlog.engine import Progress
    from evlog.store import EventStore
    from evlog.transfer.compare import Comparison
    from evlog.transfer.mirrors import Mirror, MirrorPlan, MirrorResult

HELP: Final = """Copy a store into another one, on any two engines, exactly once.

SOURCE and DESTINATION are directories, or URLs such as postgresql://db.example/shop. DESTINATION is created,
or was made by an earlier run of the same mirror, which this one continues: kill it at any time, and run it
again. Events keep their ids, versions, positions and times; policies, named subscriptions and the ids of
removed events are copied, too. Until --cutover nothing else can be written to DESTINATION. A destination that
holds other events is refused (exit code 3); --merge appends to it instead. In a pipe the result is one JSON
object.

\b
  evlog mirror .evlog /var/lib/copy
  evlog mirror .evlog /var/lib/copy --check
  evlog mirror .evlog /var/lib/copy --cutover

--check copies nothing. It reads both stores and names the first difference (exit code 4). --cutover moves to
DESTINATION for good: it ends the appends to SOURCE, whose later writers are told the new address, copies the
rest, and opens DESTINATION. Where SOURCE is lost, --promote makes its mirror an ordinary store:

\b
  evlog mirror orders backup && evlog mirror --promote backup
"""

PARAMETERS: Final = (
    argument("SOURCE", "The store to copy: a directory or a URL.", PATH, required=True),
    argument("DESTINATION", "Where to: a directory or a URL.", PATH),
    flag("--follow -f", "Continue with new events until a signal comes."),
    flag("--merge", "Append to the events that are there; known ids are skipped."),
    flag("--dry-run", "Only print what would be copied."),
    flag("--check", "Only compare both stores, event by event."),
    flag("--cutover", "Copy the rest, and move to DESTINATION for good."),
    flag("--promote", "Let the mirror SOURCE take appends, without its own source."),
)
NO_STORE: Final = "name both stores as arguments"


def command(given: Given) -> int:
    """Copy, compare or promote, and print what was done."""
    _check(given)
    source = _name(given.source)
    if given.promote:
        return _promote(source)
    from evlog.cli._support.stops import Stopped, Stops, end_by
    from evlog.store import open
    from evlog.transfer import Mirror

    if given.dry_run:
        return _plan(given, source)
    stopped = None
    with open(source) as one, open(_name(given.destination), create=not given.check) as other:
        mirror = Mirror(one, other, merge=given.merge)
        try:
            with Stops(watch_reader=False):
                if given.check:
                    return _print_comparison(with_progress(mirror.check, counts_bytes=False), one, other)
                with_progress(lambda progress: _copy(mirror, progress, given), counts_bytes=False)
        except Stopped as stop:
            stopped = stop
            if given.check:
                end_by(stopped)
        _print_result(mirror.result, one, other, moved=given.cutover and stopped is None)
    if stopped is not None:
        end_by(stopped)
    return EXIT_OK


def _check(given: Given) -> None:
    """Refuse options that exclude or need each other."""
    chosen = [
        f"--{name.replace('_', '-')}"
        for name in ("follow", "dry_run", "check", "cutover", "promote")
        if getattr(given, name)
    ]
    if len(chosen) > 1 and chosen != ["--follow", "--cutover"]:
        raise InvalidArgument(f"{' and '.join(chosen)} exclude each other", "give one of them")
    if chosen == ["--follow", "--cutover"]:
        raise InvalidArgument(
            "--follow ends only by a signal", "end it, then run the mirror again with --cutover"
        )
    if given.merge and (given.cutover or given.promote):
        raise InvalidArgument(f"--merge and {chosen[0]} exclude each other", "give one of them")
    if given.promote and given.destination is not None:
        raise InvalidArgument("--promote takes one store, the mirror", "leave the other one out")
    if not given.promote and given.destination is None:
        raise InvalidArgument("DESTINATION is missing", "give a directory or a URL to copy to")


def _name(path: str) -> str:
    """Return the path or URL of a store; a `.evlog` file holds its URL."""
    if not path:
        raise InvalidArgument("the name of a store is empty", "give a directory or a URL")
    return options.url_in(path) if not options.is_url(path) and os.path.isfile(path) else path


def _plan(given: Given, source: str) -> int:
    from evlog.store import open
    from evlog.transfer import plan_mirror

    with open(source) as one:
        try:
            other = open(_name(given.destination))
        except StoreNotFound as missing:
            return _print_plan(plan_mirror(one, None, merge=given.merge), one.path, missing.path)
        with other:
            return _print_plan(plan_mirror(one, other, merge=given.merge), one.path, other.path)


def _copy(mirror: Mirror, progress: Progress | None, given: Given) -> MirrorResult:
    with mirror:
        if given.cutover:
            return mirror.cut_over(progress)
        if not given.follow:
            return mirror.copy(progress)

        def show(done: int, total: int) -> None:
            if progress is not None:
                progress(done, total)
                if done >= total:
                    position = f"{mirror.result.position:,}"
                    console.show_status(f"copied up to position {position}; waiting, Ctrl-C ends it")

        return mirror.follow(show)


def _promote(path: str) -> int:
    from evlog.store import open
    from evlog.transfer import promote

    with open(path) as store:
        promote(store)
        as_object = {"store": store.path, "promoted": True}
        console.write_result(as_object, f"{store.path} takes appends now", done="the mirror is a store now")
    return EXIT_OK


# --- what is printed


def _print_plan(plan: MirrorPlan, source: str, destination: str) -> int:
    events, ids = console.count_of(plan.events, "event"), console.count_of(plan.removed, "id")
    subscriptions = console.count_of(plan.subscriptions, "subscription")
    lines = [
        f"would copy {events} after position {plan.after:,}, up to {plan.position:,}",
        f"{ids} of removed events, {subscriptions}",
    ]
    both = {"source": source, "destination": destination}
    console.write_result(both | plan._asdict() | {"dry_run": True}, *lines)
    return EXIT_OK


def _print_comparison(found: Comparison, source: EventStore, destination: EventStore) -> int:
    difference = found.difference
    numbers = found._asdict() | {"difference": None if difference is None else difference._asdict()}
    lines = [f"{console.count_of(found.events, 'event')} are the same, up to position {found.position:,}"]
    if difference is not None:
        lines = [f"different at position {difference.position:,}: {difference.detail}"]
    if found.removed_since:
        lines.append(f"{console.count_of(found.removed_since, 'event')} were removed at the source since")
    if found.behind:
        lines.append(f"{console.count_of(found.behind, 'position')} are not copied yet")
    said = "the stores are the same" if found.ok else "the stores differ"
    as_object = {"ok": found.ok} | _both(source, destination) | numbers
    return console.write_verdict(found.ok, as_object, *lines, done=said)


def _print_result(done: MirrorResult, source: EventStore, destination: EventStore, *, moved: bool) -> None:
    lines = [f"{console.count_of(done.events, 'event')} copied, up to position {done.position:,}"]
    if done.duplicates:
        lines.append(f"{console.count_of(done.duplicates, 'event')} were there already")
    if done.removed:
        lines.append(f"{console.count_of(done.removed, 'id')} of removed events copied")
    if done.subscriptions:
        lines.append(f"{console.count_of(done.subscriptions, 'subscription')} copied")
    if done.lost:
        lines.append(
            f"{console.count_of(done.lost, 'position')} lost at the source: run `evlog verify` there"
        )
    if moved:
        lines.append(f"moved: {destination.path} takes appends now, and {source.path} none any more")
    as_object = _both(source, destination) | done._asdict() | {"moved": moved}
    console.write_result(as_object, *lines, done="the events are copied")


def _both(source: EventStore, destination: EventStore) -> dict[str, Any]:
    return {"source": source.path, "destination": destination.path}
