"""Fork while another thread holds one of evlog's mutexes, for each line of evlog that makes one.

    python -m tests.concurrency.forks STORE

Prints the lines whose mutex was held, and then those with which the child did not end its calls. It has to
be a program of its own: it replaces `threading.Lock` and `threading.RLock` before evlog is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

watched: str | None = None  # the line whose mutex the working thread keeps while the process forks
worker: threading.Thread | None = None
held, go_on = threading.Event(), threading.Event()
lines: set[str] = set()  # of the mutexes that the working thread has acquired


class Watched:
    """A mutex that stops the working thread once it has it, if it is the one watched."""

    def __init__(self, real: Any, line: str) -> None:
        self._real = real
        self._line = line

    def acquire(self, *arguments: Any, **named: Any) -> bool:
        got: bool = self._real.acquire(*arguments, **named)
        if got and threading.current_thread() is worker:
            lines.add(self._line)
            if self._line == watched and not held.is_set():
                held.set()
                go_on.wait(20)
        return got

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self._real.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def watching(real: Callable[[], Any]) -> Callable[[], Any]:
    """Return what makes watched mutexes in evlog's code, and plain ones elsewhere."""

    def make() -> Any:
        caller = sys._getframe(1)
        path = Path(caller.f_code.co_filename)
        if "evlog" not in path.parts or "tests" in path.parts:
            return real()
        return Watched(real(), f"{path.name}:{caller.f_lineno}")

    return make


def use(path: str, store: Any, name: str) -> None:
    """Make calls that take the mutexes of a store that is open, and of one that is opened here."""
    import evlog

    for number in range(30):
        list(store.read(f"s-{number}"))
    list(store.read_all())
    list(store.streams())
    store.append(name, [evlog.NewEvent("T")])
    with store.subscribe(after=store.head - 1) as run:
        run.next_event(0)
        run.next_event(0.001)
        run.stop()
    with evlog.open(path) as other:
        other.append(name, [evlog.NewEvent("T")])
        other.verify()


def child_ends(path: str, line: str | None) -> bool:
    """Return whether a child ends that was forked while a thread held the mutex of this line."""
    global watched, worker
    import evlog

    watched = line
    held.clear()
    go_on.clear()
    store = evlog.open(path)
    list(store.read("s-1"))
    worker = threading.Thread(target=use, args=(path, store, "thread"), daemon=True)
    worker.start()
    while worker.is_alive() and not held.wait(0.01):
        pass
    if not held.is_set():
        worker.join()
        return True
    child = os.fork()
    if not child:
        signal.alarm(20)
        use(path, store, "child")
        store.close()
        os._exit(0)
    # The thread may have the writers' lock, too, for which the child waits like any other process: so it goes
    # on after a while. That does not help a child that waits for a copy of a mutex.
    timer = threading.Timer(2, go_on.set)
    timer.start()
    status = os.waitpid(child, 0)[1]
    timer.join()
    worker.join()
    store.close()
    return status == 0


def main(path: str) -> None:
    """Fork once for each line."""
    threading.Lock, threading.RLock = watching(threading.Lock), watching(threading.RLock)  # type: ignore[assignment]
    import evlog

    with evlog.open(path, create=True, segment_events=50, sync="none") as store:
        for number in range(160):
            store.append(f"s-{number % 40}", [evlog.NewEvent("T")])
    child_ends(path, None)
    print(*sorted(lines))
    print(*[line for line in sorted(lines) if not child_ends(path, line)])


if __name__ == "__main__":
    main(sys.argv[1])
