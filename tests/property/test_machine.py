"""The store against a plain list: as it is, and with hashes that always collide."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from typing import Any

from evlog.files.format import hashes
from evlog.files.format.hashes import hash_ids, hash_stream, hash_tag
from tests.property.machine import StoreMachine


class CollidingMachine(StoreMachine):
    """The same with two hashes of streams and of tags, four of ids and one of types."""

    def prepare(self) -> None:
        few: dict[str, Callable[..., Any]] = {
            "hash_stream": lambda stream: (hash_stream(stream) & 1) * ((1 << 32) + 1),
            "hash_category": lambda _: 0,  # both of these are in its range
            "hash_ids": lambda ids: array("I", [hash & 3 for hash in hash_ids(ids)]),
            "hash_type": lambda _: 5,
            "hash_tag": lambda tag: (hash_tag(tag) & 1) * ((1 << 32) + 1),
        }
        hashes._known_tags.clear()
        for name, module in list(sys.modules.items()):
            if name.startswith("evlog."):
                for function, replacement in few.items():
                    if hasattr(module, function):
                        self.patches.setattr(module, function, replacement)

    def teardown(self) -> None:
        super().teardown()
        hashes._known_tags.clear()


TestStore = StoreMachine.TestCase
TestStoreWithCollidingHashes = CollidingMachine.TestCase
