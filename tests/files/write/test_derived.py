"""Derived files: replaced as a whole, also when several threads build the same one."""

from __future__ import annotations

from pathlib import Path

from evlog.files.disk.files import Disk, ReadFile, WriteFile
from evlog.files.write.derived import replace_derived


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
