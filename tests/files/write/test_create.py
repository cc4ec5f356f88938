"""Making a store: whole or not at all, and never over something else."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog.errors import (
    EvlogError,
    InvalidArgument,
    NotAStore,
    StoreAccessDenied,
    StoreNotFound,
    SystemCallFailed,
)
from evlog.files.write import create
from evlog.files.write.create import MAX_SEGMENT_BYTES, MAX_SEGMENT_EVENTS
from evlog.testing.base import in_threads
from tests.support.helpers import new, small_store


@pytest.mark.parametrize("place", ["new", "a/b/c/new", "."])
def test_store_is_made_in_a_new_or_empty_directory(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with evlog.open(place, create=True) as store:
        assert store.created
        store.append("s", [new()])
    with evlog.open(tmp_path / place, create=True) as store:
        assert not store.created
        assert store.head == 1
    names = sorted(os.listdir(tmp_path / place))
    assert names == ["durable", "lock", "manifest.json", "segments"]


def test_nothing_is_made_without_create(tmp_path: Path) -> None:
    assert not evlog.exists(tmp_path / "missing")
    with pytest.raises(StoreNotFound) as caught:
        evlog.open(tmp_path / "missing")
    assert caught.value.path == str(tmp_path / "missing")
    with pytest.raises(StoreNotFound):
        evlog.open(tmp_path)
    assert os.listdir(tmp_path) == []
    small_store(tmp_path / "store").close()
    assert evlog.exists(tmp_path / "store")


def test_leftovers_of_an_interrupted_creation_are_completed(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "durable").write_bytes(b"half")
    (tmp_path / "manifest.json.tmp").write_bytes(b'{"form')
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / "00000000000000000001.0.log").write_bytes(b"half a header")
    with small_store(tmp_path) as store:
        store.append("s", [new(1)])
        assert store.head == 1


@pytest.mark.parametrize("foreign", ["notes.txt", ".git", "manifest.json.bak", "store"])
def test_directory_with_something_else_in_it_is_left_alone(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).touch()
    with pytest.raises(NotAStore) as caught:
        evlog.open(tmp_path, create=True)
    assert caught.value.path == str(tmp_path)
    assert foreign in caught.value.reason
    assert os.listdir(tmp_path) == [foreign]


def test_a_store_is_not_made_in_another_one(tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    evlog.open(outer, create=True).close()
    (tmp_path / "link").symlink_to(outer / "segments")
    for path in (outer / "inner", outer / "segments" / "a" / "b", tmp_path / "link" / "inner"):
        with pytest.raises(NotAStore, match="it is in the store"):
            evlog.open(path, create=True)
        assert not path.exists()
    with evlog.open(outer) as store:
        assert store.verify().findings == ()


@pytest.mark.parametrize("create", [False, True])
def test_file_in_the_place_of_a_store_is_left_alone(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_bytes(b"content")
    for place in ("file", "file/store"):
        with pytest.raises(EvlogError) as caught:
            evlog.open(tmp_path / place, create=create)
        assert caught.value.exit_code == 5
        assert ("it is a file" in str(caught.value)) == (place == "file")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_place_where_no_directory_can_be_made_is_named(tmp_path: Path) -> None:
    """What the file system refuses is not an absent store: the advice would be to create it."""
    (tmp_path / "link").symlink_to(tmp_path / "missing" / "store")
    places = [tmp_path / "link", tmp_path / "link" / "below"]
    if sys.platform == "linux":
        places.append(Path("/proc/store"))  # there mkdir fails with ENOENT
    for place in places:
        with pytest.raises(StoreAccessDenied, match=r"cannot create .*no directory can be made") as caught:
            evlog.open(place, create=True)
        assert caught.value.path == str(place)


@pytest.mark.parametrize("create", [False, True])
def test_a_path_that_cannot_be_followed_is_refused(tmp_path: Path, create: bool) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(NotAStore, match="symbolic links in its path never end"):
        evlog.open(tmp_path / "loop", create=create)
    with pytest.raises(SystemCallFailed, match="use a shorter path"):
        evlog.open(tmp_path / ("a" * 300), create=create)


@pytest.mark.parametrize("create", [False, True])
def test_directory_with_anothers_manifest_is_left_alone(tmp_path: Path, create: bool) -> None:
    (tmp_path / "manifest.json").write_bytes(b'{"name":"app","start_url":"/"}')
    with pytest.raises(NotAStore):
        evlog.open(tmp_path, create=create)
    assert os.listdir(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize(
    "setting",
    [
        {"segment_bytes": 0},
        {"segment_bytes": -1},
        {"segment_bytes": MAX_SEGMENT_BYTES + 1},
        {"segment_events": 0},
        {"segment_events": MAX_SEGMENT_EVENTS + 1},
        {"segment_bytes": float("nan")},
        {"segment_bytes": 1.5},
        {"segment_events": "5"},
        {"sync": "sometimes"},
        {"sync": None},
        {"lock_timeout": -1},
        {"lock_timeout": float("nan")},
    ],
    ids=str,
)
def test_setting_out_of_bounds_is_refused_and_nothing_is_made(
    tmp_path: Path, setting: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument):
        evlog.open(tmp_path / "store", create=True, **setting)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "setting", [{"segment_bytes": MAX_SEGMENT_BYTES}, {"segment_events": MAX_SEGMENT_EVENTS}]
)
def test_largest_settings_are_taken(tmp_path: Path, setting: dict[str, Any]) -> None:
    with evlog.open(tmp_path / "store", create=True, **setting) as store:
        store.append("s", [new()])


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_not_a_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        evlog.open(path, create=True)


def test_one_of_many_makes_the_store_and_all_use_it(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    stores: list[evlog.EventStore] = []

    def work() -> None:
        start.wait()
        store = small_store(tmp_path / "store")
        store.append("s", [new()])
        stores.append(store)

    in_threads([work] * 8)
    assert sum(store.created for store in stores) == 1
    assert len({store.id for store in stores}) == 1
    assert {store.stream_version("s") for store in stores} == {8}
    for store in stores:
        store.close()


def test_store_id_is_a_uuid7_of_its_own(tmp_path: Path) -> None:
    ids = set()
    for name in ("a", "b"):
        with small_store(tmp_path / name) as store:
            assert store.id.version == 7
            ids.add(store.id)
    assert len(ids) == 2


def test_a_store_that_another_makes_meanwhile_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "store")
    check_place = create._check_place

    def overtaken(where: str) -> None:
        monkeypatch.setattr(create, "_check_place", check_place)
        with evlog.open(path, create=True) as other:
            other.append("s", [new()])
        check_place(where)

    monkeypatch.setattr(create, "_check_place", overtaken)
    with evlog.open(path, create=True) as store:
        assert not store.created
        assert store.head == 1
