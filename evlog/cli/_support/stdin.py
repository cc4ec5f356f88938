"""Input from a descriptor: lines as they arrive, or all of it up to a limit.

Memory is bounded, also for input without line breaks. Reading waits for a non-blocking descriptor.
"""

from __future__ import annotations

import os
import select
import sys

from evlog.cli._support import console
from evlog.errors import InvalidArgument
from evlog.model.json_lines import MAX_LINE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_READ_BYTES: Final = 256 * 1024


def stdin_descriptor() -> int:
    """Return the descriptor of stdin, and say how to end the input if that is typed.

    Raises:
        InvalidArgument: stdin is closed, which is more often a mistake than an empty input.
    """
    if sys.stdin is None:
        raise InvalidArgument("stdin is closed", "redirect it from a file, or from /dev/null for no input")
    fd = sys.stdin.fileno()
    if os.isatty(fd):
        console.note("reading stdin from the terminal; end it with Ctrl-D")
    return fd


def read_lines(fd: int) -> Iterator[list[bytes] | None]:
    """Yield the lines that have arrived, without their line breaks, and None when there are no more for now.

    Before this waits for input, it yields None, so that the caller can handle the lines that it has. A line
    that is longer than any event is cut and yielded at once, with a NUL at its end, so that the caller
    refuses it; the rest of the line is skipped.
    """
    begun: list[bytes] = []  # the pieces of a line whose end has not arrived yet
    begun_bytes = 0
    skipping = False
    while True:
        if not select.select([fd], [], [], 0)[0]:
            yield None
        chunk = read_some(fd, _READ_BYTES)
        if not chunk:
            break
        if skipping:
            end = chunk.find(b"\n")
            if end < 0:
                continue
            chunk, skipping = chunk[end + 1 :], False
        lines = chunk.split(b"\n")
        chunk = lines.pop()
        if lines:
            if begun:
                lines[0] = b"".join([*begun, lines[0]])
                begun.clear()
                begun_bytes = 0
            yield lines
        if chunk:
            begun.append(chunk)
            begun_bytes += len(chunk)
        if begun_bytes > MAX_LINE_BYTES:
            # NUL is never valid in JSON, so a cut line cannot be taken for a whole one.
            yield [b"".join([*begun, b"\0"])]
            begun.clear()
            begun_bytes, skipping = 0, True
    if begun:
        yield [b"".join(begun)]


def read_all(fd: int, limit_bytes: int) -> bytes:
    """Return everything up to the end of the input, or the first `limit_bytes` of it."""
    pieces: list[bytes] = []
    left = limit_bytes
    while left and (piece := read_some(fd, min(left, _READ_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def read_some(fd: int, size: int) -> bytes:
    """Wait for input and return at most `size` bytes of it; none at its end."""
    while True:
        try:
            return os.read(fd, size)
        except BlockingIOError:
            select.select([fd], [], [])
