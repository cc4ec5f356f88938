"""Typed data: from values that are not plain JSON to JSON, and back. Pure.

dataclass, msgspec.Struct, datetime, UUID, Decimal, Enum   as msgspec has them; a Decimal is a string
pydantic models                                            by their own methods, with aliases

1. `from_json` with the same type gives the value back: keys that are numbers or dates are texts in between,
   and bytes are base64.
2. Sets are refused, because their order differs from process to process: a retry would be another event.
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
        raise _no_json(value)
    dump = getattr(value, "model_dump", None)  # pydantic
    plain = (
        msgspec.to_builtins(value, str_keys=True, enc_hook=_refuse_or_dump)
        if dump is None
        else dump(mode="json", by_alias=True)
    )
    _check_parts(value)
    return plain


def _refuse_or_dump(value: Any) -> Any:
    if not hasattr(value, "model_dump"):
        raise _no_json(value)
    return to_json_value(value)


def _check_parts(value: Any) -> None:
    """Refuse sets, and keys that are the same text, in a value that can be encoded, so it has no circles."""
    pending: list[Any] = [value]
    for each in pending:  # grows meanwhile
        if isinstance(each, dict):
            if len(set(map(str, each))) < len(each):
                raise TypeError("two keys of a dict are the same text in JSON")
            pending += each.values()
        elif isinstance(each, list | tuple):
            pending += each
        elif isinstance(each, set | frozenset):
            raise _no_json(each)
        elif hasattr(each, "model_dump"):
            pending.append(each.model_dump(mode="python", by_alias=True))  # its serializers may sort sets
        else:
            pending += (getattr(each, name) for name in _fields_of(each.__class__) if hasattr(each, name))


def _fields_of(kind: Any) -> list[str]:
    """Return the fields of a Struct, a dataclass or a class of attrs, without what belongs to the class."""
    if hasattr(kind, "__dataclass_fields__"):
        from dataclasses import fields

        return [field.name for field in fields(kind)]
    names = [field.name for field in getattr(kind, "__attrs_attrs__", ())]
    for name in names:
        if name.startswith("_"):
            raise TypeError(f"the private field {name} of {kind.__name__} would be left out")
    return names or list(getattr(kind, "__struct_fields__", ()))


def _no_json(value: Any) -> TypeError:
    return TypeError(f"Object of type {value.__class__.__name__} is not JSON serializable")


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
