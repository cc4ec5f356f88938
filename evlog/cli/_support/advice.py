"""What a user of the command line can do about an error whose own advice is for a Python program."""

from __future__ import annotations

import os

from evlog import errors

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


class StreamNotFound(errors.StreamNotFound):
    """There is no such stream, but there is a category of that name, which the user probably meant."""

    def __init__(self, stream: str, command: str, category: str) -> None:
        super().__init__(stream)
        advice = f"for all streams of the category use `{command} --category {category}`"
        errors.EvlogError.__init__(self, self.problem, advice)


def missing_stream(store: EventStore, stream: str, command: str) -> errors.StreamNotFound:
    """Return the error for a stream that does not exist, with what was probably meant."""
    category = stream.rstrip("*").rstrip("-")
    if category and next(iter(store.streams(category)), None) is not None:
        return StreamNotFound(stream, command, category)
    return errors.StreamNotFound(stream)


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
    elif isinstance(error, errors.SchemaViolation):
        from shlex import quote

        parts[-1] = f"see `evlog schema show {quote(error.type)}`"
    error.args = (f"{problem}; {', or '.join(parts) or 'check its name'}",)
