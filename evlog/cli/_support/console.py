"""Bytes to stdout, notes and errors to stderr, and what kind of files these are.

1. All output goes through `write`, into one buffer that only this module empties. So a closed pipe, a full
   disk, a short write and a non-blocking descriptor are handled in one place, and neither the locale nor
   PYTHONUNBUFFERED changes which bytes come out.
2. On a terminal `write` escapes every control character, except in `Styled` bytes: those hold evlog's own
   styles, and everything else in them was made `printable` before.
3. A command that has found something (damage) calls `set_verdict` before it prints. It then ends with that
   exit code also if the reader of its output has left.
4. A command that has changed or checked something calls `set_done` before it prints. Its exit code then says
   all that a script needs, so a stdout that was closed on purpose (`>&-`) is not a failure.
"""

from __future__ import annotations

import os
import stat
import sys

from evlog.errors import EXIT_CORRUPT, EXIT_OK, EvlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

_BUFFER_BYTES: Final = 64 * 1024
_DEFAULT_COLUMNS: Final = 80
_SPACES: Final = " \u00a0\u202f\u3000"  # also those of French and Japanese texts
_JOINERS: Final = "\u200c\u200d"
_STDERR_FAILED: Final = (OSError, ValueError)  # ValueError: it was closed


class ClosedPipe(BaseException):
    """The reader of stdout has left. Not an error: code that handles errors must not catch it."""


class Terminated(BaseException):
    """A signal such as SIGTERM ended the command, which has cleaned up; the process dies by that signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class OutputFailed(EvlogError):
    """stdout accepts no more bytes, although its reader has not left: a full disk, for example."""

    def __init__(self, reason: str, done: str | None = None) -> None:
        note = f" (but {done})" if done else ""
        super().__init__(f"cannot write the output: {reason}{note}; write it to another place")
        self.reason = reason


_buffer = bytearray()  # used by the main thread alone
_redirected: Callable[[bytes], None] | None = None  # by the main thread, to a pager
_status_shown = False  # whether a status line is on the terminal; the main thread's
_verdict = EXIT_OK
_done: str | None = None  # what the command did, before it prints that


def set_verdict(code: int) -> None:
    """Set the exit code that the command keeps if its output cannot be written."""
    global _verdict
    _verdict = code


def verdict() -> int:
    """Return what `set_verdict` was given last, else 0."""
    return _verdict


def set_done(what: str | None) -> None:
    """Set what the command has done, such as `the stream is deleted`: its exit code no longer needs output.

    A user who sees only that the output failed may do it again, so the message then says what is done.
    """
    global _done
    _done = what


def reset() -> None:
    """Forget the output and the verdict of a command that ran before in this process."""
    _buffer.clear()
    redirect(None)
    set_verdict(EXIT_OK)
    set_done(None)


class Styled(bytes):
    """Bytes for a terminal whose only control characters are line breaks and evlog's own styles."""


def write(data: bytes) -> None:
    """Write bytes to stdout; on a terminal control characters are escaped, unless the bytes are `Styled`.

    Raises:
        ClosedPipe, OutputFailed: stdout accepts no more.
    """
    if not isinstance(data, Styled) and stdout_is_terminal():
        data = _escape_for_terminal(data)
    _buffer.extend(data)
    if len(_buffer) >= _BUFFER_BYTES or _redirected is not None:
        flush()


def write_now(data: bytes) -> None:
    """Write bytes to stdout as `write` does, and give them to the operating system at once.

    Raises:
        ClosedPipe, OutputFailed: stdout accepts no more.
    """
    write(data)
    flush()


def write_object(value: dict[str, object]) -> None:
    """Write one JSON object as a line to stdout."""
    write(encode_object(value))


