"""What tests of following share: scripted notifications and time, killed writers, taking what there is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from evlog import EventStore
from evlog.files.disk.files import Disk, WriteFile
from evlog.files.follow import feed
from evlog.subscriptions import run as follow
from evlog.subscriptions.run import Subscription
from tests.support.helpers import new, small_store

LONG_SECONDS = 60.0


class Script:
    """Replaces the file system's notifications and time: each wait takes the next step of a list.

    A wait without a step lets the whole time pass that it was given.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Callable[[], object] | None] = []
        self.waits: list[float] = []
        self.sleeps: list[float] = []
        self.during_sleep: Callable[[float], object] = lambda _: None
        self.now = 1000.0
        self.thread_seconds = 0.0  # of processor time
        self.queued_seconds = 0.0  # of waiting for a processor
        script = self

        class ScriptedWatch:
            polling = False

            def __init__(self, directory: str) -> None:
                self.directory = directory

            def begin(self) -> None:
                pass

            def wait(self, timeout_seconds: float) -> None:
                script.waits.append(timeout_seconds)
                step = script.steps.pop(0) if script.steps else None
                if step is None:
                    script.now += timeout_seconds
                else:
                    step()

            def rest(self, seconds: float) -> None:
                script.sleeps.append(seconds)
                script.now += seconds
                script.during_sleep(seconds)

            def has_news(self) -> None:
                pass

            def wake(self) -> None:
                pass

            def close(self) -> None:
                pass

        class Time:
            def monotonic(self) -> float:
                return script.now

            def thread_time(self) -> float:
                return script.thread_seconds

        monkeypatch.setattr(feed, "Watch", ScriptedWatch)
        monkeypatch.setattr(feed, "_queued_seconds", lambda: self.queued_seconds)
        for module in (follow, feed):
            monkeypatch.setattr(module, "time", Time())


def drain(subscription: Subscription) -> list[int]:
    """Return the numbers of all events that are there now."""
    return [int(event.data) for event in iter(partial(subscription.next_event, 0), None)]


class Unacknowledging(Disk):
    """The disk of a writer that is killed, or stopped, between its write and the sync."""

    def sync(self, file: WriteFile) -> None:
        if file.path.endswith(".log"):
            raise KeyboardInterrupt


def write_unacknowledged(store: EventStore, number: int) -> None:
    """Append as a writer that is killed before it acknowledges."""
    with small_store(store.path, disk=Unacknowledging()) as dying, pytest.raises(KeyboardInterrupt):
        dying.append("dying", [new(number)])


def fill_from(store: EventStore, count: int) -> None:
    """Append as `fill` does, but after the store's last event."""
    for number in range(store.head, count):
        store.append(f"s-{number % 3}", [new(number, f"T{number % 2}")])
