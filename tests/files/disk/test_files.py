"""The one module that writes: what each call does, and which error each failure becomes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from evlog.errors import EvlogError, StoreAccessDenied, StoreFull, StoreIOError, StoreNotFound
from evlog.files.disk.files import DISK, Disk, ReadFile, error_for, map_file

MEANINGS: list[tuple[int, type[EvlogError]]] = [
    (errno.ENOSPC, StoreFull),
    (errno.EDQUOT, StoreFull),
    (errno.EFBIG, StoreFull),
    (errno.EACCES, StoreAccessDenied),
    (errno.EPERM, StoreAccessDenied),
    (errno.EROFS, StoreAccessDenied),
    (errno.ENOENT, StoreNotFound),
    (errno.ENOTDIR, StoreNotFound),
    (errno.EIO, StoreIOError),
    (errno.EMFILE, StoreIOError),
    (errno.EINVAL, StoreIOError),
]


@pytest.mark.parametrize(("number", "kind"), MEANINGS)
def test_system_error_becomes_this_error(number: int, kind: type[EvlogError]) -> None:
    error = error_for(OSError(number, "x"), "the/path")
    assert type(error) is kind
    assert error.attributes()["path"] == "the/path"
    if "reason" in error.attributes():
        assert error.attributes()["reason"] == os.strerror(number)
    assert "\n" not in str(error_for(OSError("odd"), "p"))


def fail(number: int) -> Callable[..., object]:
    def failing(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    return failing


# The call that fails, and what was called for.
CALLS: list[tuple[str, Callable[[Disk, Path], object]]] = [
    ("makedirs", lambda disk, path: disk.make_dir(str(path / "new"))),
    ("open", lambda disk, path: disk.open(str(path / "file"), create=True)),
    ("open", lambda disk, path: disk.sync_dir(str(path))),
    ("open", lambda disk, path: ReadFile(str(path / "there"))),
    ("pwrite", lambda disk, path: disk.write_at(disk.open(str(path / "there")), b"data", 0)),
    ("ftruncate", lambda disk, path: disk.cut(disk.open(str(path / "there")), 1)),
    ("replace", lambda disk, path: disk.replace(str(path / "there"), str(path / "other"))),
    ("unlink", lambda disk, path: disk.remove(str(path / "there"))),
    ("pread", lambda disk, path: ReadFile(str(path / "there")).read(4, 0)),
]


@pytest.mark.parametrize(("name", "call"), CALLS)
@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, StoreIOError), (errno.ENOSPC, StoreFull)])
def test_failing_call_leaves_as_an_evlog_error(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    call: Callable[[Disk, Path], object],
    number: int,
    kind: type[EvlogError],
) -> None:
    (tmp_path / "there").write_bytes(b"content")
    monkeypatch.setattr(os, name, fail(number))
    with pytest.raises(kind) as caught:
        call(DISK, tmp_path)
    assert str(tmp_path) in str(caught.value.attributes()["path"])


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_failing_sync_is_an_io_error_whatever_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    file = DISK.open(str(tmp_path / "file"), create=True)
    monkeypatch.setattr("evlog.files.disk.files._sync_data", fail(number))
    monkeypatch.setattr(os, "fsync", fail(number))
    with pytest.raises(StoreIOError):
        DISK.sync(file)
    with pytest.raises(StoreIOError):
        DISK.sync_dir(str(tmp_path))


def test_short_write_is_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, bytes(data)[:3], offset))
    file = DISK.open(str(tmp_path / "file"), create=True)
    DISK.write_at(file, b"0123456789", 2)
    assert (tmp_path / "file").read_bytes() == b"\0\x000123456789"


def test_write_that_goes_no_further_is_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = DISK.open(str(tmp_path / "file"), create=True)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 0)
    with pytest.raises(StoreFull):
        DISK.write_at(file, b"data", 0)


def test_created_file_holds_exactly_the_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something longer that was there before")
    DISK.create_file(str(path), b"content")
    assert path.read_bytes() == b"content"


def test_replace_shows_the_new_file_under_the_old_name(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"new")
    DISK.replace(str(tmp_path / "new"), str(tmp_path / "old"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"new"}


def test_removing_what_is_not_there_is_done_already(tmp_path: Path) -> None:
    DISK.remove(str(tmp_path / "missing"))


def test_closed_twice_is_closed_once(tmp_path: Path) -> None:
    file = DISK.open(str(tmp_path / "file"), create=True)
    fd = file.fd
    DISK.close(file)
    other = os.open(tmp_path / "file", os.O_RDONLY)  # takes the same number
    assert other == fd
    DISK.close(file)
    del file
    os.fstat(other)
    os.close(other)


def test_files_are_not_inherited_by_other_programs(tmp_path: Path) -> None:
    file = DISK.open(str(tmp_path / "file"), create=True)
    assert not os.get_inheritable(file.fd)
    assert not os.get_inheritable(ReadFile(str(tmp_path / "file")).fd)


def test_file_is_closed_when_nothing_refers_to_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        ReadFile(str(tmp_path / "file"))
        DISK.open(str(tmp_path / "file"))
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_read_goes_on_after_a_short_read_and_ends_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: real(fd, min(length, 3), offset))
    file = ReadFile(str(tmp_path / "file"))
    assert file.read(8, 1) == b"12345678"
    assert file.read(100, 5) == b"56789"
    assert file.read(5, 10) == b""


def test_missing_file_is_for_the_reader_to_judge(tmp_path: Path) -> None:
    for read in (ReadFile, map_file):
        with pytest.raises(FileNotFoundError):
            read(str(tmp_path / "missing"))


def test_mapped_file_reads_as_bytes_and_an_empty_one_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "empty").write_bytes(b"")
    assert bytes(map_file(str(tmp_path / "file"))) == b"content"
    assert bytes(map_file(str(tmp_path / "empty"))) == b""
    with pytest.raises(TypeError):
        map_file(str(tmp_path / "file"))[0] = 1
