"""The server is suspended, killed and started again, and connections are cut, under every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from shutil import copytree, rmtree

import pytest

import evlog
from evlog import NewEvent
from evlog.testing.base import LONG_SECONDS
from tests.engines.outages import (
    DONE,
    UNREACHABLE,
    check_cuts,
    check_interrupts,
    check_once,
    expected,
    outcomes,
    prepare,
)
from tests.support.nats import Cluster, serving
from tests.support.postgresql import scratch
from tests.support.tcp_proxy import proxying


@pytest.fixture
def server() -> Iterator[Cluster]:
    with scratch() as folder, serving(folder) as cluster:
        yield cluster


def test_no_call_waits_without_end_for_a_suspended_server(server: Cluster) -> None:
    prepare(server.url("n"))
    codes = expected(server.url("n"), UNREACHABLE)
    assert outcomes(server.url("n", timeout=1), server.suspended(0), UNREACHABLE) == codes
    with evlog.open(server.url("n")) as store:
        assert store.verify().ok


def test_an_interrupted_call_does_not_wait_for_a_suspended_server(server: Cluster) -> None:
    prepare(server.url("n"))
    check_interrupts(server.url("n", timeout=1000), server.suspended(0))


def test_every_call_continues_on_a_server_that_was_killed_and_started(server: Cluster) -> None:
    @contextmanager
    def restart() -> Iterator[None]:
        server.kill(0)
        yield
        server.start(0)

    url = server.url("n", timeout=100)
    prepare(url)
    assert outcomes(url, restart(), DONE) == expected(url, DONE)
    with evlog.open(url) as store:
        check_once(store)


def test_every_call_is_made_once_when_its_connection_is_cut(nats_server: Cluster) -> None:
    url = nats_server.url("cut")
    prepare(url)
    with proxying(nats_server.ports[0]) as proxy:
        check_cuts(url.replace(str(nats_server.ports[0]), str(proxy.port)), proxy)


@pytest.mark.parametrize("has_grown", [False, True])
def test_a_follower_skips_nothing_in_a_store_that_was_restored_from_a_backup(
    monkeypatch: pytest.MonkeyPatch, has_grown: bool
) -> None:
    monkeypatch.setattr("evlog.engines.following._SHORTER_SECONDS", 0.0 if not has_grown else LONG_SECONDS)
    with scratch() as folder, serving(folder) as server:
        url = server.url("n", timeout=100)
        with evlog.open(url, create=True) as store, store.subscribe(after=0) as run:
            store.append("a", [NewEvent("T", 0)])
            server.kill(0)
            copytree(folder / "store0", folder / "backup")
            server.start(0)
            store.append("a", [NewEvent("T", 1)])
            for _ in range(2):
                assert run.next_event(LONG_SECONDS) is not None
            server.kill(0)
            rmtree(folder / "store0")
            copytree(folder / "backup", folder / "store0")
            server.start(0)
            if has_grown:
                store.append("a", [NewEvent("T", "another"), NewEvent("T", 2)])
            with pytest.raises(evlog.StoreReplaced):
                run.next_event(LONG_SECONDS)
