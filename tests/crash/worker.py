"""Real processes that write to a store, to be killed; starting them quickly, and receiving their reports."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

import evlog
from evlog import NewEvent
from evlog.files.write import writer as writer_module

Appends = list[tuple[str, list[NewEvent]]]


def context() -> ForkServerContext:
    """Return a context whose server has evlog loaded, and forks a process in a few milliseconds."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["tests.crash.worker"])
    return forkserver


class Child:
    """A process with a pipe: it runs `function(connection, *arguments)`."""

    def __init__(self, function: Callable[..., None], *arguments: object) -> None:
        forkserver = context()
        self.pipe, theirs = forkserver.Pipe()
        self.process = forkserver.Process(target=_run, args=(function, theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def kill(self) -> None:
        """Kill the process."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.join()

    def close(self) -> None:
        self.pipe.close()
        self.process.join()


def _run(function: Callable[..., None], connection: Connection, *arguments: object) -> None:
    function(connection, *arguments)


def batch_of(writer: int, number: int) -> Appends:
    """Return the n-th append of a writer: the same at each call, so that it can be sent again."""
    events = [
        NewEvent(
            "Written",
            {"writer": writer, "number": number, "part": part, "padding": "x" * (number * 53 % 700)},
            id=evlog.idempotency_id(f"{writer} {number} {part}"),
            tags=[f"writer:{writer}"] if number % 3 else None,
        )
        for part in range(1 + number % 3)
    ]
    appends = [(f"writer-{writer}", events)]
    if number % 4 == 0:
        shared = NewEvent("Shared", {"by": writer}, id=evlog.idempotency_id(f"{writer} {number} shared"))
        appends.append(("shared", [shared]))
    return appends


def write_for_ever(acks: Connection, path: str, writer: int, first: int) -> None:
    """Append batch after batch, and report each number with its first position once it is acknowledged."""
    writer_module._MANY = 1  # where a sync costs nothing, few requests ever wait at the same time
    with evlog.open(path) as store:
        number = first
        while True:
            results = store.append_many(batch_of(writer, number))
            acks.send((number, results[0].first_position))
            number += 1
