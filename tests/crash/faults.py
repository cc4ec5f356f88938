"""System calls that fail: `install` replaces `os` in evlog.files.disk, and the n-th call of a kind fails.

This is below `Disk`, unlike the recording disk, so that also its translation of errors and its handling of
short writes are tested. A full disk stays full until `clear`; a device error comes once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from evlog.files.disk import files as disk
from evlog.files.disk import opening

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Fault:
    """The n-th call of a kind fails.

    Args:
        kind: pread, pwrite, open (for writing), ftruncate, replace, makedirs, fdatasync, or fsync, which is
            of a directory.
        number: which call, counted from 1 after `arm`.
        code: the error number; with `short`, half of the write is written first.
        before: called just before the call fails.
    """

    def __init__(
        self,
        kind: str,
        number: int,
        code: int,
        *,
        short: bool = False,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.kind = kind
        self.number = number
        self.code = code
        self.short = short
        self.before = before
        self.calls = 0
        self.fired = False
        self.armed = False

    def arm(self) -> None:
        self.armed = True

    def clear(self) -> None:
        self.armed = False

    def meet(self, kind: str) -> bool:
        """Return whether this call is to fail."""
        if not self.armed or kind != self.kind:
            return False
        self.calls += 1
        if self.calls == self.number:
            self.fired = True
            if self.before is not None:
                self.armed = False
                self.before()
                self.armed = True
        return self.calls == self.number or (self.calls > self.number and self.code in FULL)

    def error(self) -> OSError:
        return OSError(self.code, os.strerror(self.code))


class FaultyOs:
    """Replaces `os` in the modules of files/disk that open and write."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        fault = self._fault
        if fault.meet("pwrite"):
            if fault.short and fault.calls == fault.number and len(data) > 1:
                return os.pwrite(fd, data[: len(data) // 2], offset)
            raise fault.error()
        return os.pwrite(fd, data, offset)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        if self._fault.meet("pread"):
            raise self._fault.error()
        return os.pread(fd, length, offset)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_RDWR | os.O_CREAT) and self._fault.meet("open"):
            raise self._fault.error()
        return os.open(path, flags, mode)

    def ftruncate(self, fd: int, length: int) -> None:
        self._call("ftruncate", os.ftruncate, fd, length)

    def replace(self, source: str, target: str) -> None:
        self._call("replace", os.replace, source, target)

    def makedirs(self, path: str, mode: int, *, exist_ok: bool) -> None:
        if self._fault.meet("makedirs"):
            raise self._fault.error()
        os.makedirs(path, mode, exist_ok=exist_ok)

    def fsync(self, fd: int) -> None:
        self._call("fsync", os.fsync, fd)

    def _call(self, kind: str, call: Callable[..., None], *arguments: object) -> None:
        if self._fault.meet(kind):
            raise self._fault.error()
        call(*arguments)


def install(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the fault under evlog's disk."""

    def sync_data(fd: int) -> None:
        if fault.meet("fdatasync"):
            raise fault.error()
        os.fdatasync(fd)

    for module in (disk, opening):
        monkeypatch.setattr(module, "os", FaultyOs(fault))
    monkeypatch.setattr(disk, "_sync_data", sync_data)
