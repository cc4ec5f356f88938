"""What a user of the command line can do about an error whose own advice is for a Python program."""

from __future__ import annotations

from evlog import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.store import EventStore

_ADVICE: Final[dict[type[errors.EvlogError], str]] = {
    errors.StoreNotFound: "create it with `evlog init`, or name another one with --store",
    errors.StreamNotFound: "`evlog streams` lists the streams",
    errors.EventNotFound: "`evlog read` prints the events",
    errors.SnapshotNotFound: "`evlog snapshots` lists the snapshots",
    errors.SubscriptionNotFound: "`evlog subscriptions list` lists the subscriptions",
    errors.SchemaNotFound: "`evlog schema list` lists the schemas",
    errors.SchemaViolation: "correct the data, or see `evlog schema show`",
    errors.LockTimeout: "try again, or increase --lock-timeout",
    errors.SubscriptionBehind: "let it catch up, or use --force",
}


class StreamNotFound(errors.StreamNotFound):
    """There is no such stream, but a category of that name: which is what was meant."""

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


def message_of(error: errors.EvlogError) -> str:
    """Return the error's message with advice for the command line."""
    advice = _ADVICE.get(type(error))
    return str(error) if advice is None else f"{error.problem}; {advice}"
