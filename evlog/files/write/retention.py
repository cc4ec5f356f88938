"""Changing what is kept: a new policy is appended to the metadata stream. Deleting a stream is one of these.

Each change is applied to the policy in force, on condition that the metadata stream has not changed
meanwhile, so that neither of two concurrent changes is lost. If a change has no effect, the present policy is
made durable.
"""

from __future__ import annotations

from evlog.errors import WrongExpectedVersion
from evlog.files.format.hashes import hash_stream
from evlog.files.log.parts import SegmentMoved
from evlog.model.appends import ANY, NO_STREAM, AppendRequest, Expectation
from evlog.model.events import JSON_CODE
from evlog.model.policy_changes import PolicyChange, delete
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


def set_policy(log: Log, writer: Writer, change: PolicyChange) -> None:
    """Set the given parts of a policy.

    Raises:
        What `PolicyChange.apply` raises.
    """

    def version_of(stream: str) -> int:
        return log.find_version(stream, hash_stream(stream))

    name = metadata_stream(stream=change.stream, category=change.category)
    _change_policy(log, writer, name, lambda rule: change.apply(rule, version_of))


def delete_stream(
    log: Log, writer: Writer, stream: str, *, tombstone: bool, expected: ExpectedVersion
) -> int:
    """Delete a stream, and with a tombstone forbid its name; return its last version.

    Raises:
        StreamNotFound: the stream never had an event, and that was not expected.
        WrongExpectedVersion: the stream has another version than expected.
    """
    last_version = 0

    def change(rule: Rule) -> Rule:
        nonlocal last_version
        last_version = log.find_version(stream, hash_stream(stream))
        return delete(rule, stream, last_version, tombstone=tombstone, expected=expected)

    expectations = () if expected == ANY else (Expectation(0, stream, expected),)
    _change_policy(log, writer, metadata_stream(stream=stream), change, expectations)
    return last_version


def _change_policy(
    log: Log,
    writer: Writer,
    name: str,
    change: Callable[[Rule], Rule],
    expectations: Sequence[Expectation] = (),
) -> None:
    """Append the changed policy to the metadata stream; durable when this returns."""
    while True:
        log.look()
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
            writer.append(AppendRequest.own(name, event, (here, *expectations)))
        except WrongExpectedVersion as error:
            if error.stream != name:
                raise
        else:
            return
