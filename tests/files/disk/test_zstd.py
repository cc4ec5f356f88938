"""Without zstandard: one clear line where it is needed, and everything else works."""

from __future__ import annotations

import sys

import pytest

import evlog
from evlog import EventStore
from evlog.errors import ExtraNotInstalled
from evlog.files.disk import zstd
from evlog.testing.base import in_threads
from tests.support.helpers import compress_all, fill, new, segment_files
from tests.support.programs import run_python


@pytest.fixture
def filled(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> EventStore:
    compress_all(monkeypatch, 256)
    fill(store, 20)
    return store


@pytest.fixture
def without_zstandard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr(zstd, "_local", zstd._Local())


@pytest.mark.usefixtures("without_zstandard")
def test_compressing_without_zstandard_changes_nothing(filled: EventStore) -> None:
    for dry_run in (False, True):
        with pytest.raises(ExtraNotInstalled, match=r"pip install 'evlog-store\[zstd\]'"):
            filled.compact(compress=True, dry_run=dry_run)
    assert filled.compact().segments_compressed == 0
    assert not segment_files(filled, "log.zst")


@pytest.mark.exact_hashes  # else a look-up reads what is compressed
def test_what_is_compressed_asks_for_zstandard_and_the_rest_does_not(
    filled: EventStore, request: pytest.FixtureRequest
) -> None:
    filled.compact(compress=True)
    request.getfixturevalue("without_zstandard")
    with evlog.open(filled.path) as store:
        assert store.append("fresh", [new()]).last_position == 21
        assert [event.position for event in store.read_all(after=16)] == [17, 18, 19, 20, 21]
        assert store.verify(quick=True).ok
        with pytest.raises(ExtraNotInstalled) as raised:
            list(store.read_all())
        assert raised.value.needed_by == str(segment_files(filled, "log.zst")[0])
        for ask in (store.verify, lambda: evlog.salvage_store(store.path, f"{store.path}-out")):
            with pytest.raises(ExtraNotInstalled):
                ask()


@pytest.mark.exact_hashes  # else a look-up reads what is compressed
def test_zstandard_is_imported_by_who_reads_what_is_compressed_only(filled: EventStore) -> None:
    filled.compact(compress=True)
    program = (
        "import sys, evlog; store = evlog.open(sys.argv[1]);"
        "list(store.read_all(after=16)); store.append('fresh', [evlog.NewEvent('T')]);"
        "print('zstandard' in sys.modules); list(store.read_all()); print('zstandard' in sys.modules)"
    )
    assert run_python("-c", program, filled.path).stdout.split() == ["False", "True"]


def test_each_thread_has_objects_of_its_own() -> None:
    found = []

    def look() -> None:
        zstd.require_zstandard("")
        found.append(zstd._local.unpacker)

    in_threads([look] * 2)
    assert found[0] is not found[1]
