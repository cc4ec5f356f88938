"""The store against a plain list; once as it is, and once with hashes so short that they always collide."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from evlog import format as fmt
from tests.property.machine import StoreMachine


class CollidingMachine(StoreMachine):
    """The same with two stream hashes, four id folds and one type hash.

    Of streams that share a hash a compaction may leave what is hidden.
    """

    hashes_are_exact = False

    def prepare(self) -> None:
        hash_stream, fold_ids = fmt.hash_stream, fmt.fold_ids
        few: dict[str, Callable[..., Any]] = {
            "hash_stream": lambda stream: hash_stream(stream) & 1,
            "fold_ids": lambda ids: [fold & 3 for fold in fold_ids(ids)],
            "hash_type": lambda _: 5,
        }
        for name, module in list(sys.modules.items()):
            if name.startswith("evlog."):
                for function, replacement in few.items():
                    if hasattr(module, function):
                        self.patches.setattr(module, function, replacement)


TestStore = StoreMachine.TestCase
TestStoreWithCollidingHashes = CollidingMachine.TestCase
