"""`evlog retain`: set what is kept of a stream or of a category's streams, or show what is set."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import COUNT, LISTED_FIELDS, LISTING, STORE, argument, flag, option
from evlog.errors import InvalidArgument
from evlog.model.events import MAX_VERSION
from evlog.model.policy_changes import MAX_AGE_SECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final

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
    option("--max-count", "N", "Keep the last N events.", COUNT, least=1, most=MAX_VERSION),
    option("--max-age", "AGE", "Keep younger events: 90s, 15m, 2h, 30d, 8w."),
    option("--before", "VERSION", "Hide the versions below.", COUNT, least=1, most=MAX_VERSION),
    flag("--clear", "First remove what was set before."),
    LISTING,
    LISTED_FIELDS,
    STORE,
)
_FIELDS: Final = ("stream", "category", "max_count", "max_age", "before", "deleted", "tombstone")


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
            _print(given, store.policies())
            return
        if changes:
            kept = store.set_retention(stream, category=category, clear=given.clear, **wanted)
            console.set_done("the rule is set")
            options.report_torn_tails(store)
        else:
            kept = store.retention(stream, category=category)
    from evlog import PolicyInfo

    _print(given, [PolicyInfo(stream, category, kept)])


def _print(given: Given, policies: Iterable[evlog.PolicyInfo]) -> None:
    from evlog.cli._support.listing import print_rows

    print_rows(
        given,
        (
            {"category": category} | as_object(kept)
            if stream is None
            else {"stream": stream} | as_object(kept)
            for stream, category, kept in policies
        ),
        _FIELDS,
        known=_FIELDS,
        nothing="no rule is set: every event is kept",
        cells={"max_age": _maybe_age, "deleted": _yes, "tombstone": _yes},
    )


def as_object(kept: evlog.Retention) -> dict[str, object]:
    """Return a retention rule as it is printed in JSON."""
    return {
        "max_count": kept.max_count,
        "max_age": kept.max_age_seconds,
        "before": kept.before if kept.before > 1 else None,
        "deleted": kept.deleted,
        "tombstone": kept.tombstone,
    }


def in_words(rule: dict[str, object] | None) -> str:
    """Return a rule, as `as_object` makes it, for one cell of a table."""
    if rule is None:
        return ""
    shown = rule | {"max_age": _maybe_age(rule["max_age"])}
    words = [name if value is True else f"{name} {value}" for name, value in shown.items() if value]
    return ", ".join(words)


def _yes(value: object) -> str:
    return "yes" if value else ""


def _maybe_age(seconds: Any) -> str:
    if seconds is None:
        return ""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _parse_age(text: str) -> int:
    from evlog.model.when import parse_duration

    seconds = parse_duration(text)
    if seconds < 1 or seconds % 1:
        raise InvalidArgument(
            f"--max-age {text!r} is not a whole number of seconds, at least 1",
            "use an age such as 90s, 15m or 30d",
        )
    if seconds > MAX_AGE_SECONDS:
        raise InvalidArgument(f"--max-age {text!r} is too long", f"use at most {MAX_AGE_SECONDS // 86_400}d")
    return int(seconds)
