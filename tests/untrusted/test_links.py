"""Links, FIFOs, devices and huge holes in the place of a store's files: nothing outside is touched."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.untrusted.uses import MEMORY_BYTES, build, faults_of, tree

LINKS = ("link", "dangling link", "copy", "hard link")
OTHERS = ("fifo", "/dev/zero", "directory", "hole", "empty")
NAMES = (
    *("manifest.json", "manifest.json.tmp", "lock", "durable", "queue", "compaction"),
    *("segments", "subscriptions"),
    *("first .log", "first .offsets", "first .streams", "first .types", "first .ids", "first .removed"),
    *("last .log", "last .offsets", "next log", "segments/filter"),
    *("subscriptions/reader.json", "subscriptions/reader.json.tmp", "subscriptions/reader.lock"),
    *("subscriptions/parker.json", "subscriptions/parker.parked"),
)
# Some of them, because each costs time, and together they open every kind of file.
CHOSEN = (
    *("read_all", "read streams", "streams", "subscriptions", "parked", "verify", "salvage"),
    *("append", "subscribe", "compact", "repair"),
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("untrusted") / "original"
    build(str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def store(tmp_path: Path, original: Path) -> Path:
    shutil.copytree(original, tmp_path / "store")
    (tmp_path / "outside").mkdir()
    return tmp_path / "store"


def place_of(store: Path, name: str) -> Path:
    """Return the path for one of NAMES."""
    which, _, suffix = name.partition(" ")
    if not suffix:
        return store / name
    logs = sorted((store / "segments").glob("*.log"))
    if which == "next":
        first, generation, _ = logs[-1].name.split(".")
        return logs[-1].with_name(f"{int(first) + 6:020d}.{generation}.log")
    log = logs[0 if which == "first" else -1]
    return log.with_suffix(suffix)


def put(kind: str, place: Path, outside: Path) -> None:
    """Replace a file or directory of the store by something else."""
    target = outside / "target"
    if place.is_dir() and kind == "copy":
        shutil.move(place, target)
        (target / "old.tmp").write_bytes(b"precious")
        (target / "00000000000000000099.7.log").write_bytes(b"precious")
    elif kind in ("copy", "hard link") and place.is_file():
        shutil.copy(place, target)
    elif kind in ("link", "copy", "hard link"):
        target.write_bytes(b"precious" * 1000)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    elif kind in ("hole", "empty"):
        place.touch()
        os.truncate(place, (1 << 43) if kind == "hole" else 0)
    elif kind == "hard link":
        os.link(target, place)
    else:
        place.symlink_to(kind if kind.startswith("/") else target)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", LINKS)
def test_no_link_is_followed(store: Path, kind: str, name: str) -> None:
    put(kind, place_of(store, name), store.parent / "outside")
    before = tree(store.parent / "outside")
    assert faults_of(str(store), CHOSEN) == []
    assert tree(store.parent / "outside") == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_file_or_has_no_end_is_an_error_at_once(store: Path, kind: str, name: str) -> None:
    put(kind, place_of(store, name), store.parent / "outside")
    assert faults_of(str(store), CHOSEN) == []


def test_sound_store_has_no_faults_at_all(store: Path) -> None:
    assert faults_of(str(store), sound=True) == []


def test_what_this_process_has_mapped_leaves_a_use_its_memory(store: Path) -> None:
    with mmap.mmap(-1, 2 * MEMORY_BYTES):
        assert faults_of(str(store), sound=True) == []
