"""evlog itself, through its public interface only."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import evlog
from evlog import NewEvent
from tests.benchmarks.dataset import Batch
from tests.benchmarks.measure import count


class EvlogStore:
    """A store with the defaults of `evlog.open`; one batch is one `append_many` over all its streams."""

    name: ClassVar[str] = "evlog"

    def __init__(self, directory: Path) -> None:
        self._store = evlog.open(directory / "store", create=True)

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "evlog": evlog.__version__,
            "sync": "always (fdatasync of the log at each batch)",
            "segments": "64 MiB or 262,144 events",
            "keys": "(stream, version) and id, kept by the store; payloads checked as JSON",
        }

    def append(self, batch: Batch) -> None:
        self._store.append_many(
            [(stream, [NewEvent(type, data, id=id)]) for stream, type, id, data in batch],
        )

    def settle(self) -> None:
        """Nothing to do: an append leaves nothing for later."""

    def scan(self) -> int:
        return count(self._store.read_all())

    def read_stream(self, stream: str) -> int:
        return count(self._store.read(stream))

    def close(self) -> None:
        self._store.close()
