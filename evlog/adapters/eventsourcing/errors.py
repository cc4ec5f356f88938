"""evlog's errors as the library's, which are those of Python's database interface (PEP 249)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from eventsourcing.persistence import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    PersistenceError,
    ProgrammingError,
)

from evlog import errors

_P = ParamSpec("_P")
_T = TypeVar("_T")

# The first that fits counts.
_KINDS: Final[tuple[tuple[type[errors.EvlogError], type[PersistenceError]], ...]] = (
    (errors.WrongExpectedVersion, IntegrityError),
    (errors.ConditionFailed, IntegrityError),
    (errors.IdConflict, IntegrityError),
    (errors.StreamTombstoned, IntegrityError),
    (errors.InvalidEvent, DataError),
    (errors.InvalidStreamName, DataError),
    (errors.EventTooLarge, DataError),
    (errors.AppendTooLarge, DataError),
    (errors.SchemaViolation, DataError),
    (errors.InvalidArgument, ProgrammingError),
    (errors.CorruptionError, InternalError),
    (errors.StoreClosed, InterfaceError),
    (errors.StoreNotFound, InterfaceError),
    (errors.NotAStore, InterfaceError),
    (errors.UnsupportedFormat, NotSupportedError),
    (errors.Unsupported, NotSupportedError),
    (errors.LockTimeout, OperationalError),
    (errors.StoreFull, OperationalError),
    (errors.StoreIOError, OperationalError),
    (errors.StoreAccessDenied, OperationalError),
    (errors.StoreUnreachable, OperationalError),
    (errors.AppendUnknown, OperationalError),
)


def as_persistence_error(error: errors.EvlogError) -> PersistenceError:
    """Return the library's error for one of evlog's, with its text."""
    kind = next((kind for own, kind in _KINDS if isinstance(error, own)), DatabaseError)
    return kind(str(error))


def translated(call: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return the function, with evlog's errors raised as the library's."""

    @wraps(call)
    def translating(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return call(*args, **kwargs)
        except errors.EvlogError as error:
            raise as_persistence_error(error) from error

    return translating
