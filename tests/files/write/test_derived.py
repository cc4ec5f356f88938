"""Derived files: replaced as a whole, also when several threads build the same one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evlog.files.disk.file_lock import FileLock, SharedLock
from evlog.files.disk.files import DISK, Disk, ReadFile, WriteFile
from evlog.files.format import paths
from evlog.files.write import derived
from evlog.files.write.derived import is_leftover, remove_leftover, replace_derived


class Racing(Disk):
    """Another thread replaces the same file just before the content is written; a reader opens each one."""

    def __init__(self, other: bytes) -> None:
        self.other = other
        self.seen: list[ReadFile] = []

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        if self.other:
            content, self.other = self.other, b""
            replace_derived(file.path[: file.path.index("index") + len("index")], content, self)
        super().write_at(file, data, offset)

    def replace(self, source: str, target: str) -> None:
        super().replace(source, target)
        self.seen.append(ReadFile(target))


def test_two_threads_that_build_the_same_file_do_not_change_what_is_mapped(
    memory_path: Path,
) -> None:
    disk = Racing(b"other" * 20)
    replace_derived(str(memory_path / "index"), b"own" * 10, disk)
    assert [file.read(200, 0) for file in disk.seen] == [b"other" * 20, b"own" * 10]
    assert [path.name for path in memory_path.iterdir()] == ["index"]


class Clearing(Disk):
    """Another process looks for leftovers, and removes them, at each step of a writer."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open(
        self, path: str, *, create: bool = False, truncate: bool = False, readable: bool = True
    ) -> WriteFile:
        file = super().open(path, create=create, truncate=truncate, readable=readable)
        self.opened.append(path)
        assert not is_leftover(path)
        if len(self.opened) == 1:
            remove_leftover(path, DISK)
        return file

    def replace(self, source: str, target: str) -> None:
        assert not is_leftover(source)
        remove_leftover(source, DISK)
        super().replace(source, target)
        assert not is_leftover(source)


def test_a_file_that_is_being_written_is_never_removed_as_a_leftover(memory_path: Path) -> None:
    disk = Clearing()
    replace_derived(str(memory_path / "index"), b"own", disk)
    assert len(disk.opened) == 2  # the first was removed before it was locked
    assert [path.name for path in memory_path.iterdir()] == ["index"]
    assert (memory_path / "index").read_bytes() == b"own"


def test_a_replaced_file_is_not_left_locked_in_a_forked_child(memory_path: Path) -> None:
    class Copying(Disk):
        def replace(self, source: str, target: str) -> None:
            copies.append(os.dup(written[0].fd))  # what a child forked now has
            super().replace(source, target)

        def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
            written.append(file)
            super().write_at(file, data, offset)

    copies: list[int] = []
    written: list[WriteFile] = []
    try:
        replace_derived(str(memory_path / "index"), b"own", Copying())
        assert not FileLock(str(memory_path / "index"), 0.0).is_held()
    finally:
        os.close(copies[0])


def test_a_file_that_its_writer_puts_in_its_place_meanwhile_is_no_leftover(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(SharedLock):
        def __enter__(self) -> bool:
            os.rename(path, memory_path / "index")
            return super().__enter__()

    path = memory_path / f"index{paths.TEMPORARY}"
    path.write_bytes(b"own")
    assert is_leftover(str(path))
    monkeypatch.setattr(derived, "SharedLock", Late)
    assert not is_leftover(str(path))


def test_what_is_no_file_is_a_leftover(memory_path: Path) -> None:
    os.mkfifo(memory_path / f"pipe{paths.TEMPORARY}")
    (memory_path / f"link{paths.TEMPORARY}").symlink_to(memory_path / "missing")
    for path in list(memory_path.iterdir()):
        assert is_leftover(str(path))
        remove_leftover(str(path), DISK)
    assert list(memory_path.iterdir()) == []
