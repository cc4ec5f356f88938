"""Typed data: from values that are not plain JSON to JSON, and back. Pure.

dataclass, msgspec.Struct, datetime, UUID, Decimal, Enum   as msgspec has them; a Decimal is a string
pydantic models                                            by their own methods, with aliases

Sets are refused, because their order differs from process to process: a retry would be another event.
"""

from __future__ import annotations

from typing import Any

import msgspec

from evlog.errors import InvalidEvent

_REFUSED = (bytes, bytearray, memoryview, set, frozenset)
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}  # threads share it: each step is one operation


def to_json_value(value: Any) -> Any:
    """Return the JSON value that represents a value. Raises TypeError if there is none."""
    if isinstance(value, _REFUSED):
        raise TypeError(f"Object of type {value.__class__.__name__} is not JSON serializable")
    dump = getattr(value, "model_dump", None)  # pydantic
    if dump is not None:
        return dump(mode="json", by_alias=True)
    return msgspec.to_builtins(value, enc_hook=_refuse_or_dump)


def _refuse_or_dump(value: Any) -> Any:
    if not hasattr(value, "model_dump"):
        raise TypeError(f"Object of type {value.__class__.__name__} is not JSON serializable")
    return to_json_value(value)


def from_json(raw: bytes, kind: Any, position: int) -> Any:
    """Return the value of a type that an event's data hold.

    Raises:
        InvalidEvent: they do not fit the type.
    """
    try:
        validate = getattr(kind, "model_validate_json", None)  # pydantic
        if validate is not None:
            return validate(raw)
        try:
            decoder = _decoders[kind]
        except KeyError:
            decoder = _decoders[kind] = msgspec.json.Decoder(kind)
        return decoder.decode(raw)
    except (ValueError, RecursionError) as error:
        name = getattr(kind, "__name__", str(kind))
        reason = " ".join(str(error).split())
        raise InvalidEvent("data", f"at position {position} do not fit {name}: {reason}") from None
