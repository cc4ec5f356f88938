"""The conformance suite on an engine from elsewhere, opened by its URL."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints

import pytest

import evlog
from evlog.errors import InvalidArgument, StoreNotFound
from evlog.testing import Conformance

NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine, as its package would announce it."""
    point = EntryPoint("memory", "tests.support.memory_engine:open_engine", "evlog.engines")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints([point]))


class TestMemory(Conformance):
    @pytest.fixture
    def new_url(self) -> Callable[[], str]:
        return lambda: f"memory://{next(NUMBERS)}"


def test_a_url_is_opened_by_the_engine_of_its_scheme() -> None:
    with pytest.raises(StoreNotFound):
        evlog.open("memory://nowhere")
    with evlog.open("MEMORY://here", create=True) as store:
        assert (store.path, store.created, store.capabilities.engine) == ("MEMORY://here", True, "memory")


@pytest.mark.parametrize("url", ["mongodb://user:secret@host/db", "x+y-z.1://", "redis://h"])
def test_an_unknown_scheme_is_refused_with_the_known_ones_and_without_the_password(url: str) -> None:
    with pytest.raises(InvalidArgument, match="memory://") as caught:
        evlog.open(url, create=True)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_settings_of_a_directory_are_refused_for_a_server() -> None:
    with pytest.raises(InvalidArgument, match="segment_bytes"):
        evlog.open("memory://here", create=True, segment_events=8)


@pytest.mark.parametrize("path", ["./x://y", "a b://c", "://x", "1x://y"])
def test_what_is_not_a_url_is_a_path(path: str) -> None:
    with pytest.raises(StoreNotFound):
        evlog.open(path)
