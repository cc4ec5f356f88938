"""Changes of retention policies: what is asked for, whether it makes sense, and what the policy is then."""

from __future__ import annotations

from evlog.errors import InvalidArgument, StreamNotFound, StreamTombstoned, WrongExpectedVersion
from evlog.model.appends import ANY, NO_STREAM, STREAM_EXISTS
from evlog.model.arguments import maybe_whole
from evlog.model.events import MAX_VERSION, check_stream_name
from evlog.model.filters import check_category
from evlog.model.named import NamedTuple
from evlog.model.retention import KEEP_ALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from typing import Final

    from evlog.model.appends import ExpectedVersion
    from evlog.model.retention import Rule

_SECOND_US: Final = 1_000_000
MAX_AGE_SECONDS: Final = 1 << 40  # beyond any clock, and what JSON numbers hold


class PolicyChange(NamedTuple):
    """What `Engine.set_retention` is asked for: the given parts of one policy are set.

    With `clear` the policy is what is given here and nothing else: a deletion is taken back, too.
    """

    stream: str | None  # either a stream or a category
    category: str | None
    max_count: int | None = None
    max_age_seconds: int | None = None
    before: int | None = None  # of a stream: the first version that stays
    clear: bool = False

    def apply(self, rule: Rule, last_version_of: Callable[[str], int]) -> Rule:
        """Return a policy with this change.

        Raises:
            StreamTombstoned: the stream has a tombstone.
            InvalidArgument: `before` is beyond the next event of the stream.
        """
        stream, _, max_count, max_age_seconds, before, clear = self
        if stream is not None:
            if rule.tombstone:
                raise StreamTombstoned(stream)
            if before is not None and before > 1 and before > (following := last_version_of(stream) + 1):
                raise InvalidArgument(
                    f"cannot hide what is before version {before} of {stream!r}, whose next event has "
                    f"version {following}; give at most {following}"
                )
        rule = KEEP_ALL if clear else rule
        return rule.replace(
            max_count=rule.max_count if max_count is None else max_count,
            max_age_us=rule.max_age_us if max_age_seconds is None else max_age_seconds * _SECOND_US,
            truncate_before=rule.truncate_before if before is None else before,
        )


def delete(rule: Rule, stream: str, last_version: int, *, tombstone: bool, expected: ExpectedVersion) -> Rule:
    """Return the policy of a stream with a deletion.

    Raises:
        StreamNotFound: the stream never had an event, and that was not expected.
        WrongExpectedVersion: the stream is deleted already, and was expected at another version. A deletion
            that has something to write is appended with what is expected.
    """
    if not last_version and not (tombstone and expected == NO_STREAM):
        raise StreamNotFound(stream)
    if not rule.is_deleted(last_version):
        return rule.replace(deleted=last_version, tombstone=tombstone)
    if expected == STREAM_EXISTS:
        raise WrongExpectedVersion(stream, expected, 0)
    if expected not in (ANY, NO_STREAM, last_version):
        raise WrongExpectedVersion(stream, expected, last_version)
    return rule.replace(tombstone=rule.tombstone or tombstone)


def check_target(stream: str | None, category: str | None) -> None:
    """Raise InvalidArgument unless one stream or one category is given, with a valid name."""
    if (stream is None) == (category is None):
        raise InvalidArgument("give either a stream or a category")
    if stream is not None:
        check_stream_name(stream)
    else:
        check_stream_name(category or "")
        check_category(category)


def check_change(
    stream: str | None,
    category: str | None,
    max_count: int | None,
    max_age: timedelta | int | None,
    before: int | None,
    *,
    clear: bool,
) -> PolicyChange:
    """Return the change that a user asks for, or raise InvalidArgument that says what is wrong with it."""
    check_target(stream, category)
    for name, value in (("max_count", max_count), ("before", before)):
        if value is not None and not 1 <= _whole(value) <= MAX_VERSION:
            raise InvalidArgument(f"{name} is {value!r}; give a whole number from 1 to {MAX_VERSION}")
    seconds = None if max_age is None else _whole(max_age)
    if max_age is not None and not isinstance(max_age, int):
        from datetime import timedelta

        if isinstance(max_age, timedelta) and not max_age.microseconds:
            seconds = max_age // timedelta(seconds=1)
    if seconds is not None and not 1 <= seconds <= MAX_AGE_SECONDS:
        raise InvalidArgument(
            f"max_age is {max_age!r}; give whole seconds from 1 to {MAX_AGE_SECONDS}, or a timedelta of them"
        )
    if (max_count, seconds, before) == (None, None, None) and not clear:
        raise InvalidArgument("nothing is set; give max_count, max_age, before or clear")
    if category is not None and before is not None:
        raise InvalidArgument("a category has no versions to hide; limit its streams by count or by age")
    return PolicyChange(stream, category, maybe_whole(max_count), seconds, maybe_whole(before), clear)


def _whole(value: object) -> int:
    """Return a whole number as an int, 0 for anything else: no setting is 0."""
    return 0 if isinstance(value, bool) else maybe_whole(value) or 0
