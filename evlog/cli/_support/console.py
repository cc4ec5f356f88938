"""Bytes to stdout, notes and errors to stderr, and what kind of place these are.

Data goes through `write` alone, so that a closed pipe and a full disk are found in one place, and no locale
has a say in what bytes come out. stderr takes anything: what it cannot show is escaped.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from evlog.errors import EvlogError

_STDERR_FAILED: Final = (OSError, ValueError)  # ValueError: it was closed


class ClosedPipe(BaseException):
    """Nobody reads stdout any more. No error: nothing that deals with failures may take it for one."""


class Terminated(BaseException):
    """A signal such as SIGTERM ended the command, which has put away its things; the process dies by it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class OutputFailed(EvlogError):
    """stdout takes no more bytes, and not because a reader left."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot write the output: {reason}; write it to another place")
        self.reason = reason


def write(data: bytes) -> None:
    """Write bytes to stdout.

    Raises:
        ClosedPipe, OutputFailed: stdout takes no more.
    """
    if sys.stdout is not None:
        try:
            sys.stdout.buffer.write(data)
        except BrokenPipeError:
            raise ClosedPipe from None
        except OSError as error:
            raise OutputFailed(_reason(error)) from None


def write_now(data: bytes) -> None:
    """Write bytes to stdout past its buffer, so that nothing is left in it that could be waited for later.

    Raises:
        ClosedPipe, OutputFailed: stdout takes no more.
    """
    if sys.stdout is None:
        return
    flush()
    raw = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
    rest = memoryview(data)
    try:
        while rest:
            written = raw.write(rest)
            if written is None:  # somebody made it non-blocking
                import select

                select.select([], [raw], [])
            rest = rest[written or 0 :]
    except BrokenPipeError:
        raise ClosedPipe from None
    except OSError as error:
        raise OutputFailed(_reason(error)) from None


def write_object(value: dict[str, object]) -> None:
    """Write one JSON object as a line to stdout."""
    write(encode_object(value))


def flush() -> None:
    """Hand over to the operating system what was written.

    Raises:
        ClosedPipe, OutputFailed: it was not taken.
    """
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise ClosedPipe from None
        except OSError as error:
            raise OutputFailed(_reason(error)) from None


def encode_object(value: dict[str, object]) -> bytes:
    """One JSON object as a line; names that are not Unicode (a path can be so) are escaped."""
    import json

    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), default=str).encode() + b"\n"


def note(text: str) -> None:
    """Tell the user something on stderr that is no error."""
    if errors_as_json():
        _write_stderr(encode_object({"note": text}))
    else:
        _write_stderr(f"evlog: {_one_line(text)}\n".encode(errors="backslashreplace"))


def report(error: Exception) -> None:
    """Say on stderr what went wrong, in one line, or as JSON with the error's attributes."""
    message, attributes = str(error), {}
    if isinstance(error, EvlogError):
        attributes = error.attributes()
    elif isinstance(error, OSError):
        message = f"{_reason(error)}{f': {error.filename}' if error.filename else ''}; check it and try again"
    else:
        message = f"failed unexpectedly ({type(error).__name__}: {error}); please report this as a bug"
    if errors_as_json():
        _write_stderr(encode_object({"error": type(error).__name__, "message": message, **attributes}))
    else:
        _write_stderr(f"evlog: {_one_line(message)}\n".encode(errors="backslashreplace"))


def errors_as_json() -> bool:
    """Whether errors are wanted as JSON: EVLOG_ERRORS=json."""
    return os.environ.get("EVLOG_ERRORS") == "json"


def stdout_is_terminal() -> bool:
    """Whether somebody looks at stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    """Whether somebody looks at stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


def has_colour() -> bool:
    """Whether stdout is a terminal that shows colours, and the user wants them (https://no-color.org)."""
    return stdout_is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """The text with every control character made visible: none of them may drive a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == " " else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _one_line(text: str) -> str:
    return printable(" ".join(text.split("\n")))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _write_stderr(data: bytes) -> None:
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
        sys.stderr.buffer.write(data)
        sys.stderr.flush()
    except _STDERR_FAILED:
        pass  # there is nowhere left to say it
