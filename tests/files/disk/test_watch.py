"""Waiting for changes: woken where the system can, polling where it cannot, told apart by itself."""

from __future__ import annotations

import errno
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from evlog.files.disk import watch as notify
from evlog.files.disk.watch import (
    FIRST_POLL_SECONDS,
    LAST_POLL_SECONDS,
    TICK_SECONDS,
    Watch,
    maybe_file_system,
)
from tests.support.contention import wait_until
from tests.support.helpers import open_files

LONG_SECONDS = 60.0
_OF_A_WATCH = "anon_inode:"  # how the system names its descriptors
linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def watch(memory_path: Path) -> Iterator[Watch]:
    opened = Watch(str(memory_path))
    yield opened
    opened.close()


@pytest.fixture
def no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a notification ends a wait: a test that gets none hangs, and does not pass by waiting."""
    monkeypatch.setattr(notify, "TICK_SECONDS", LONG_SECONDS)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The sleeps of waits without a notification, which take no time here."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def change(path: Path, how: str) -> None:
    if how == "write":
        with (path / "file").open("r+b") as file:
            file.write(b"x")
    elif how == "create":
        (path / "new").touch()
    else:
        (path / "outside").mkdir()
        source = path / "outside" / "file"
        source.touch()
        source.rename(path / "file")


@linux
@pytest.mark.usefixtures("no_ticks")
@pytest.mark.parametrize("how", ["write", "create", "replace"])
def test_a_change_wakes(watch: Watch, memory_path: Path, how: str) -> None:
    (memory_path / "file").touch()
    watch.begin()
    assert not watch.polling
    change(memory_path, how)
    watch.wait(LONG_SECONDS)


@linux
@pytest.mark.usefixtures("no_ticks")
def test_a_change_wakes_who_waits_already(watch: Watch, memory_path: Path) -> None:
    watch.begin()
    timer = threading.Timer(0.01, (memory_path / "new").touch)
    timer.start()
    watch.wait(LONG_SECONDS)
    timer.join()
    assert (memory_path / "new").exists()


@linux
def test_what_was_told_is_told_once(watch: Watch, memory_path: Path) -> None:
    watch.begin()
    for number in range(3):
        (memory_path / f"new-{number}").touch()
    watch.wait(LONG_SECONDS)
    assert watch._poll is not None
    assert watch._poll.poll(0) == []


@linux
def test_a_wait_where_notification_works_is_one_system_call_of_at_most_a_tick(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, sleeps: list[float]
) -> None:
    watch.begin()
    calls: list[float] = []

    class Poll:
        def poll(self, milliseconds: float) -> list[tuple[int, int]]:
            calls.append(milliseconds)
            return []

    monkeypatch.setattr(watch, "_poll", Poll())
    watch.wait(LONG_SECONDS)
    watch.wait(0.25)
    assert calls == [1000 * TICK_SECONDS, 250]
    assert sleeps == []


def test_a_network_file_system_is_polled_beside_being_watched(
    watch: Watch, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "maybe_file_system", lambda _: "nfs4")
    watch.begin()
    assert watch.polling
    for _ in range(100):  # hangs where it would wait for a notification
        watch.wait(0.001)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "overlay", None])
def test_where_changes_may_come_untold_it_polls(kind: str | None) -> None:
    assert kind not in notify.NOTIFYING_FILE_SYSTEMS


class Refusing:
    """Notifications of a kernel that has run out of something."""

    def __init__(self, error: int) -> None:
        self.closed = False
        self.error = error

    def add_watch(self, directory: str, mask: int) -> None:
        raise OSError(self.error, os.strerror(self.error))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


@linux
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.ENOMEM, errno.ENOENT])
def test_without_a_watch_left_it_polls(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, sleeps: list[float], error: int
) -> None:
    refusing = Refusing(error)
    monkeypatch.setattr("inotify_simple.INotify", lambda **_: refusing)
    watch = Watch(str(memory_path))
    watch.wait(LONG_SECONDS)
    assert watch.polling
    assert refusing.closed
    assert sleeps == [FIRST_POLL_SECONDS]


@linux
@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOSYS])
def test_without_an_instance_left_it_polls(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, sleeps: list[float], error: int
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("inotify_simple.INotify", refuse)
    watch = Watch(str(memory_path))
    watch.wait(LONG_SECONDS)
    assert watch.polling
    assert len(sleeps) == 1


@linux
def test_a_watch_in_a_cycle_is_closed_whatever_is_collected_first(memory_path: Path) -> None:
    watch: Any = Watch(str(memory_path))
    watch.begin()
    fd = watch._inotify
    watch.cycle = [watch]
    holder = [watch.cycle]
    del watch
    gc.collect()  # what `fd` keeps comes before the watch from now on
    assert os.fstat(fd)
    del holder
    number, fd = int(fd), None
    gc.collect()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(number)


def test_without_the_library_it_polls(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, sleeps: list[float]
) -> None:
    monkeypatch.setitem(sys.modules, "inotify_simple", None)
    watch = Watch(str(memory_path))
    watch.wait(LONG_SECONDS)
    assert watch.polling
    assert len(sleeps) == 1


def test_polling_slows_down_while_nothing_comes_and_is_quick_again_after_news(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, sleeps: list[float]
) -> None:
    monkeypatch.setitem(sys.modules, "inotify_simple", None)
    watch = Watch(str(memory_path))
    for _ in range(100):
        watch.wait(LONG_SECONDS)
    assert sleeps == sorted(sleeps)
    assert sleeps[0] == FIRST_POLL_SECONDS
    assert sleeps[-1] == LAST_POLL_SECONDS
    watch.has_news()
    watch.wait(LONG_SECONDS)
    watch.wait(0.0001)
    assert sleeps[-2:] == [FIRST_POLL_SECONDS, 0.0001]


@linux
def test_a_directory_that_goes_away_ends_the_wait_and_is_polled_from_then_on(memory_path: Path) -> None:
    directory = memory_path / "gone"
    directory.mkdir()
    watch = Watch(str(directory))
    watch.begin()
    assert not watch.polling
    directory.rmdir()
    watch.wait(LONG_SECONDS)
    assert watch.polling
    watch.close()


@linux
def test_closing_gives_the_descriptor_back(memory_path: Path) -> None:
    before = len(open_files(_OF_A_WATCH))
    for _ in range(5):
        watch = Watch(str(memory_path))
        watch.begin()
        watch.close()
        watch.close()
    wait_until(lambda: len(open_files(_OF_A_WATCH)) <= before)  # a thread of an earlier test may have one


def test_a_watch_that_nobody_closed_gives_its_descriptor_back(memory_path: Path) -> None:
    watch = Watch(str(memory_path))
    watch.begin()
    del watch  # a descriptor left open would be a ResourceWarning, which fails the test


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    inner = tmp_path / "mnt" / "share"
    inner.mkdir(parents=True)
    root = os.path.realpath(tmp_path)
    mounts = [
        ("/", "ext4"),
        (f"{root}/mnt", "nfs4"),
        (f"{root}/mnt/sh", "xfs"),
        (f"{root}/mnt/share", "tmpfs"),
        (f"{root}/mnt/share", "overlay"),
    ]

    def kind(path: Path) -> str | None:
        return maybe_file_system(str(path), lambda: iter(mounts))

    assert kind(tmp_path) == "ext4"
    assert kind(tmp_path / "mnt") == "nfs4"
    assert kind(inner) == "overlay"
    link = tmp_path / "link"
    link.symlink_to(inner)
    assert kind(link) == "overlay"
    assert maybe_file_system(str(tmp_path), lambda: iter([])) is None


@linux
def test_the_mounts_of_this_machine_are_understood() -> None:
    assert maybe_file_system("/proc") == "proc"


def test_spaces_in_a_mount_point_are_unescaped() -> None:
    assert notify._unescape(r"/mnt/my\040disk\134") == "/mnt/my disk\\"


@linux
@pytest.mark.usefixtures("no_ticks")
def test_a_wake_ends_the_present_wait_or_the_next_but_no_later_one(watch: Watch) -> None:
    watch.wake()  # no thread waits yet, and nothing is open
    watch.begin()
    watch.wake()
    watch.wait(LONG_SECONDS)
    timer = threading.Timer(0.01, watch.wake)
    timer.start()
    watch.wait(LONG_SECONDS)
    timer.join()
    assert watch._wake_fd is not None
    with pytest.raises(BlockingIOError):
        os.eventfd_read(watch._wake_fd)
    watch.close()
    watch.wake()


@linux
def test_a_rest_is_ended_by_a_wake_alone(watch: Watch, memory_path: Path) -> None:
    watch.begin()
    (memory_path / "file").write_bytes(b"x")
    began = time.monotonic()
    watch.rest(0.02)
    assert time.monotonic() - began >= 0.02  # the change ended nothing
    timer = threading.Timer(0.01, watch.wake)
    timer.start()
    watch.rest(LONG_SECONDS)
    timer.join()
    assert time.monotonic() - began < LONG_SECONDS


@linux
@pytest.mark.usefixtures("no_ticks")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_takes_no_notification_of_its_parent(watch: Watch, memory_path: Path) -> None:
    watch.begin()
    pid = os.fork()
    if not pid:
        try:
            (memory_path / "new").touch()
            watch.wait(0.0)
            os._exit(0 if watch._begun else 1)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    watch.wait(LONG_SECONDS)


def test_a_watch_that_a_program_has_open_at_its_end_is_not_an_error(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[object] = []
    watch = Watch(str(memory_path))
    watch.wait(0)
    left = [fd for fd in (watch._inotify, watch._wake_fd) if fd is not None]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "unraisablehook", errors.append)
        patch.setattr(notify, "os", None)  # as Python leaves modules at the end
        del watch
        gc.collect()
    for fd in left:
        os.close(fd)
    assert errors == []