def flush() -> None:
    """Give all that was written to the operating system.

    Bytes that cannot be written are dropped, so that a later flush does not try again.

    Raises:
        ClosedPipe, OutputFailed: it was not accepted.
    """
    if not _buffer:
        return
    data = bytes(_buffer)
    _buffer.clear()
    if sys.stdout is None:
        if _done is not None:
            return
        raise OutputFailed("it is closed")
    if _status_shown:
        clear_status()
    try:
        if _redirected is not None:
            _redirected(data)
            return
        sys.stdout.flush()  # what other code printed comes first
        write_all(_raw_stdout(), data)
    except BrokenPipeError:
        raise ClosedPipe from None
    except (OSError, ValueError) as error:
        raise OutputFailed(_reason(error), _done) from None


def flush_at_once() -> None:
    """Flush what stdout takes without waiting for a reader, and drop the rest; a failure is not reported."""
    fd = pipe_of_stdout()
    try:
        if fd is None:
            flush()
            return
        import select

        rest, raw = memoryview(bytes(_buffer)), _raw_stdout()
        _buffer.clear()
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while rest and poll.poll(0) == [(fd, select.POLLOUT)]:
            rest = rest[raw.write(rest[: select.PIPE_BUF]) or 0 :]  # a ready pipe has room for that
    except (ClosedPipe, OSError, OutputFailed):
        pass


def _raw_stdout() -> Any:
    """Return stdout without Python's buffer."""
    return getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)


def redirect(to: Callable[[bytes], None] | None) -> None:
    """Send later output to a function instead of stdout; None: to stdout again."""
    global _redirected
    _redirected = to


def write_all(raw: Any, data: bytes) -> None:
    """Write to an unbuffered file, which may accept a part only, or nothing for now if it is non-blocking."""
    rest = memoryview(data)
    while rest:
        written = raw.write(rest)
        if written is None:
            import select

            select.select([], [raw], [])
        else:
            rest = rest[written:]


def write_result(value: dict[str, object], *lines: str, done: str | None = None) -> None:
    """Write what a command has done: lines for people on a terminal, else one JSON object.

    Args:
        done: see `set_done`; None: only printing was asked for.
    """
    set_done(done)
    if stdout_is_terminal():
        write("".join(f"{printable(line)}\n" for line in lines).encode(errors="backslashreplace"))
    else:
        write_object(value)


def write_verdict(ok: bool, value: dict[str, object], *lines: str, done: str) -> int:
    """Write what a check has found, as `write_result`; return the exit code, which is kept in any case."""
    code = EXIT_OK if ok else EXIT_CORRUPT
    set_verdict(code)
    write_result(value, *lines, done=done)
    return code


def encode_object(value: object) -> bytes:
    """Return JSON as a line; text that is not Unicode (a path can be that) is escaped."""
    import json

    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), default=str).encode() + b"\n"


def note(text: str) -> None:
    """Tell the user something on stderr that is not an error."""
    if errors_as_json():
        _write_stderr(encode_object({"note": text}))
    else:
        _write_stderr(f"evlog: {one_line(text)}\n".encode(errors="backslashreplace"))


def report(error: Exception) -> None:
    """Say on stderr what went wrong, in one line, or as JSON with the error's attributes."""
    message, attributes = str(error), {}
    if isinstance(error, EvlogError):
        attributes = error.attributes()
    elif isinstance(error, OSError):
        message = f"{_reason(error)}{f': {error.filename}' if error.filename else ''}; check it and try again"
    elif isinstance(error, MemoryError):
        message = "out of memory; raise the limit of the process, or ask for fewer events at once"
    elif isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        message = "cannot start a thread; raise the limit of the user's processes (ulimit -u), and try again"
    elif isinstance(error, ImportError) and not (error.name or "evlog").startswith("evlog"):
        message = f"cannot load {error.name} ({error}); install it again, or raise the limit of the memory"
    else:
        # A store from elsewhere may hold what no evlog writes: `verify` checks each field.
        message = (
            f"failed unexpectedly ({type(error).__name__}: {error}); "
            "please report this as a bug, unless `evlog verify` finds damage"
        )
    if errors_as_json():
        _write_stderr(encode_object({"error": type(error).__name__, "message": message, **attributes}))
    else:
        _write_stderr(f"evlog: {one_line(message)}\n".encode(errors="backslashreplace"))


