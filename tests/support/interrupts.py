"""Ctrl-C at a step of the package. A test repeats its scene with step 1, 2 … until it ends before that."""

from __future__ import annotations

import sys
from types import FrameType, ModuleType, TracebackType
from typing import Any, Self


class Interrupted:
    """A block that gets a KeyboardInterrupt at its n-th step; a context manager.

    A step is where Python handles signals: the start of a function, or the return from a function in C. The
    start of a `with` does not count: only Python 3.14 handles signals there, and then leaks what was
    acquired, as the guide says in its limits.

    Args:
        step: its number, from 1.
        modules: only steps of these count.
    """

    def __init__(self, step: int, *modules: ModuleType) -> None:
        self.happened = False
        self._left = step
        self._files = {module.__file__ for module in modules}
        self._before: Any = None

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_return" and argument.__name__ == "__enter__":
            return
        if event in ("call", "c_return") and frame.f_code.co_filename in self._files:
            self._left -= 1
            if self._left == 0:
                self.happened = True
                sys.setprofile(self._before)
                raise KeyboardInterrupt

    def __enter__(self) -> Self:
        self._before = sys.getprofile()
        sys.setprofile(self._profile)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        sys.setprofile(self._before)
        return self.happened and isinstance(error, KeyboardInterrupt)
