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


def serve(module: str) -> None:
    """Be a helper: make the calls that come in on stdin until it ends."""
    tasks, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
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
