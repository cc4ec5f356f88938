"""Stop a thread before its n-th system call on a store, run another one, and continue.

`installed` puts a stand-in for `os` and `fcntl` into each module of the package that uses them. It asks the
`Actor` of the calling thread, if it has one, before each call that another process can notice, or whose
answer another process can change. What only looks at an open file is not counted.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import pkgutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

import evlog

_CHANGES: Final = {"chmod", "copy_file_range", "create", "fdatasync", "fsync", "ftruncate", "link", "lock"}
_CHANGES.update(("makedirs", "mkdir", "pwrite", "remove", "rename", "replace", "rmdir", "unlink", "write"))
_LOOKS: Final = {"listdir", "open", "scandir", "stat"}
_LIMIT_SECONDS: Final = 60
_WAITS_SECONDS: Final = 0.03  # a thread that waits for a lock this long needs the other one to go on

_actors: dict[int, Actor] = {}  # by the thread's number; each thread writes its own


class Actor(threading.Thread):
    """A thread that stops before its n-th call.

    Args:
        job: what it does.
        stop_at: the number of the call, from 1; 0: it never stops.
        only_changes: count only calls that change something another process sees.
    """

    def __init__(self, job: Callable[[], object], stop_at: int = 0, *, only_changes: bool = False) -> None:
        super().__init__(daemon=True)
        self.result: Any = None
        self.calls = 0
        self.stopped_before = ""
        self._job = job
        self._stop_at = stop_at
        self._only_changes = only_changes
        self._waits = threading.Event()  # for a lock
        self._rests = threading.Event()  # it has stopped, or ended
        self._continue = threading.Event()

    def run(self) -> None:
        _actors[threading.get_ident()] = self
        try:
            self.result = self._job()
        except BaseException as error:  # noqa: BLE001 - for the test to judge
            self.result = error
        finally:
            del _actors[threading.get_ident()]
            self._rests.set()

    def meet(self, kind: str, what: object) -> None:
        """Stop here, if this is the call."""
        if kind not in _CHANGES and (self._only_changes or kind not in _LOOKS):
            return
        self.calls += 1
        if self.calls == self._stop_at:
            self.stopped_before = f"{kind} {os.path.basename(str(what))}"
            self._rests.set()
            assert self._continue.wait(_LIMIT_SECONDS)

    def note_wait(self) -> None:
        """Note that it waits for a lock."""
        self._waits.set()

    def start_and_stop(self) -> bool:
        """Start; return whether it stopped before its call, rather than ended."""
        self.start()
        assert self._rests.wait(_LIMIT_SECONDS), "the first thread hangs"
        return bool(self.stopped_before)

    def run_or_wait(self, patience_seconds: float) -> None:
        """Start; return when it has ended or waits for a lock, of a file or, after some time, of a thread."""
        self.start()
        deadline = time.monotonic() + patience_seconds
        while self.is_alive() and not self._waits.is_set() and time.monotonic() < deadline:
            self.join(0.001)
        self.join(_WAITS_SECONDS)

    def finish(self) -> Any:
        """Let it continue to its end; return what the job returned, or its error."""
        self._continue.set()
        self.join(_LIMIT_SECONDS)
        assert not self.is_alive(), "a thread hangs"
        return self.result


def _met(kind: str, what: object = "") -> None:
    actor = _actors.get(threading.get_ident())
    if actor is not None:
        actor.meet(kind, what)


class _Os:
    """Stands for the module `os`."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in _CHANGES and name not in _LOOKS:
            setattr(self, name, real)
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            _met(name, arguments[0])
            return real(*arguments, **options)

        setattr(self, name, call)
        return call

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        _met("create" if flags & os.O_CREAT else "open", path)
        return os.open(path, flags, mode)


class _Fcntl:
    """Stands for the module `fcntl`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)

    def flock(self, fd: int, operation: int) -> None:
        actor = _actors.get(threading.get_ident())
        if actor is None:
            fcntl.flock(fd, operation)
            return
        actor.meet("lock", "")
        try:
            fcntl.flock(fd, operation | (0 if operation & fcntl.LOCK_UN else fcntl.LOCK_NB))
        except BlockingIOError:
            actor.note_wait()
            fcntl.flock(fd, operation)

    def fcntl(self, fd: int, command: int, argument: bytes) -> Any:
        actor = _actors.get(threading.get_ident())
        if actor is not None:
            actor.meet("lock", "")
            if command == fcntl.F_OFD_SETLKW:
                actor.note_wait()
        return fcntl.fcntl(fd, command, argument)


def _sync_data(fd: int) -> None:
    _met("fdatasync")
    os.fdatasync(fd)


@contextmanager
def installed() -> Iterator[None]:
    """Put the stand-ins into the modules of the directory engine and of what copies stores."""
    for package in ("files", "transfer", "state", "subscriptions"):
        place = f"{os.path.dirname(evlog.__file__)}/{package}"
        for found in pkgutil.walk_packages([place], f"evlog.{package}."):
            importlib.import_module(found.name)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith(("evlog.files.", "evlog.transfer.")):
                for attribute, real, stand_in in (("os", os, _Os()), ("fcntl", fcntl, _Fcntl())):
                    if getattr(module, attribute, None) is real:
                        patch.setattr(module, attribute, stand_in)
        patch.setattr("evlog.files.disk.files._sync_data", _sync_data)
        yield
