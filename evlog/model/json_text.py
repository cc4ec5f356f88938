"""Decode and encode JSON without importing `json`, which costs a shell command 6 ms (it imports `re`).

CPython's own scanner and encoder in C do all the work in either case. Where there are none, `json` itself is
used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

try:
    from _json import encode_basestring, make_encoder, make_scanner
except ImportError:  # pragma: no cover - another interpreter than CPython
    make_scanner = make_encoder = None  # type: ignore[misc, assignment]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


class _Options:
    """What the scanner asks its decoder for."""

    strict = True
    parse_constant = staticmethod(_refuse_constant)

    def __init__(self, number: Callable[[str], Any] | None) -> None:
        self.parse_int = number or int
        self.parse_float = number or float
        self.memo: dict[str, str] = {}

    def __getattr__(self, name: str) -> None:
        """Leave out every hook, also one that a later Python adds, as 3.15 did."""


def make_decoder(number: Callable[[str], Any] | None = None) -> Callable[[str], Any]:
    """Return a function that decodes one JSON text and raises ValueError if it is anything else.

    Args:
        number: makes a value of the text of a number; left out, `int` and `float` do.
    """
    if make_scanner is None:  # pragma: no cover - another interpreter than CPython
        import json

        return json.JSONDecoder(parse_constant=_refuse_constant, parse_int=number, parse_float=number).decode
    scan = make_scanner(_Options(number))  # type: ignore[arg-type]

    def decode(text: str) -> Any:
        try:
            value, end = scan(text, 0)
        except (StopIteration, SystemError):
            value, end = _scan_with(scan, text, len(text) - len(text.lstrip(" \t\n\r")))
        if end < len(text) and text[end:].strip(" \t\n\r"):
            raise _error("Extra data", text, end)
        return value

    return decode


def _scan_with(scan: Callable[[str, int], tuple[Any, int]], text: str, at: int) -> tuple[Any, int]:
    try:
        return scan(text, at)
    except StopIteration as stop:
        raise _error("Expecting value", text, stop.value) from None
    except SystemError:  # the scanner of Python 3.11 and 3.12 raises this until json.decoder is imported
        import json.decoder  # noqa: F401

        return scan(text, at)


def _error(reason: str, text: str, at: int) -> ValueError:
    from json import JSONDecodeError

    return JSONDecodeError(reason, text, at)


decode_json = make_decoder()
decode_without_numbers = make_decoder(str.encode)
"""Decodes JSON whose numbers become bytes: they may be of any size, and none of them is taken for a text."""


def scan_json(text: str, at: int) -> tuple[Any, int]:
    """Return the JSON value that begins at an index of a text, and the index after it.

    Raises:
        ValueError: there is none.
    """
    if make_scanner is None:  # pragma: no cover - another interpreter than CPython
        import json

        return json.JSONDecoder().raw_decode(text, at)
    return _scan_with(make_scanner(_Options(None)), text, at)  # type: ignore[arg-type]


def encode_json(value: Any) -> str:
    """Return a Python object as compact strict JSON, in a third of the time of `json.dumps`.

    Raises:
        ValueError, TypeError, RecursionError: JSON cannot represent it.
    """
    if make_encoder is None:  # pragma: no cover - another interpreter than CPython
        import json

        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # The dict finds circular references; then: no indent, separators, neither sort nor skip keys, no NaN.
    encode = make_encoder({}, _refuse_value, encode_basestring, None, ":", ",", False, False, False)
    return "".join(encode(value, 0))


def _refuse_value(value: Any) -> Any:
    """Return what JSON has in the place of a typed value, or raise TypeError."""
    from evlog.model.typed import to_json_value

    return to_json_value(value)
