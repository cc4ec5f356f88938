"""Folds: how a state follows from events, and how it is kept.

1. A fold takes a state and an event and returns the next state. It does nothing else: it may be called again
   for the same events.
2. A snapshot carries the name and version of its fold. With another one it is rebuilt, so the version changes
   with the function's meaning.
3. A snapshot keeps the state as JSON. `kind` is the type that it is decoded to: a msgspec Struct, a
   dataclass, a pydantic model, or any type that msgspec knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Generic, overload
from zlib import crc32

import msgspec

from evlog.errors import EvlogError, InvalidArgument, InvalidEvent
from evlog.model.arguments import check_ordinary, check_texts
from evlog.model.encoding import dump_json
from evlog.model.events import JSON_CODE, Event

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    S = TypeVar("S", default=Any)  # the type of a state
    _T = TypeVar("_T")
else:
    from typing import TypeVar

    S = TypeVar("S")

Apply = Callable[[Any, Event], Any]

_GIVE_KIND: Final = "give its type, such as Fold(…, kind=dict[int, int])"
_UNTYPED: Final = (None, Any, dict, list)  # the kinds that give back what JSON has


class Fold(Generic[S]):
    """A fold. For type checkers it has the type of its state: `Fold(add, 0)` is a `Fold[int]`.

    Args:
        apply: takes the state and an event, and returns the next state. It may change and return the state
            that it is given.
        initial: the state before the first event: a value, of which each fold gets a copy, or a function
            without arguments, such as a class.
        name: under which snapshots know it; left out, the function's own. One that has none, or depends on
            more than its code (a lambda, a partial, an object, its method, a closure), needs a name for
            snapshots: another one for each meaning.
        version: a number or text, to be changed with the function's meaning: snapshots are then rebuilt.
        kind: the type of the state, if JSON alone does not give it back as it was.
    """

    @overload  # with a variable of its own: for pyright, `self` cannot have that of the class here
    def __init__(
        self: Fold[_T | None],
        apply: Callable[[_T | None, Event], _T | None],
        *,
        name: str | None = None,
        version: int | str = 1,
        kind: Any = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        apply: Callable[[S, Event], S],
        initial: S | Callable[[], S],
        *,
        name: str | None = None,
        version: int | str = 1,
        kind: Any = None,
    ) -> None: ...

    def __init__(
        self,
        apply: Apply,
        initial: Any = None,
        *,
        name: str | None = None,
        version: int | str = 1,
        kind: Any = None,
    ) -> None:
        check_ordinary("the fold", apply)
        check_texts(name=name)
        self.apply = apply
        self.name = name or _name_of(apply)
        self.version = version
        self._initial = initial
        self._kind = kind

    def start(self) -> Any:
        """Return the state before the first event."""
        return self._initial() if callable(self._initial) else deepcopy(self._initial)

    def initial_crc(self) -> int:
        """Return a CRC of the state before the first event; 0 if that is None, or made by a function."""
        initial = self._initial
        return 0 if initial is None or callable(initial) else crc32(self.encode(initial))

    def run(self, state: Any, events: Iterable[Event]) -> tuple[Any, int, Event | None]:
        """Return the state after the events, how many there were, and the last one."""
        apply = self.apply
        count, last = 0, None
        for count, last in enumerate(events, 1):  # noqa: B007 - both are returned
            state = apply(state, last)
        return state, count, last

    def value(self, state: Any) -> Any:
        """Return the state as a user sees it."""
        return state

    def encode(self, state: Any) -> bytes:
        """Return the state as JSON, or raise InvalidArgument."""
        try:
            raw = dump_json(self._plain(state), "state")
            kept = self.decode(raw)
            is_same = self._kind not in _UNTYPED or _is_same(kept, state)
        except RecursionError:
            raise InvalidArgument("the state is nested too deeply") from None
        except InvalidEvent as error:
            hint = _GIVE_KIND if self._kind in _UNTYPED else None
            raise InvalidArgument(f"the state {error.reason}", hint) from None
        except ValueError as error:  # a snapshot that cannot be decoded would be rebuilt each time
            reason = str(error).partition("\n")[0]
            raise InvalidArgument(
                f"the state is not of the kind {self._kind}: {reason}", _GIVE_KIND
            ) from None
        if not is_same:
            raise InvalidArgument(
                "the state is not JSON, in which dates, Decimals and classes do not exist", _GIVE_KIND
            )
        return raw

    def _plain(self, state: Any) -> Any:
        """Return a state of a kind that msgspec knows without its sets, and keys that are not texts."""
        if self._kind in _UNTYPED or hasattr(self._kind, "model_validate_json"):
            return state
        try:
            return msgspec.to_builtins(state, str_keys=True)
        except (TypeError, ValueError):  # something in it is of another library's
            return state

    def decode(self, raw: bytes) -> Any:
        """Return the state that was kept. Raises ValueError if it is not of the fold's kind."""
        if self._kind is None:
            return msgspec.json.decode(raw)
        if hasattr(self._kind, "model_validate_json"):  # pydantic
            return self._kind.model_validate_json(raw)
        return msgspec.json.decode(raw, type=self._kind, dec_hook=_make)

    def check_named(self) -> None:
        """Raise InvalidArgument if snapshots could not tell the fold from another one."""
        if not self.name:
            raise InvalidArgument(
                "a snapshot needs to know its fold, and this one could be taken for another",
                "give Fold(…, name=…), with another name for each meaning",
            )


