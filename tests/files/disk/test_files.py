"""The one module that writes: what each call does, and which error each failure becomes."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evlog.errors import (
    CorruptionError,
    EvlogError,
    StoreAccessDenied,
    StoreFull,
    StoreIOError,
    StoreNotFound,
    SystemCallFailed,
    UnsafeFile,
)
from evlog.files.disk.files import DISK, Disk, ReadFile, WriteFile, map_file, take_over
from evlog.files.disk.opening import error_for
from tests.support.helpers import open_files

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
    (errno.EMFILE, SystemCallFailed),
    (errno.ENFILE, SystemCallFailed),
    (errno.ENOMEM, SystemCallFailed),
    (errno.ENOLCK, SystemCallFailed),
    (errno.EBADF, SystemCallFailed),
    (errno.EINVAL, SystemCallFailed),
    (errno.ELOOP, UnsafeFile),
    (errno.ENXIO, UnsafeFile),
    (errno.EISDIR, UnsafeFile),
]


@pytest.mark.parametrize(("number", "kind"), MEANINGS)
def test_system_error_becomes_this_error(number: int, kind: type[EvlogError]) -> None:
    error = error_for(OSError(number, "x"), "the/path")
    assert type(error) is kind
    assert error.attributes()["path"] == "the/path"
    if "reason" in error.attributes():
        assert error.attributes()["reason"] == os.strerror(number)
    assert "\n" not in str(error_for(OSError("odd"), "p"))


def test_a_file_that_was_to_be_created_is_said_to_be_one(tmp_path: Path) -> None:
    refused = PermissionError(errno.EACCES, "x")
    assert f"cannot open {tmp_path} (" in str(error_for(refused, str(tmp_path)))
    assert f"cannot create {tmp_path}/new (" in str(error_for(refused, f"{tmp_path}/new"))


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
    other = os.open(tmp_path / "file", os.O_RDONLY)
    if other != fd:  # it takes the lowest free number, which need not be this one
        os.dup2(other, fd)
        os.close(other)
    DISK.close(file)
    del file
    os.fstat(fd)
    os.close(fd)


def test_files_are_not_inherited_by_other_programs(tmp_path: Path) -> None:
    file = DISK.open(str(tmp_path / "file"), create=True)
    assert not os.get_inheritable(file.fd)
    assert not os.get_inheritable(ReadFile(str(tmp_path / "file")).fd)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files cannot be seen here")
def test_file_is_closed_when_nothing_refers_to_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for _ in range(3):
        ReadFile(str(tmp_path / "file"))
        DISK.open(str(tmp_path / "file"))
    assert open_files(tmp_path) == []


def test_a_file_that_a_program_has_open_at_its_end_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    errors: list[object] = []
    for open_file in (ReadFile, DISK.open):
        file: Any = open_file(str(tmp_path / "file"))
        fd = file.fd
        with monkeypatch.context() as patch:
            patch.setattr(sys, "unraisablehook", errors.append)
            patch.setattr("evlog.files.disk.files.os", None)  # as Python leaves modules at the end
            del file
        os.close(fd)
    assert errors == []


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


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL])
def test_outcome_of_a_failed_write_is_unknown_whatever_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    file = DISK.open(str(tmp_path / "file"), create=True)
    monkeypatch.setattr(os, "pwrite", fail(number))
    monkeypatch.setattr(os, "ftruncate", fail(number))
    with pytest.raises(StoreIOError):
        DISK.write_at(file, b"data", 0)
    with pytest.raises(StoreIOError):
        DISK.cut(file, 0)


def test_a_large_copy_is_synced_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(bytes(1_000_500))
    sizes: list[int] = []
    monkeypatch.setattr("evlog.files.disk.files.STEP_BYTES", 300_000)
    monkeypatch.setattr("evlog.files.disk.files._sync_data", lambda fd: sizes.append(os.fstat(fd).st_size))
    DISK.copy_file(ReadFile(str(tmp_path / "source")), str(tmp_path / "copy"), 1_000_500)
    assert sizes == [300_000, 600_000, 900_000, 1_000_500]
    assert (tmp_path / "copy").read_bytes() == bytes(1_000_500)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP])
def test_file_system_that_cannot_sync_a_directory_is_tolerated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", fail(number))
    DISK.sync_dir(str(tmp_path))


# Everything that opens a file, and whether it writes to it.
OPENERS: list[tuple[Callable[[str], object], bool]] = [
    (ReadFile, False),
    (map_file, False),
    (DISK.open, True),
    (lambda path: DISK.open(path, create=True), True),
    (lambda path: DISK.open(path, create=True, truncate=True), True),
    (lambda path: DISK.create_file(path, b"new"), True),
]


@pytest.mark.parametrize(("opener", "_writes"), OPENERS)
@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "directory", "device", "socket"])
def test_only_regular_files_are_opened(
    tmp_path: Path, kind: str, opener: Callable[[str], object], _writes: bool
) -> None:
    path, outside = tmp_path / "path", tmp_path / "outside"
    if kind == "link":
        outside.write_bytes(b"precious")
        path.symlink_to(outside)
    elif kind == "dangling link":
        path.symlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()
    with pytest.raises(UnsafeFile):
        opener(str(path))
    assert outside.exists() == (kind == "link")
    assert not outside.exists() or outside.read_bytes() == b"precious"


@pytest.mark.parametrize(("opener", "writes"), OPENERS)
def test_file_with_two_names_is_read_but_never_written(
    tmp_path: Path, opener: Callable[[str], object], writes: bool
) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    os.link(tmp_path / "outside", tmp_path / "path")
    if writes:
        with pytest.raises(UnsafeFile):
            opener(str(tmp_path / "path"))
    else:
        opener(str(tmp_path / "path"))
    assert (tmp_path / "outside").read_bytes() == b"precious"


def test_a_directory_of_the_store_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    outside, link = tmp_path / "outside", tmp_path / "segments"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    link.symlink_to(outside)
    calls: list[Callable[[], object]] = [
        *(lambda opener=opener: opener(str(link / "file")) for opener, _ in OPENERS),
        lambda: DISK.open(str(link / "new"), create=True),
        lambda: DISK.remove(str(link / "file")),
        lambda: DISK.replace(str(link / "file"), str(link / "other")),
        lambda: DISK.sync_dir(str(link)),
        lambda: DISK.make_dir(str(link)),
    ]
    for call in calls:
        with pytest.raises(UnsafeFile):
            call()
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"file": b"precious"}


def test_links_above_the_store_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    DISK.make_dir(f"{tmp_path}/link/segments")
    DISK.create_file(f"{tmp_path}/link/segments/file", b"content")
    assert ReadFile(f"{tmp_path}/link/segments/file").read(7, 0) == b"content"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0])
@pytest.mark.parametrize("mode", [0o755, 0o775, 0o2775, 0o700, 0o777])
def test_new_files_take_their_mode_from_the_directory(tmp_path: Path, mode: int, umask: int) -> None:
    store = tmp_path / "store"
    store.mkdir()
    store.chmod(mode)
    before = os.umask(umask)
    try:
        DISK.make_dir(f"{store}/segments")
        DISK.open(f"{store}/file", create=True)
        DISK.open(f"{store}/segments/file", create=True, truncate=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((store / "segments").stat().st_mode) == mode
    for name in ("file", "segments/file"):
        assert stat.S_IMODE((store / name).stat().st_mode) == mode & 0o666


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_new_files_of_root_are_the_owners(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 54321)
    DISK.make_dir(f"{tmp_path}/segments")
    DISK.open(f"{tmp_path}/segments/file", create=True)
    for name in ("segments", "segments/file"):
        status = (tmp_path / name).stat()
        assert (status.st_uid, status.st_gid) == (12345, 54321)


@pytest.mark.parametrize("group", [-1, 54321])
def test_new_files_of_a_root_that_may_not_give_them_away_are_the_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    """So is the root of a container without capabilities, or of a user namespace."""
    given: list[tuple[int, int]] = []

    def chown(_path: object, uid: int, gid: int) -> None:
        if uid != -1:
            raise PermissionError
        given.append((uid, gid))

    (tmp_path / "new").touch(0o600)
    made = os.stat(tmp_path / "new")
    gid = made.st_gid if group == -1 else group
    model = os.stat_result((0o40775, 1, 1, 1, made.st_uid + 1, gid, *[0] * 4))
    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    take_over(str(tmp_path / "new"), made, model, 0o664)
    assert given == ([] if group == -1 else [(-1, group)])
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o664


def test_a_file_for_which_there_is_no_space_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    pwrite = os.pwrite

    def write_a_part(fd: int, data: bytes, offset: int) -> int:
        if offset:
            raise OSError(errno.ENOSPC, "")
        return pwrite(fd, data[:5000], offset)

    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EXDEV, "")

    monkeypatch.setattr(os, "pwrite", write_a_part)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    with pytest.raises(StoreFull):
        DISK.create_file(f"{tmp_path}/new", source.read_bytes())
    with pytest.raises(StoreFull):
        DISK.copy_file(ReadFile(str(source)), f"{tmp_path}/new", 100_000)
    assert os.listdir(tmp_path) == ["source"]


def test_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    DISK.create_file(path, b"0123456789")
    assert ReadFile(path).read_whole(10) == b"0123456789"
    os.truncate(path, 1 << 40)
    with pytest.raises(CorruptionError):
        ReadFile(path).read_whole(1 << 20)


def test_memory_for_a_long_read_is_bounded_by_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    DISK.create_file(path, b"0123456789")
    assert ReadFile(path).read(1 << 60, 4) == b"456789"
    assert ReadFile(path).read_array(1 << 60, 4) == b"456789"
    assert ReadFile(path).read(1 << 60, 1 << 20) == b""


def test_a_huge_hole_at_the_end_of_a_file_is_not_read(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    DISK.create_file(path, b"x" * 5000)
    os.truncate(path, 1 << 40)
    file = DISK.open(path)
    DISK.write_at(file, b"y" * 5000, 1 << 38)
    size = ReadFile(path).size()
    assert (1 << 38) + 5000 <= size < (1 << 38) + (1 << 20)


def test_a_store_behind_a_link_that_is_named_like_a_directory_of_a_store_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "manifest.json").write_bytes(b"{}")
    (tmp_path / "segments").symlink_to(tmp_path / "real")
    assert ReadFile(f"{tmp_path}/segments/manifest.json").read(2, 0) == b"{}"
    (tmp_path / "manifest.json").write_bytes(b"{}")  # now it is a directory of the store here
    with pytest.raises(UnsafeFile):
        ReadFile(f"{tmp_path}/segments/manifest.json")


@pytest.mark.parametrize(
    "missing",
    [
        *("lock", "durable", "manifest.json", "manifest.json.tmp", "segments", "subscriptions/n.json"),
        "segments/00000000000000000001.0.log",
    ],
)
def test_the_error_for_a_missing_file_names_the_store(missing: str) -> None:
    error = error_for(FileNotFoundError(errno.ENOENT, ""), f"/x/store/{missing}")
    assert isinstance(error, StoreNotFound)
    assert error.path == "/x/store"


@pytest.mark.skipif(sys.platform != "linux", reason="another system is asked in another way, or not at all")
def test_what_is_dropped_from_memory_begins_before_the_offset_where_memory_has_larger_pieces(
    tmp_path: Path,
) -> None:
    size, offset = 1 << 16, 5 * mmap.PAGESIZE + 1
    file = DISK.open(f"{tmp_path}/log", create=True)
    for at in (0, offset):
        DISK.write_at(file, b"x" * size, 0)  # one write, so that Linux may keep it in one piece
        DISK.sync(file)
        DISK.drop_cache(file, at)
        kept = pages_in_memory(file, size)
        if not at and any(kept):
            pytest.skip("this file system keeps all in memory")
        assert not any(kept[at // mmap.PAGESIZE :])


def pages_in_memory(file: WriteFile, size: int) -> bytes:
    """Return 1 for each page of a file that is in memory, and 0 for the others."""
    found = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
    with mmap.mmap(file.fd, size) as mapped:
        place = ctypes.c_char.from_buffer(mapped)
        length = ctypes.c_size_t(size)
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(place)), length, found) == 0
        del place  # else the map cannot be closed
    return bytes(each & 1 for each in found)
