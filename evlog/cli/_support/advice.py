"""What a user of the command line can do about an error whose own advice is for a Python program."""

from __future__ import annotations

import os

from evlog import errors
from evlog.model.events import category_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Final

    from evlog.store import EventStore

# Each with the option that it needs, if any.
_ADVICE: Final[dict[type[errors.EvlogError], tuple[tuple[str, str | None], ...]]] = {
    errors.StoreNotFound: (
        ("create it with `evlog init`", "--store"),
        ("name another one with --store", "--store"),
    ),
    errors.StreamNotFound: (("`evlog streams` lists the streams", None),),
    errors.EventNotFound: (("`evlog read` prints the events", None),),
    errors.SnapshotNotFound: (("`evlog snapshots` lists the snapshots, each with the stream to give", None),),
    errors.SubscriptionNotFound: (("`evlog subscriptions list` lists the subscriptions", None),),
    errors.SchemaNotFound: (("`evlog schema list` lists the schemas", None),),
    errors.SchemaViolation: (("correct the data", None), ("see `evlog schema show`", None)),
    errors.LockTimeout: (("try again", None), ("increase --lock-timeout", "--lock-timeout")),
    errors.SubscriptionBehind: (("let it catch up", None), ("use --force", "--force")),
}
_RECENT_EVENTS: Final = 10_000


class StreamNotFound(errors.StreamNotFound):
    """There is no such stream, but there is what the user probably meant."""

    def __init__(self, stream: str, advice: str) -> None:
        super().__init__(stream)
        errors.EvlogError.__init__(self, self.problem, advice)


def missing_stream(store: EventStore, stream: str, command: str) -> errors.StreamNotFound:
    """Return the error for a stream that does not exist, with what was probably meant."""
    from difflib import get_close_matches

    from evlog.cli._support.slips import LEAST_ALIKE

    # A list of all streams would take seconds where there are many.
    recent = {event.stream for event in store.read_all(max(0, store.head - _RECENT_EVENTS))} - {stream}
    category = stream.rstrip("*").rstrip("-")
    if category in map(category_of, recent):
        return StreamNotFound(
            stream, f"for all streams of the category use `{command} --category {category}`"
        )
    # order-43 is not a misspelt order-42.
    alike = sorted(name for name in recent if _digits(name) == _digits(stream))
    close = get_close_matches(stream, alike, n=1, cutoff=LEAST_ALIKE)
    return StreamNotFound(stream, f"did you mean {close[0]!r}?") if close else errors.StreamNotFound(stream)


def _digits(name: str) -> str:
    return "".join(filter(str.isdecimal, name))


def advise(error: errors.EvlogError, flags: Collection[str], *, store: str | None = None) -> None:
    """Give an error the advice for a user of the command that has these options.

    Args:
        store: what --store names.
    """
    advice = _ADVICE.get(type(error))
    if advice is None:
        return
    problem = error.problem
    parts = [text for text, needed in advice if needed is None or needed in flags]
    if isinstance(error, errors.StoreNotFound):
        named = os.environ.get("EVLOG_STORE")
        if named and store is None and error.path.endswith(os.path.normpath(named)):
            problem += ", which EVLOG_STORE names"
        if os.path.isdir(os.path.join(error.path, "segments")):
            problem += ": it has segments and no manifest.json"
            parts = ["run `evlog verify --salvage OUT`", "restore a backup"]
        elif error.was_open:
            return
    elif isinstance(error, errors.SchemaViolation):
        from shlex import quote

        parts[-1] = f"see `evlog schema show {quote(error.type)}`"
    error.args = (f"{problem}; {', or '.join(parts) or 'check its name'}",)
