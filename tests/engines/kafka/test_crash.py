"""The broker is killed under writers, a follower and a mirror, again and again.

What was acknowledged is there once, positions and versions have no gaps, and what the follower saw is there.
`EVLOG_TEST_KILLS=20` kills it more often.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

import evlog
from evlog.testing.mirroring import everything
from tests.engines.load import loading
from tests.support import kafka

KILLS = int(os.environ.get("EVLOG_TEST_KILLS", "2"))
APPENDS_BETWEEN = 30
LONG_SECONDS = 120.0


@pytest.fixture
def broker(kafka_jars: str) -> Iterator[kafka.KafkaServer]:
    """A broker that a test kills."""
    with kafka.serving(kafka_jars) as server:
        yield server


def test_nothing_acknowledged_is_lost_or_doubled_when_the_broker_is_killed(
    broker: kafka.KafkaServer, tmp_path: Path
) -> None:
    with evlog.open(tmp_path / "source", create=True) as source:
        mirrored = broker.url("mirrored", timeout=100)
        evlog.open(mirrored, create=True).close()
        with loading(broker.url("killed", timeout=100)) as load, mirroring(source, mirrored) as mirror:
            for kill in range(KILLS):
                load.wait_for_appends(APPENDS_BETWEEN)
                mirror.copy_some(kill)
                broker.kill()
                broker.start()
            load.wait_for_appends(APPENDS_BETWEEN)
        with (
            evlog.open(mirrored) as copy,
            evlog.open(tmp_path / "back", create=True) as back,
        ):
            evlog.mirror(copy, back)
            assert everything(copy) == everything(source) == everything(back)
            assert evlog.Mirror(source, copy).check().ok
            assert copy.verify().ok


class mirroring:  # noqa: N801 - a context manager
    """Appends to a directory, and has a mirror follow it."""

    def __init__(self, source: evlog.EventStore, url: str) -> None:
        self._source = source
        self._url = url
        self._reached = threading.Condition()  # guards the next two
        self._position = 0
        self._errors: list[BaseException] = []
        self._ended = threading.Event()
        self._mirror: evlog.Mirror | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wait_for(self._source.head)
        self._ended.set()
        if self._mirror is not None:
            self._mirror.stop()
        self._thread.join(LONG_SECONDS)
        assert not self._errors, self._errors

    def copy_some(self, number: int) -> None:
        """Append a batch and singles, and return when some of it is copied."""
        batch = [evlog.NewEvent("T", {"n": n}, tags=[f"kill:{number}"]) for n in range(200)]
        first = self._source.append("batch", batch).first_position
        for n in range(20):
            self._source.append(f"s-{n % 3}", [evlog.NewEvent("T", n)])
        self._wait_for(first)

    def _wait_for(self, position: int) -> None:
        with self._reached:
            assert self._reached.wait_for(lambda: self._errors or self._position >= position, LONG_SECONDS)
            assert not self._errors, self._errors

    def _run(self) -> None:
        def progress(_done: int, _all: int) -> None:
            with self._reached:
                self._position = mirror.result.position
                self._reached.notify_all()

        try:
            while not self._ended.is_set():
                try:
                    with evlog.open(self._url) as copy, evlog.Mirror(self._source, copy) as mirror:
                        self._mirror = mirror
                        mirror.follow(progress)
                except (evlog.StoreUnreachable, evlog.AppendUnknown, evlog.MirrorBusy):
                    pass  # the next run asks the destination where it is
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            with self._reached:
                self._errors.append(error)
                self._reached.notify_all()