def _name_of(apply: Apply) -> str:
    """Return a function's own name; nothing if another fold with another meaning may have the same one."""
    name = getattr(apply, "__qualname__", "<lambda>")
    owner = getattr(apply, "__self__", None)
    is_method = not (owner is None or isinstance(owner, type | ModuleType))
    if "<lambda>" in name or is_method or getattr(apply, "__closure__", None):
        return ""
    return f"{apply.__module__}.{name}"


def _make(kind: Any, value: Any) -> Any:
    """Return a value of a type that msgspec does not know, such as a Counter."""
    return kind(value)


def _is_same(kept: Any, state: Any) -> bool:
    """Return whether a fold can go on with the state that was kept; a list will do for a tuple.

    A named tuple, a Counter or an enum's member is equal to what JSON makes of it, but cannot do the same.
    """
    kind = state.__class__
    if kind is dict is kept.__class__ and kept.keys() == state.keys():
        return all(map(_is_same, map(kept.__getitem__, state), state.values()))
    if kept.__class__ is list and (kind is list or kind is tuple):
        return all(map(_is_same, kept, state))
    return kept.__class__ is kind and bool(kept == state)


# --- the default

Tree = Any
"""JSON as far as it was parsed: an object that was merged into is a dict, any other value is raw JSON."""

_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NULL: Final = b"null"
_TOO_DEEP: Final = "use another fold than the default"


class Merge(Fold):
    """Merges the data of events into one object, as JSON Merge Patch (RFC 7396) says.

    A member that is null is removed; objects are merged, any other value replaces. Text and binary data
    change nothing. Numbers stay as they were written.
    """

    def __init__(self) -> None:
        super().__init__(_merge_event, name="merge")

    def value(self, state: Tree) -> Any:
        """Return the state as Python values."""
        import json

        try:
            return None if state is None else json.loads(self.encode(state))
        except (ValueError, RecursionError) as error:
            raise EvlogError(f"the state is JSON that Python cannot hold: {error}", _TOO_DEEP) from None

    def encode(self, state: Tree) -> bytes:
        """Return the state as JSON."""
        try:
            return msgspec.json.encode(state)
        except RecursionError:
            raise EvlogError("the state is nested too deeply", _TOO_DEEP) from None

    def decode(self, raw: bytes) -> Tree:
        """Return the state that was kept."""
        return None if raw == _NULL else msgspec.Raw(raw)


def _merge_event(state: Tree, event: Event) -> Tree:
    if event[6] != JSON_CODE:
        return state
    try:
        return _merged(state, event[7].strip())
    except RecursionError:
        raise EvlogError(
            f"the data of the event at position {event[0]} is nested too deeply to be merged", _TOO_DEEP
        ) from None


def _merged(target: Tree, patch: bytes) -> Tree:
    """Return the target after a patch, which is raw JSON."""
    if not patch.startswith(b"{"):
        return None if patch == _NULL else msgspec.Raw(patch)
    if not isinstance(target, dict):
        raw = bytes(target) if target is not None else b""
        target = _decode_object(raw) if raw.startswith(b"{") else {}
    for name, value in _decode_object(patch).items():
        raw = bytes(value)
        if raw == _NULL:
            target.pop(name, None)
        elif raw.startswith(b"{"):
            target[name] = _merged(target.get(name), raw)
        else:
            target[name] = value
    return target


MERGE: Final = Merge()


def as_fold(fold: Fold | Apply | None, initial: Any) -> Fold:
    """Return a fold, also of a function; None: the default."""
    if isinstance(fold, Fold):
        if initial is not None:
            raise InvalidArgument(
                "initial is given together with a Fold, which has its own; give one of them"
            )
        return fold
    if fold is None:
        if initial is not None:
            raise InvalidArgument("initial is given without a fold; give both")
        return MERGE
    if not callable(fold):
        raise InvalidArgument(f"invalid fold {fold!r:.80}; give a function of a state and an event")
    return Fold(fold, initial)
