"""The store against a plain list: as it is, and with hashes that always collide."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from typing import Any

from evlog.files.format.hashes import hash_ids, hash_stream
from tests.property.machine import StoreMachine


class CollidingMachine(StoreMachine):
    """The same with two stream hashes, four id hashes and one type hash."""

    def prepare(self) -> None:
        few: dict[str, Callable[..., Any]] = {
            "hash_stream": lambda stream: (hash_stream(stream) & 1) * ((1 << 32) + 1),
            "hash_ids": lambda ids: array("I", [hash & 3 for hash in hash_ids(ids)]),
            "hash_type": lambda _: 5,
        }
        for name, module in list(sys.modules.items()):
            if name.startswith("evlog."):
                for function, replacement in few.items():
                    if hasattr(module, function):
                        self.patches.setattr(module, function, replacement)


TestStore = StoreMachine.TestCase
TestStoreWithCollidingHashes = CollidingMachine.TestCase
