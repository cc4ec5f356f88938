"""What runs in a helper process of `processes`: make the calls that come in on stdin, one after the other.

This module imports nothing that only the starting process needs, so that a helper is ready sooner.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

READY: Final = b"evlog helper\n"
_KEPT_BYTES: Final = 16 << 20


def keep_freed_memory() -> None:
    """Have glibc keep up to 32 MiB that this process frees, instead of giving it back at once.

    It does so from when the first object of half that size was freed; this one is never touched. To touch a
    page of 4 KiB for the first time takes 2 to 7 µs: without this, verifying large events takes 4 % longer.
    """
    bytes(_KEPT_BYTES)


def serve(module: str) -> None:
    """Be a helper: make the calls that come in on stdin until it ends."""
    tasks, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    keep_freed_memory()
    gc.disable()  # nothing here makes cycles, and the collector would look through millions of tuples
    answer: Any = None
    data = READY
    while True:
        try:
            answers.write(data)  # in one call, so that it is read in one
            answers.flush()
            if data is READY:
                import_module(module)  # while the first call is on its way
            function, arguments = pickle.load(tasks)  # noqa: S301 - from the process that started this one
        except (EOFError, OSError):
            os._exit(0)
        try:
            answer = True, function(*arguments)
        except Exception:  # noqa: BLE001 - it is met again where it can be handled
            answer = False, None
        data = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
