"""A plain JSON-lines file: the floor. It looks nothing up, and so it promises nothing but what was synced."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from tests.benchmarks.dataset import Batch, Item
from tests.benchmarks.measure import count
from tests.benchmarks.peers.base import Peer


class JsonLines(Peer):
    """One file; one batch is one `write` of its lines and one `fdatasync`."""

    name: ClassVar[str] = "json-lines"
    weaker: ClassVar[str] = "no versions, ids, order of time, checksums or look-ups; a torn line stays torn"
    lacks: ClassVar[frozenset[str]] = frozenset({"resend", "read_stream", "read_page"})
    needs_nothing: ClassVar[bool] = True

    def __init__(self, directory: Path) -> None:
        self._path = directory / "events.jsonl"
        self._file = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "file": "opened with O_APPEND, one write and one fdatasync each time",
            "line": "stream, type, id, time and data of the event",
            "read": "msgspec, one object a line",
        }

    def append(self, batch: Batch) -> None:
        now = time.time_ns() // 1000
        self._write(b"".join([_line(item, now) for item in batch]))

    def append_one(self, item: Item, expected: int) -> None:
        del expected
        self._write(_line(item, time.time_ns() // 1000))

    def _write(self, lines: bytes) -> None:
        os.write(self._file, lines)
        os.fdatasync(self._file)

    def scan(self) -> int:
        import msgspec

        decoder: Any = msgspec.json.Decoder()
        with self._path.open("rb") as lines:
            return count(map(decoder.decode, lines))

    def follow(self) -> Iterator[bytes]:
        command = ["tail", "-n", "0", "-f", str(self._path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as tail:
            assert tail.stdout is not None
            try:
                yield from tail.stdout
            finally:
                tail.terminate()

    def close(self) -> None:
        os.close(self._file)


def _line(item: Item, now_us: int) -> bytes:
    stream, type, id, data = item
    return b'{"stream":"%s","type":"%s","id":"%s","time":%d,"data":%s}\n' % (
        stream.encode(),
        type.encode(),
        id.hex().encode(),
        now_us,
        data,
    )
