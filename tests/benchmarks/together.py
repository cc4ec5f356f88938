"""The same work in several processes at once.

Each process prepares itself, waits until all are prepared, and then measures. An error in one of them ends
the workload with that error: no process waits for one that has died.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any, TypeVar

_T = TypeVar("_T")

_barrier: Barrier  # of a worker: the one it shares with the others


def run_together(work: Callable[..., _T], arguments: Sequence[tuple[Any, ...]]) -> list[_T]:
    """Call `work(*arguments[n], wait)` in a process of its own for each n, and return what they return.

    Args:
        work: a function of a module; it calls `wait()` once, when it is prepared.
    """
    context = multiprocessing.get_context("forkserver")  # which has imported everything already, and no more
    context.set_forkserver_preload([work.__module__])
    barrier = context.Barrier(len(arguments))
    with ProcessPoolExecutor(len(arguments), context, _share, (barrier,)) as pool:
        futures = [pool.submit(_call, work, each) for each in arguments]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, BrokenBarrierError):
            raise error
    return [future.result() for future in futures]


def _share(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _call(work: Callable[..., _T], arguments: tuple[Any, ...]) -> _T:
    try:
        return work(*arguments, _barrier.wait)
    except BaseException:
        _barrier.abort()
        raise
