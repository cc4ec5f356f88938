"""Checking data against a JSON Schema, by the optional library jsonschema-rs.

A schema is compiled when it is first needed. It must not refer to anything outside itself: no file is opened
for it, and no server is asked.
"""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING

from evlog.errors import ExtraNotInstalled, InvalidSchema, shorten
from evlog.model.json_text import make_decoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Validate = Callable[[bytes], tuple[str, str] | None]
    """Returns the first fault in JSON data: its place as a JSON pointer, and what it is; None: it fits."""


def compile_schema(type: str, schema: bytes) -> Validate:
    """Return a function that checks data.

    Raises:
        InvalidSchema: it is not a JSON Schema, or refers to something outside itself.
        ExtraNotInstalled: jsonschema-rs is missing.
    """
    try:
        import jsonschema_rs
    except ImportError as error:
        needed_by = f"the schema of {shorten(type)}"
        raise ExtraNotInstalled(needed_by, "jsonschema-rs", "schemas", error) from error
    try:
        check: Callable[[Any], None] = jsonschema_rs.validator_for(
            schema.decode(), retriever=_refuse_reference
        ).validate
    except ValueError as error:
        raise InvalidSchema(type, *_explain(error)) from None

    def validate(data: bytes) -> tuple[str, str] | None:
        try:
            check(_decode(data.decode()))
        except (ValueError, RecursionError) as error:
            return _explain(error)
        return None

    return validate


def _refuse_reference(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is outside the schema; put it into $defs")


def _explain(error: Exception) -> tuple[str, str]:
    """Return the place as a JSON pointer, and the reason in one line."""
    steps = [str(step).replace("~", "~0").replace("/", "~1") for step in getattr(error, "instance_path", ())]
    reason = str(getattr(error, "message", error) or error).partition("\n")[0]
    reason = reason.rpartition("retrieving it failed: ValueError: ")[2]  # what `_refuse_reference` says
    return "".join(f"/{step}" for step in steps), reason


def _number(text: str) -> int | float:
    """Return a number, or raise ValueError for one that Python cannot represent."""
    if text.lstrip("-").isdecimal():
        return int(text)
    value = float(text)
    if isinf(value):
        raise ValueError(f"the number {text[:40]} is too large to be checked")
    return value


_decode = make_decoder(_number)