def can_show_status() -> bool:
    """Return whether stderr is a terminal on which a line can be drawn again."""
    return stderr_is_terminal() and os.environ.get("TERM") not in (None, "", "dumb")


def show_status(text: str) -> None:
    """Draw a line on stderr in the place of the last one; any other output removes it first."""
    global _status_shown
    clear_status()
    _write_stderr(text[: columns(2) - 1].encode())
    _status_shown = True


def clear_status() -> None:
    """Remove the status line."""
    global _status_shown
    if _status_shown:
        _status_shown = False
        _write_stderr(Styled(b"\r\x1b[K"))


def errors_as_json() -> bool:
    """Return whether errors are to be JSON: EVLOG_ERRORS=json."""
    return os.environ.get("EVLOG_ERRORS") == "json"


def stdout_is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def pipe_of_stdout() -> int | None:
    """Return the descriptor of stdout if it is a pipe or a socket, so that a process reads it."""
    if sys.stdout is None:
        return None
    try:
        fd = sys.stdout.fileno()
    except OSError:
        return None  # no descriptor, as in a test
    mode = os.fstat(fd).st_mode
    return fd if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def has_colour() -> bool:
    """Return whether stdout is a terminal that shows colours, and the user wants them (no-color.org)."""
    return stdout_is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns(fd: int = 1) -> int:
    """Return the terminal's width; 80 if it reports none, as terminals without a size do."""
    try:
        return os.get_terminal_size(fd).columns or _DEFAULT_COLUMNS
    except OSError:
        return _DEFAULT_COLUMNS


def printable(text: str) -> str:
    """Return the text with every control character escaped, so that none of them can drive a terminal."""
    if text.isprintable():
        return text
    return _escaped(text, _SPACES, lambda char: char.encode("unicode_escape").decode())


def count_of(number: int, one: str, several: str = "") -> str:
    """Return for example `1 event` or `1,000 events`; give `several` if the plural is not made by an s."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def one_line(text: str) -> str:
    """Return the text as one printable line."""
    return printable(" ".join(line.strip() for line in text.split("\n")))


def _escaped(text: str, kept: str, escape: Callable[[str], str]) -> str:
    """Return the text with escapes for what is not printable, except what is kept, and joiners that join."""

    def is_shown(at: int, char: str) -> bool:
        return char.isprintable() or char in kept or (char in _JOINERS and _joins(text, at))

    return "".join(char if is_shown(at, char) else escape(char) for at, char in enumerate(text))


def _joins(text: str, at: int) -> bool:
    # Emoji, Persian and Indic scripts need joiners. Between ASCII letters one would only hide in a name.
    around = text[at - 1 : at], text[at + 1 : at + 2]
    return all(char.isprintable() and not char.isascii() for char in around)


def _escape_for_terminal(data: bytes) -> bytes:
    """Escape control characters, C1 and bidirectional ones too, in the way that keeps JSON the same JSON."""
    text = data.decode(errors="backslashreplace")
    if all(line.isprintable() for line in text.split("\n")):
        return text.encode()
    return _escaped(text, f"\n\t{_SPACES}", _escape_as_json).encode()


def _escape_as_json(char: str) -> str:
    return "".join(
        f"\\u{unit:04x}" for unit in memoryview(char.encode("utf-16-le", "surrogatepass")).cast("H")
    )


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _write_stderr(data: bytes) -> None:
    if sys.stderr is None:
        return
    if _status_shown:
        clear_status()
    if not isinstance(data, Styled) and stderr_is_terminal():
        data = _escape_for_terminal(data)
    try:
        sys.stderr.flush()
        write_all(getattr(sys.stderr.buffer, "raw", sys.stderr.buffer), data)
    except _STDERR_FAILED:
        pass  # there is no place left to report it
