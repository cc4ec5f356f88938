"""Errors carry data: attributes by name, one exit code each, one line of text."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import Any

import pytest

import evlog
from evlog import errors
from evlog.errors import EvlogError
from tests.support.programs import run_python

SAMPLES: list[tuple[EvlogError, int, dict[str, Any]]] = [
    (errors.InvalidArgument("m"), 2, {}),
    (errors.InvalidStreamName("$x", "is reserved"), 2, {"stream": "$x", "reason": "is reserved"}),
    (errors.InvalidEvent("data", "is bad"), 2, {"field": "data", "reason": "is bad"}),
    (errors.EventTooLarge(17, 16), 2, {"size_bytes": 17, "limit_bytes": 16}),
    (errors.AppendTooLarge(17, 16), 2, {"size_bytes": 17, "limit_bytes": 16}),
    (errors.InvalidSchema("T", "/a", "r"), 2, {"type": "T", "pointer": "/a", "reason": "r"}),
    (
        errors.SchemaViolation("T", 2, "/a", "r", 0),
        2,
        {"type": "T", "version": 2, "pointer": "/a", "reason": "r", "index": 0},
    ),
    (errors.WrongExpectedVersion("s", 2, 3), 3, {"stream": "s", "expected": 2, "actual": 3}),
    (errors.WrongExpectedVersion("s", "exists", 0), 3, {"stream": "s", "expected": "exists", "actual": 0}),
    (errors.ConditionFailed("tag=a", 2, 3), 3, {"query": "tag=a", "after": 2, "position": 3}),
    (errors.StreamTombstoned("s"), 3, {"stream": "s"}),
    (
        errors.IdConflict("i", "s", 4, "r"),
        7,
        {"id": "i", "stream": "s", "position": 4, "reason": "r", "key": None},
    ),
    (
        errors.IdConflict("i", "s", 4, "r", "k"),
        7,
        {"id": "i", "stream": "s", "position": 4, "reason": "r", "key": "k"},
    ),
    (errors.CorruptionError("p", 9, "d", 3), 4, {"path": "p", "offset": 9, "position": 3, "detail": "d"}),
    (
        errors.CorruptionError("p", None, "d"),
        4,
        {"path": "p", "offset": None, "position": None, "detail": "d"},
    ),
    (errors.UnsafeFile("p", "d"), 4, {"path": "p", "offset": None, "position": None, "detail": "d"}),
    (errors.StoreNotFound("p"), 5, {"path": "p", "was_open": False}),
    (errors.StoreNotFound("p", was_open=True), 5, {"path": "p", "was_open": True}),
    (errors.NotAStore("p", "r"), 5, {"path": "p", "reason": "r"}),
    (errors.StoreReplaced("p"), 5, {"path": "p"}),
    (errors.ClockError(-5), 1, {"time_us": -5}),
    (errors.StreamNotFound("s"), 5, {"stream": "s"}),
    (errors.EventNotFound(17), 5, {"event": 17, "removed": False}),
    (errors.EventNotFound("i", removed=True), 5, {"event": "i", "removed": True}),
    (errors.SnapshotNotFound("n"), 5, {"name": "n", "stream": None}),
    (errors.SnapshotNotFound("n", "s"), 5, {"name": "n", "stream": "s"}),
    (errors.SubscriptionNotFound("n"), 5, {"name": "n"}),
    (errors.SchemaNotFound("T"), 5, {"type": "T", "version": None}),
    (errors.SchemaNotFound("T", 3), 5, {"type": "T", "version": 3}),
    (errors.SubscriptionBusy("n"), 6, {"name": "n", "holder": None}),
    (errors.ShardsApart("n", {"n#1/2": 3}), 3, {"name": "n", "positions": {"n#1/2": 3}}),
    (errors.LockTimeout("p", 1.5), 6, {"path": "p", "timeout_seconds": 1.5}),
    (errors.LockLost("p"), 6, {"path": "p"}),
    (errors.CompactionRunning("p"), 6, {"path": "p", "holder": None}),
    (errors.StoreBusy("p"), 6, {"path": "p"}),
    (
        errors.SubscriptionBehind("n", 3, 9),
        3,
        {"subscription": "n", "checkpoint": 3, "position": 9},
    ),
    (errors.SubscriptionAhead("n", 9, 3), 4, {"subscription": "n", "checkpoint": 9, "head": 3}),
    (errors.StoreFull("p", "r"), 9, {"path": "p", "reason": "r"}),
    (errors.StoreAccessDenied("p", "r"), 1, {"path": "p", "reason": "r"}),
    (errors.StoreIOError("p", "r"), 1, {"path": "p", "reason": "r"}),
    (errors.SystemCallFailed("p", "r", "a"), 1, {"path": "p", "reason": "r"}),
    (errors.StoreClosed("p"), 1, {"path": "p"}),
    (errors.UnsupportedFormat("p", 2, 1), 10, {"path": "p", "found": 2, "supported": 1}),
    (errors.Unsupported("e", "o"), 10, {"engine": "e", "operation": "o"}),
    (
        errors.StoreIsMirror("p", "i", is_unfinished_fork=True),
        10,
        {"path": "p", "mirror_of": "i", "is_unfinished_fork": True, "is_import": False},
    ),
    (errors.StoreMoved("p", "a"), 10, {"path": "p", "moved_to": "a"}),
    (errors.StoreDiverged("copy", "store", 7), 3, {"path": "copy", "source": "store", "position": 7}),
    (errors.MirrorConflict("s", "d", "r", "a"), 3, {"source": "s", "destination": "d", "reason": "r"}),
    (errors.TooManyEvents(50, "49 events"), 2, {"events": 50, "limit": "49 events"}),
    (errors.MirrorLimit(3, "w", "9 events"), 2, {"position": 3, "limit": "9 events"}),
    (errors.MirrorBusy("d"), 6, {"destination": "d"}),
    (errors.ExtraNotInstalled("c", "l", "x"), 10, {"needed_by": "c", "library": "l", "extra": "x"}),
    (errors.ServerUnsuitable("u", "r", "a"), 10, {"address": "u", "reason": "r"}),
    (errors.StoreUnreachable("u", "r"), 12, {"address": "u", "reason": "r"}),
    (errors.StoreThrottled("u", "r"), 6, {"address": "u", "reason": "r"}),
    (errors.AppendUnknown("u", "r"), 12, {"address": "u", "reason": "r"}),
    (errors.EngineError("u", "r"), 1, {"address": "u", "reason": "r"}),
]
CLASSES = {thing for _, thing in inspect.getmembers(errors, inspect.isclass) if issubclass(thing, EvlogError)}


def test_every_error_has_a_sample_here() -> None:
    assert {type(error) for error, _, _ in SAMPLES} == CLASSES - {EvlogError}


def test_every_error_is_public() -> None:
    assert {getattr(evlog, thing.__name__) for thing in CLASSES} == CLASSES


@pytest.mark.parametrize(("error", "exit_code", "attributes"), SAMPLES, ids=repr)
def test_error_has_its_exit_code_and_attributes(
    error: EvlogError, exit_code: int, attributes: dict[str, Any]
) -> None:
    assert error.exit_code == exit_code
    assert error.attributes() == attributes
    for name, value in attributes.items():
        assert getattr(error, name) == value


@pytest.mark.parametrize("error", [error for error, _, _ in SAMPLES[1:]], ids=repr)
def test_message_is_one_line_that_says_what_to_do(error: EvlogError) -> None:
    text = str(error)
    assert "\n" not in text
    assert not text.endswith(".")
    if type(error) is not errors.InvalidEvent:  # whose reason says it
        assert re.search(r"; \S+", text)


def test_long_and_hostile_names_are_shortened_and_escaped() -> None:
    for name in ("x" * 100_000, "a\nb\x1b[31m", "\ud800", "\u2028"):
        for error in (
            errors.InvalidStreamName(name, "is bad"),
            errors.WrongExpectedVersion(name, 1, 2),
            errors.StreamNotFound(name),
            errors.StreamTombstoned(name),
        ):
            assert len(str(error)) < 250
            assert str(error).isprintable()
            assert error.attributes()["stream"] == name


def test_wrong_expected_version_calls_version_zero_none() -> None:
    assert "expected none" in str(errors.WrongExpectedVersion("s", 0, 3))


def test_bad_arguments_are_value_errors() -> None:
    assert issubclass(errors.InvalidArgument, ValueError)


def test_private_attributes_stay_private() -> None:
    error = errors.StoreReplaced("p")
    vars(error)["_note"] = 1
    assert error.attributes() == {"path": "p"}


@pytest.mark.parametrize("error", [error for error, _, _ in SAMPLES], ids=repr)
def test_an_error_passes_between_processes_as_it_is(error: EvlogError) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert (type(again), str(again), again.args) == (type(error), str(error), error.args)
        assert again.attributes() == error.attributes()
        assert again.exit_code == error.exit_code


def test_importing_evlog_alone_gives_its_errors() -> None:
    code = "import evlog; print(evlog.errors.StoreFull is evlog.StoreFull)"
    assert run_python("-c", code).stdout == "True\n"
