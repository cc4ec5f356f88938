"""The store against a plain list: as it is, with many policies, and with hashes that always collide."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from evlog.files.format.hashes import hash_ids, hash_stream
from evlog.files.log import policies as policy_table
from tests.property.machine import StoreMachine


class CollidingMachine(StoreMachine):
    """The same with two stream hashes, four id hashes and one type hash, by which policies are looked up."""

    def prepare(self) -> None:
        self.patches.setattr(policy_table, "_MANY", 0)
        self.patches.setattr(policy_table, "_READ_FOR_A_LOOK", 0.05)
        few: dict[str, Callable[..., Any]] = {
            "hash_stream": lambda stream: hash_stream(stream) & 1,
            "hash_ids": lambda ids: [fold & 3 for fold in hash_ids(ids)],
            "hash_type": lambda _: 5,
        }
        for name, module in list(sys.modules.items()):
            if name.startswith("evlog."):
                for function, replacement in few.items():
                    if hasattr(module, function):
                        self.patches.setattr(module, function, replacement)


class ManyPoliciesMachine(StoreMachine):
    """The same where policies are looked up, and read only after some looks."""

    def prepare(self) -> None:
        self.patches.setattr(policy_table, "_MANY", 0)
        self.patches.setattr(policy_table, "_READ_FOR_A_LOOK", 0.05)


TestStore = StoreMachine.TestCase
TestStoreWithManyPolicies = ManyPoliciesMachine.TestCase
TestStoreWithCollidingHashes = CollidingMachine.TestCase
