"""Eight writer processes and a follower on a server that fails, and what must be true afterwards."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import evlog
from tests.support.programs import start_python

WRITERS = 8
LONG_SECONDS = 120.0

# Appends to its own stream with an expected version, and in between to one that all share. Prints what is
# acknowledged, until it is killed.
WRITER = """
import sys, evlog
url, me = sys.argv[1:]
with evlog.open(url) as store:
    version = store.stream_version(f"s-{me}")  # of a writer that was killed before this one
    while True:
        if version % 4 == 3:
            result = store.append("shared", [evlog.NewEvent("S", version)])
            print(result.ids[0], result.first_position, flush=True)
        result = store.append(f"s-{me}", [evlog.NewEvent("T", version)], version)
        version = result.last_version
        print(result.ids[0], result.first_position, flush=True)
"""


class Load:
    """Made by `loading`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._changed = threading.Condition()  # guards the next four
        self._begun: set[int] = set()
        self._acknowledged: dict[UUID, int] = {}
        self._followed: list[tuple[int, UUID]] = []
        self._errors: list[object] = []
        self._ended = threading.Event()
        self._writers = [self._start_writer(me) for me in range(WRITERS)]
        self._killed: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []
        for writer in self._writers:
            self._start_thread(self._listen, writer)
        self._start_thread(self._follow)

    def _start_writer(self, me: int) -> subprocess.Popen[str]:
        return start_python("-c", WRITER, self.url, str(me), stdin=None, stderr=subprocess.PIPE)

    def _start_thread(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def replace_writer(self, number: int) -> None:
        """Kill a writer in the middle of its work, and have another continue its stream."""
        me = number % WRITERS
        self._killed.append(self._writers[me])
        self._writers[me].kill()
        self._writers[me].wait()
        self._writers[me] = self._start_writer(me)
        self._start_thread(self._listen, self._writers[me])

    def wait_until_all_write(self) -> None:
        """Wait until each writer has acknowledged an append."""
        self._wait_for(lambda: len(self._begun) == WRITERS)

    def wait_for_appends(self, count: int) -> None:
        """Wait until this many more appends are acknowledged."""
        enough = len(self._acknowledged) + count
        self._wait_for(lambda: len(self._acknowledged) >= enough)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._errors or condition(), LONG_SECONDS)
            assert not self._errors, self._errors

    def end(self) -> None:
        """Kill the writers in the middle of their work, and let the follower end."""
        self._ended.set()
        for writer in self._writers:
            writer.kill()
        for thread in self._threads:
            thread.join(LONG_SECONDS)
        for writer in (*self._writers, *self._killed):
            writer.wait()
            assert writer.stderr is not None
            writer.stderr.close()

    def check(self) -> None:
        """Compare what was acknowledged and what was followed with what is in the store."""
        assert not self._errors, self._errors
        with evlog.open(self.url) as store:
            events = list(store.read_all())
            assert store.verify().ok
            for name in ("shared", *(f"s-{me}" for me in range(WRITERS))):
                own = [event for event in events if event.stream == name]
                # What a writer had sent when it was killed may be written after `events` was read.
                found = [event for event in store.read(name) if event.position <= len(events)]
                assert found == own
                assert [event.version for event in own] == list(range(1, len(own) + 1))
                if name != "shared":
                    assert [int(event.data) for event in own] == list(range(len(own)))
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        positions = {event.id: event.position for event in events}
        assert {id: positions.get(id) for id in self._acknowledged} == self._acknowledged
        assert self._followed == [(event.position, event.id) for event in events[: len(self._followed)]]
        assert self._followed

    def _listen(self, writer: subprocess.Popen[str]) -> None:
        assert writer.stdout is not None
        assert writer.stderr is not None
        with writer.stdout as lines:
            for line in lines:
                if line.endswith("\n"):
                    id, position = line.split()
                    with self._changed:
                        self._begun.add(writer.pid)
                        self._acknowledged[UUID(id)] = int(position)
                        self._changed.notify_all()
        if not self._ended.is_set() and writer not in self._killed:
            self._fail(writer.stderr.read())

    def _follow(self) -> None:
        try:
            with evlog.open(self.url) as store:
                after = 0
                while not self._ended.is_set():
                    try:
                        with store.subscribe(after=after) as run:
                            while not self._ended.is_set():
                                event = run.next_event(0.1)
                                if event is not None:
                                    after = event.position
                                    with self._changed:
                                        self._followed.append((event.position, event.id))
                    except evlog.StoreUnreachable:
                        pass  # in the middle of a page: begin again behind the last event
        except BaseException as error:  # noqa: BLE001 - looked at by `check`
            self._fail(error)

    def _fail(self, error: object) -> None:
        with self._changed:
            self._errors.append(error)
            self._changed.notify_all()


@contextmanager
def loading(url: str) -> Iterator[Load]:
    """Run writers and a follower inside the block, and check the store after it."""
    evlog.open(url, create=True).close()
    load = Load(url)
    try:
        load.wait_until_all_write()
        yield load
    finally:
        load.end()
    load.check()
