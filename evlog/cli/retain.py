"""`evlog retain`: set what is kept of a stream or of a category's streams, or show what is set."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import COUNT, STORE, argument, flag, option
from evlog.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta
    from typing import Final

    import evlog
    from evlog.cli._support.parameters import Given

HELP: Final = """Set what is kept of a stream, or of each stream of a category, or show what is set.

Events that are not kept are hidden at once from every read of the stream; a read of the whole store shows
them until a compaction removes them. Versions continue, and ids stay known. A setting that is not given
stays as it is; a stream's own setting replaces its category's. --clear removes what was set, also a deletion:
events that no compaction has removed are visible again.

With nothing to set, the present rule is printed; without STREAM, all rules. In a pipe each is a line of JSON;
max_age is in seconds.

\b
  evlog retain sensor-7 --max-count 1000
  evlog retain --category session --max-age 30d
  evlog retain order-42 --before 2
  evlog retain order-42 --clear
  evlog retain
"""


PARAMETERS: Final = (
    argument("STREAM", "One stream; it need not exist yet."),
    option("--category", "NAME", "Each stream named NAME or NAME-…."),
    option("--max-count", "N", "Keep the last N events.", COUNT, least=1),
    option("--max-age", "AGE", "Keep younger events: 90s, 15m, 2h, 30d, 8w."),
    option("--before", "VERSION", "Hide the versions below.", COUNT, least=1),
    flag("--clear", "First remove what was set before."),
    STORE,
)


def command(given: Given) -> None:
    """Set what is given, and print the rule that results."""
    stream, category = given.stream, given.category
    if stream is not None and category is not None:
        raise InvalidArgument("STREAM and --category both say which streams", "give one of them")
    settings = {
        "max_count": given.max_count,
        "max_age": None if given.max_age is None else _parse_age(given.max_age),
        "before": given.before,
    }
    wanted = {name: value for name, value in settings.items() if value is not None}
    changes = bool(wanted or given.clear)
    if stream is None and category is None and changes:
        raise InvalidArgument("STREAM is missing", "name a stream, or a category with --category")
    with options.open_store(given) as store:
        if stream is None and category is None:
            _print(store.policies())
            return
        if changes:
            kept = store.set_retention(stream, category=category, clear=given.clear, **wanted)
            options.report_torn_tails(store)
        else:
            kept = store.retention(stream, category=category)
    from evlog import PolicyInfo

    _print([PolicyInfo(stream, category, kept)])


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
            console.note("no rule is set: every event is kept")
        return
    for policy in policies:
        name = {"category": policy.category} if policy.stream is None else {"stream": policy.stream}
        console.write_object(name | as_object(policy.retention))


def as_object(kept: evlog.Retention) -> dict[str, object]:
    """Return a retention rule as it is printed in JSON."""
    return {
        "max_count": kept.max_count,
        "max_age": kept.max_age_seconds,
        "before": kept.before if kept.before > 1 else None,
        "deleted": kept.deleted,
        "tombstone": kept.tombstone,
    }


def describe(kept: evlog.Retention) -> str:
    """Return a retention rule in words, for a cell of a table."""
    if kept.tombstone:
        return "nothing, permanently"
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
    seconds = int(age.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _parse_age(text: str) -> int:
    from evlog.cli._support.when import parse_duration

    seconds = parse_duration(text)
    if seconds < 1 or seconds % 1:
        raise InvalidArgument(
            f"--max-age {text!r} is not in whole seconds", "use an age such as 90s, 15m or 30d"
        )
    return int(seconds)
