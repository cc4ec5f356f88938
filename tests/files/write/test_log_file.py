"""The open log and its path: which replacements are noticed at once, and which at the next look."""

from __future__ import annotations

import os
from pathlib import Path

from evlog.files.disk.files import DISK
from evlog.files.write.log_file import LogFile


def opened_log(path: Path) -> LogFile:
    path.write_bytes(b"log")
    file = LogFile(str(path), DISK)
    assert file.is_in_place()
    assert file.ends_at(3)
    return file


def test_removed_log_is_noticed_at_once(tmp_path: Path) -> None:
    file = opened_log(tmp_path / "log")
    (tmp_path / "log").unlink()
    assert not file.is_in_place()


def test_replaced_log_is_noticed_at_once(tmp_path: Path) -> None:
    file = opened_log(tmp_path / "log")
    (tmp_path / "copy").write_bytes(b"log")
    os.rename(tmp_path / "copy", tmp_path / "log")
    assert not file.is_in_place()


def test_moved_log_is_noticed_at_the_next_look_at_its_name(tmp_path: Path) -> None:
    file = opened_log(tmp_path / "log")
    os.rename(tmp_path / "log", tmp_path / "moved")
    file._named_until = 0.0
    assert not file.is_in_place()
    (tmp_path / "log").write_bytes(b"log")
    assert not file.is_in_place()


def test_length_that_another_writer_has_changed_is_seen(tmp_path: Path) -> None:
    file = opened_log(tmp_path / "log")
    (tmp_path / "log").write_bytes(b"longer")
    assert file.is_in_place()
    assert not file.ends_at(3)
