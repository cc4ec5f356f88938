"""`evlog retain`: what is kept of a stream or of a category's streams; with nothing to set, what is set."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Any, Final

import typer

import evlog
from evlog.cli._support import console, options
from evlog.cli._support.options import StoreOption
from evlog.errors import InvalidArgument

HELP: Final = """Say what is kept of a stream, or of each stream of a category, or show what is said.

What is not kept is hidden at once from everyone who reads the stream; a read of the whole store shows it
until a compaction removes it. Versions go on, and ids stay taken. A setting that is not given stays as it is;
a stream's own setting goes before its category's. --clear takes back what was set, also a deletion: what no
compaction has removed is visible again.

With nothing to set, what is in force is printed; with no STREAM either, everything that was ever set. In a
pipe each is a line of JSON; max_age is in seconds.

\b
  evlog retain sensor-7 --max-count 1000
  evlog retain --category session --max-age 30d
  evlog retain order-42 --before 2
  evlog retain order-42 --clear
  evlog retain
"""


def command(
    ctx: typer.Context,
    stream: Annotated[
        str | None, typer.Argument(metavar="STREAM", help="One stream; it need not exist yet.")
    ] = None,
    category: Annotated[
        str | None, typer.Option("--category", metavar="NAME", help="Each stream named NAME or NAME-….")
    ] = None,
    max_count: Annotated[
        int | None, typer.Option("--max-count", min=1, metavar="N", help="Keep the last N events.")
    ] = None,
    max_age: Annotated[
        str | None,
        typer.Option("--max-age", metavar="AGE", help="Keep what is younger: 90s, 15m, 2h, 30d, 8w."),
    ] = None,
    before: Annotated[
        int | None, typer.Option("--before", min=1, metavar="VERSION", help="Hide the versions below.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="First take back what was set before.")] = False,
    store: StoreOption = None,
) -> None:
    """Set what is given, and print what is in force then."""
    if stream is not None and category is not None:
        raise InvalidArgument("STREAM and --category both say which streams; give one of them")
    settings: dict[str, Any] = {
        "max_count": max_count,
        "max_age": None if max_age is None else _parse_age(max_age),
        "before": before,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    if stream is None and category is None and (given or clear):
        raise InvalidArgument("STREAM is missing; name a stream, or a category with --category")
    with options.open_store(ctx, store) as opened:
        if stream is None and category is None:
            policies = opened.policies()
        elif given or clear:
            kept = opened.set_retention(stream, category=category, clear=clear, **given)
            policies = [evlog.PolicyInfo(stream, category, kept)]
            options.report_torn_tails(opened)
        else:
            policies = [
                evlog.PolicyInfo(stream, category, opened.retention(stream, category=category)),
            ]
    _print(policies)


def _print(policies: Iterable[evlog.PolicyInfo]) -> None:
    if console.stdout_is_terminal():
        from evlog.cli._support.output import draw_table

        rows = [
            (policy.stream or f"category {policy.category}", describe(policy.retention))
            for policy in policies
        ]
        for chunk in draw_table(("stream", "kept"), rows):
            console.write(chunk)
        if not rows:
            console.note("nothing is set: every event is kept")
        return
    for policy in policies:
        name = {"category": policy.category} if policy.stream is None else {"stream": policy.stream}
        console.write_object(name | as_object(policy.retention))


def as_object(kept: evlog.Retention) -> dict[str, object]:
    """A retention as it comes out in JSON."""
    return {
        "max_count": kept.max_count,
        "max_age": kept.max_age_seconds,
        "before": kept.before if kept.before > 1 else None,
        "deleted": kept.deleted,
        "tombstone": kept.tombstone,
    }


def describe(kept: evlog.Retention) -> str:
    """A retention in words, for a cell of a table."""
    if kept.tombstone:
        return "nothing, for ever"
    words = []
    if kept.deleted:
        words.append("deleted")
    elif kept.before > 1:
        words.append(f"from version {kept.before}")
    if kept.max_count is not None:
        words.append(f"the last {kept.max_count}")
    if kept.max_age is not None:
        words.append(_in_words(kept.max_age))
    return ", ".join(words) or "everything"


def _in_words(age: timedelta) -> str:
    seconds = age // timedelta(seconds=1)
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _parse_age(text: str) -> int:
    from evlog.cli._support.when import parse_duration

    seconds = parse_duration(text)
    if seconds < 1 or seconds % 1:
        raise InvalidArgument(
            f"--max-age {text!r} is not in whole seconds; give an age such as 90s, 15m or 30d"
        )
    return int(seconds)
