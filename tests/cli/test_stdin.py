from __future__ import annotations

import os
from pathlib import Path

import pytest

from evlog.cli._support.stdin import read_lines
from tests.cli.conftest import run_process


def chunks_of(data: list[bytes]) -> list[list[bytes] | None]:
    """Return what read_lines gives for data that arrives piece by piece."""
    reading, writing = os.pipe()
    found: list[list[bytes] | None] = []
    pieces = iter(data)
    try:
        for lines in read_lines(reading):
            found.append(lines)
            if lines is None:
                piece = next(pieces, None)
                if piece is None:
                    os.close(writing)
                else:
                    os.write(writing, piece)
        return found
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([], []),
        ([b"a\n"], [b"a"]),
        ([b"a"], [b"a"]),
        ([b"a\nb"], [b"a", b"b"]),
        ([b"a", b"b\n", b"c\n"], [b"ab", b"c"]),
        ([b"a\nb", b"c", b"d\n\n", b"e"], [b"a", b"bcd", b"", b"e"]),
        ([b"\n\n"], [b"", b""]),
    ],
)
def test_lines_are_whole_however_they_arrive(pieces: list[bytes], lines: list[bytes]) -> None:
    found = chunks_of(pieces)
    assert [line for chunk in found for line in chunk or ()] == lines
    assert found.count(None) == len(pieces) + 1


@pytest.mark.parametrize(
    "arguments",
    [["append", "a", "T", "-"], ["append", "--lines"], ["schema", "set", "T", "-"], ["sql", "-"], ["mcp"]],
    ids=" ".join,
)
def test_a_closed_stdin_is_refused(here: Path, arguments: list[str]) -> None:
    run_process("init", "-s", "x")
    result = run_process("-s", "x", *arguments, preexec_fn=lambda: os.close(0))
    message = "evlog: stdin is closed; redirect it from a file, or from /dev/null for no input\n"
    assert (result.code, result.err) == (2, message)
