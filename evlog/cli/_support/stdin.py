"""Lines from a descriptor, as they arrive: whole ones in lists, and word when there are none for now.

Input is read in large pieces, but never waited for while the caller holds lines that it could deal with: a
None comes first. Memory is bounded, whatever comes in without a line break.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Iterator
from typing import Final

from evlog.model.json_lines import MAX_LINE_BYTES

_READ_BYTES: Final = 256 * 1024


def read_lines(fd: int) -> Iterator[list[bytes] | None]:
    """Yield the lines that have arrived, without their line breaks, and None when there are no more for now.

    A line beyond any event's size is cut a little after that size, so that it is refused and not collected.
    """
    is_file = stat.S_ISREG(os.fstat(fd).st_mode)
    begun: list[bytes] = []  # the pieces of a line whose end is not here yet
    begun_bytes = 0
    while True:
        if not is_file and not select.select([fd], [], [], 0)[0]:
            yield None
            select.select([fd], [], [])
        chunk = os.read(fd, _READ_BYTES)
        if not chunk:
            break
        lines = chunk.split(b"\n")
        if len(lines) > 1:
            if begun:
                # What was cut must not be taken for whole, even where JSON would allow it: NUL never is.
                begun.append(lines[0] if begun_bytes <= MAX_LINE_BYTES else b"\0")
                lines[0] = b"".join(begun)
                begun.clear()
                begun_bytes = 0
            chunk = lines.pop()
            yield lines
        if chunk and begun_bytes <= MAX_LINE_BYTES:
            begun.append(chunk)
            begun_bytes += len(chunk)
    if begun:
        yield [b"".join(begun) + (b"\0" if begun_bytes > MAX_LINE_BYTES else b"")]
