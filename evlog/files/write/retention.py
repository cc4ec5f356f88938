"""Changing what is kept: a new policy is appended to the metadata stream. Deleting a stream is one of these.

Each change is applied to the policy that is in force, on condition that the metadata stream has not changed
meanwhile: of two concurrent changes neither is lost. A change that would change nothing makes the present
policy durable.
"""

from __future__ import annotations

from evlog.errors import InvalidArgument, StreamNotFound, StreamTombstoned, WrongExpectedVersion
from evlog.files.format.hashes import hash_stream
from evlog.files.log.parts import SegmentMoved
from evlog.model.appends import ANY, NO_STREAM, STREAM_EXISTS, AppendRequest, Expectation
from evlog.model.events import JSON_CODE
from evlog.model.retention import KEEP_ALL, METADATA_TYPE, decode_policy, encode_policy, metadata_stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

    from evlog.files.log.log import Log
    from evlog.files.write.writer import Writer
    from evlog.model.appends import ExpectedVersion
    from evlog.model.events import EncodedEvent
    from evlog.model.retention import Rule

_SECOND_US: Final = 1_000_000


def set_words(
    log: Log,
    writer: Writer,
    stream: str | None,
    category: str | None,
    *,
    max_count: int | None,
    max_age_seconds: int | None,
    before: int | None,
    clear: bool,
) -> None:
    """Set the given words of the policy of a stream or a category; with `clear` forget all others.

    A deletion stays, unless `clear` takes it back.

    Raises:
        StreamTombstoned: the stream has a tombstone.
        InvalidArgument: `before` is beyond the next event of the stream.
    """

    def change(rule: Rule) -> Rule:
        if stream is not None:
            if rule.tombstone:
                raise StreamTombstoned(stream)
            _check_before(log, stream, before)
        rule = KEEP_ALL if clear else rule
        return rule.replace(
            max_count=rule.max_count if max_count is None else max_count,
            max_age_us=rule.max_age_us if max_age_seconds is None else max_age_seconds * _SECOND_US,
            truncate_before=rule.truncate_before if before is None else before,
        )

    _change_policy(log, writer, metadata_stream(stream=stream, category=category), change)


def delete(log: Log, writer: Writer, stream: str, *, tombstone: bool, expected: ExpectedVersion) -> int:
    """Delete a stream, and with a tombstone forbid its name; return its last version.

    Raises:
        StreamNotFound: the stream never had an event, and that was not expected.
        WrongExpectedVersion: the stream has another version than expected.
    """
    last_version = 0

    def change(rule: Rule) -> Rule:
        nonlocal last_version
        last_version = log.find_version(stream, hash_stream(stream))
        if not last_version and not (tombstone and expected == NO_STREAM):
            raise StreamNotFound(stream)
        if rule.is_deleted(last_version):
            _check_deleted(stream, expected, last_version)
            return rule.replace(tombstone=rule.tombstone or tombstone)
        return rule.replace(deleted=last_version, tombstone=tombstone)

    expectations = () if expected == ANY else (Expectation(0, stream, expected),)
    _change_policy(log, writer, metadata_stream(stream=stream), change, expectations)
    return last_version


def _check_deleted(stream: str, expected: ExpectedVersion, last_version: int) -> None:
    """Check what the writer would check, for a deletion that may have nothing to write."""
    if expected == STREAM_EXISTS:
        raise WrongExpectedVersion(stream, expected, 0)
    if expected not in (ANY, NO_STREAM, last_version):
        raise WrongExpectedVersion(stream, expected, last_version)


def _check_before(log: Log, stream: str, before: int | None) -> None:
    if before is None or before == 1:
        return
    last_version = log.find_version(stream, hash_stream(stream))
    if before > last_version + 1:
        raise InvalidArgument(
            f"before is {before}, but the next event of {stream!r} has version {last_version + 1}; "
            f"give at most {last_version + 1}"
        )


def _change_policy(
    log: Log,
    writer: Writer,
    name: str,
    change: Callable[[Rule], Rule],
    expectations: Sequence[Expectation] = (),
) -> None:
    """Append the changed policy to the metadata stream; durable when this returns."""
    while True:
        log.refresh()
        log.raise_damage()
        try:
            record = log.find_last(name, hash_stream(name))
            rule = KEEP_ALL if record is None else decode_policy(record[7])
            changed = change(rule)
        except SegmentMoved:
            continue
        if changed != rule:
            event: EncodedEvent = (METADATA_TYPE, None, JSON_CODE, encode_policy(changed), None)
            here = Expectation(0, name, record[1] if record is not None else NO_STREAM)
        elif record is not None:  # appended again as a duplicate: its writer may not have synced it yet
            event, here = (record[3], record[4], record[6], record[7], record[8]), Expectation(0, name, ANY)
        else:
            return
        try:
            writer.append(AppendRequest([name], [event], (here, *expectations), system=True))
        except WrongExpectedVersion as error:
            if error.stream != name:
                raise
        else:
            return
