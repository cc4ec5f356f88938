"""A block device that records what is written to it, so that a real file system can lose power.

    file system    ext4, XFS or Btrfs of the running kernel
    loop device    the kernel's, over the one file of
    FUSE           a process of its own, which serves that file from an image and writes the record

1. The record has each write, each flush and each note of the test, in the order in which they came.
2. A flush makes durable every write before it. A device may keep or lose the writes after the last flush, in
   any combination, and whole sectors of each.
3. The server is a process of its own. In the test's process, a page fault on the file system would wait for
   an interpreter that waits for the page.

It needs Linux, root, /dev/fuse and loop devices: `why_not` says what is missing.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

_HEAD: Final = struct.Struct("<cQI")  # of each operation in the record: its kind, its offset, its bytes
_NOTHING: Final = b"\0"  # in the file `refused`: no write is refused
_DETACH_SECONDS: Final = 30.0
_TOP: Final = Path(__file__).parents[2]
_PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def why_not(kind: str) -> str | None:
    """Return why a file system of this kind cannot be mounted here over such a device; None if it can."""
    if sys.platform != "linux":
        return "needs Linux"
    if os.geteuid() != 0:
        return "only root can mount a file system"
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not os.access(device, os.R_OK | os.W_OK):
            return f"needs {device}"
    for program in ("fusermount3", f"mkfs.{kind}"):
        if shutil.which(program, path=_PATH) is None:
            return f"needs {program}; apt-get install fuse3 e2fsprogs xfsprogs btrfs-progs"
    if kind not in Path("/proc/filesystems").read_text().split():
        return f"needs a kernel with {kind}, and its module to be loaded"
    return None


class Operation(NamedTuple):
    """One line of the record. `kind`: b"w" a write, b"f" a flush, b"n" a note, whose text is the data."""

    kind: bytes
    offset: int
    data: bytes


class RecordedDevice:
    """A device while it is being written to.

    Attributes:
        path: of the block device.
        mutex: guards nothing here; `History` holds it while it numbers a batch and notes it.
    """

    def __init__(self, path: str, served: Path) -> None:
        self.path = path
        self.mutex = threading.RLock()
        self._served = served

    def note(self, what: str, number: int) -> None:
        """Add a line to the record: what has happened so far is before it."""
        self._tell("notes", f"{what} {number}".encode())

    @contextmanager
    def refusing(self, content: bytes) -> Iterator[None]:
        """Fail, with EIO, the writes that have these bytes, as long as the block runs."""
        self._tell("refused", content)
        try:
            yield
        finally:
            self._tell("refused", _NOTHING)

    def _tell(self, file: str, data: bytes) -> None:
        (self._served / file).write_bytes(data)


@contextmanager
def recorded_device(image: Path, record: Path, sector_bytes: int) -> Iterator[RecordedDevice]:
    """Serve an image as a block device inside the block; the record is complete after it."""
    served = image.with_name("served")
    served.mkdir()
    command = [sys.executable, "-m", __name__, str(image), str(record), str(served)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=_TOP) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n", "the server of the device did not start"
        try:
            with _unmounting(served):
                sectors = ("--sector-size", str(sector_bytes))
                loop = run("losetup", "--find", "--show", *sectors, str(served / "disk"))
                try:
                    yield RecordedDevice(loop, served)
                finally:
                    _detach(loop)
        except BaseException:
            server.kill()  # a file system that is still in use would keep it
            raise


def _detach(loop: str) -> None:
    """Return once the loop device has let go of its file; a process that opens the device delays that."""
    run("losetup", "--detach", loop)
    attached, end = Path("/sys/block", Path(loop).name, "loop"), time.monotonic() + _DETACH_SECONDS
    while attached.exists() and time.monotonic() < end:
        time.sleep(0.01)


def read_record(record: Path) -> list[Operation]:
    """Return the operations in the order in which they came."""
    raw, at, operations = record.read_bytes(), 0, []
    while at < len(raw):
        kind, offset, length = _HEAD.unpack_from(raw, at)
        at += _HEAD.size + length
        operations.append(Operation(kind, offset, raw[at - length : at]))
    return operations


@contextmanager
def mounted(source: str | Path, directory: Path, kind: str, options: Sequence[str] = ()) -> Iterator[Path]:
    """Mount a device, or an image through a loop device of its own, inside the block."""
    directory.mkdir(exist_ok=True)
    run("mount", "-t", kind, "-o", ",".join(("noatime", *options)), str(source), str(directory))
    with _unmounting(directory):
        yield directory


@contextmanager
def _unmounting(directory: Path) -> Iterator[None]:
    """Unmount the directory after the block; after an error once nothing in it is open."""
    try:
        yield
    except BaseException:
        run("umount", "--lazy", str(directory))
        raise
    run("umount", str(directory))


def run(*command: str) -> str:
    """Run a system program; return what it says, or raise with it."""
    done = subprocess.run(
        command, check=False, text=True, capture_output=True, env=os.environ | {"PATH": _PATH}
    )
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _serve(image: str, record: str, directory: str) -> None:
    """Serve `disk`, `notes` and `refused` in the directory until it is unmounted."""
    import mfusepy  # it looks for libfuse when it is imported

    fd = os.open(image, os.O_RDWR)
    log = open(record, "wb", buffering=0)  # noqa: SIM115 - open until the process ends
    sizes = {"/disk": os.fstat(fd).st_size, "/notes": 0, "/refused": 0}

    def add(kind: bytes, offset: int, data: bytes) -> None:
        log.write(_HEAD.pack(kind, offset, len(data)) + data)

    class Served(mfusepy.Operations):  # type: ignore[misc]  # no types
        use_ns = True
        refused = _NOTHING

        def init(self, _: str) -> None:
            print("ready", flush=True)

        def getattr(self, path: str, _: int | None = None) -> dict[str, Any]:
            if path == "/":
                return {"st_mode": 0o40700, "st_nlink": 2}
            if path not in sizes:
                raise mfusepy.FuseOSError(errno.ENOENT)
            return {"st_mode": 0o100600, "st_nlink": 1, "st_size": sizes[path]}

        def truncate(self, path: str, length: int, fh: int | None = None) -> None:
            """Do nothing: the files that tests write have no length."""

        def read(self, _: str, size: int, offset: int, __: int) -> bytes:
            return os.pread(fd, size, offset)

        def write(self, path: str, data: bytes, offset: int, _: int) -> int:
            if path == "/refused":
                self.refused = data
            elif path == "/notes":
                add(b"n", 0, data)
            elif self.refused != _NOTHING and self.refused in data:
                add(b"n", 0, b"refused 0")
                raise mfusepy.FuseOSError(errno.EIO)
            else:
                os.pwrite(fd, data, offset)
                add(b"w", offset, data)
            return len(data)

        def fsync(self, *_: object) -> int:
            add(b"f", 0, b"")
            return 0

    mfusepy.FUSE(Served(), directory, foreground=True, nothreads=True, direct_io=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
