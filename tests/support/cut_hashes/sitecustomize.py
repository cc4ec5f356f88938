"""Cut evlog's hashes to EVLOG_TEST_HASH_BITS bits, in every process that tests start.

Collisions are legal, and a user who chooses the names can cause them. With two bits every look-up meets some.
This file is on PYTHONPATH only while `tests/conftest.py` puts it there. It changes the functions while their
module is being imported, before any other module has taken a reference to them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from array import array
from collections.abc import Sequence
from types import ModuleType

MODULE = "evlog.files.format.hashes"


class CutHashes(importlib.abc.MetaPathFinder):
    """Finds the module of hashes as usual, and replaces its functions when it has been executed."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_cut(module: ModuleType) -> None:
            execute(module)
            cut(module, self.bits)

        spec.loader.exec_module = execute_and_cut  # type: ignore[method-assign]
        return spec


def cut(module: ModuleType, bits: int) -> None:
    """Keep this many bits of each hash, at both ends of a long one: look-ups may use one half."""
    mask = (1 << bits) - 1
    spread = (1 << 32) + 1
    stream, type_, ids, tag = module.hash_stream, module.hash_type, module.hash_ids, module.hash_tag
    changed = module.__dict__
    changed["hash_category"] = lambda _: 0
    changed["hash_stream"] = lambda name: (stream(name) & mask) * spread
    changed["hash_type"] = lambda name: type_(name) & mask
    changed["hash_ids"] = lambda values: array("I", [hash & mask for hash in ids(values)])
    changed["hash_tag"] = lambda name: (tag(name) & mask) * spread


def install() -> None:
    bits = int(os.environ.get("EVLOG_TEST_HASH_BITS") or 64)
    if bits < 64 and not any(isinstance(finder, CutHashes) for finder in sys.meta_path):
        assert MODULE not in sys.modules, "the hashes are in use already"
        sys.meta_path.insert(0, CutHashes(bits))


install()
