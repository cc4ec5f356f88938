"""The server is suspended, killed and started again, and connections are cut, under every call."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import copytree, rmtree
from typing import Any

import pytest

import evlog
from evlog import EventStore, NewEvent, Subscription
from evlog.engines.nats.connections import Connections
from evlog.engines.nats.engine import NatsEngine
from evlog.engines.nats.feed import NatsFeed
from evlog.engines.nats.session import Lost
from evlog.testing.base import LONG_SECONDS
from tests.engines.outages import (
    DONE,
    UNREACHABLE,
    check_cuts,
    check_interrupts,
    check_once,
    check_stop,
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


def test_a_follower_of_a_server_that_has_lost_its_disk_ends_at_once() -> None:
    with scratch() as folder, serving(folder) as server:
        url = server.url("n", timeout=1000)
        with evlog.open(url, create=True) as store, store.subscribe(after=0) as run:
            follower = _Follower(run)
            with _killed(server):
                rmtree(folder / "store0")
            assert isinstance(follower.end(), evlog.StoreNotFound)


class _Follower:
    """A thread that waits for what the server pushes to a run."""

    def __init__(self, run: Subscription) -> None:
        assert isinstance(run._feed, NatsFeed)
        listens, listen = threading.Event(), run._feed._listen

        def noted(deadline: float) -> bool:
            listens.set()
            return listen(deadline)

        run._feed._listen = noted  # type: ignore[method-assign]
        self._run = run
        self._error: evlog.EvlogError | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        assert listens.wait(LONG_SECONDS)

    def _follow(self) -> None:
        try:
            self._run.next_event()
        except evlog.EvlogError as error:
            self._error = error

    def end(self) -> evlog.EvlogError | None:
        """Return its error once it has ended."""
        self._thread.join(LONG_SECONDS)
        assert not self._thread.is_alive()
        return self._error


def test_a_follower_that_is_stopped_does_not_wait_for_a_suspended_server(
    server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.engines.nats.connections.ANSWER_SECONDS", 1000)
    monkeypatch.setattr("evlog.engines.nats.feed.ANSWER_SECONDS", 1000)
    check_stop(server.url("n", timeout=1000), server.suspended(0))


def test_a_run_that_is_stopped_does_not_wait_for_a_server_that_was_killed(
    server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with evlog.open(server.url("n", timeout=1000), create=True) as store, store.subscribe(after=0) as run:
        tries, connections = threading.Event(), _connections_of(store)
        take = connections.take

        def noted(end: float | None = None) -> Any:
            tries.set()
            return take(end)

        follower = _Follower(run)
        with _killed(server):
            monkeypatch.setattr(connections, "take", noted)
            assert tries.wait(LONG_SECONDS)
            run.stop()
            assert isinstance(follower.end(), evlog.StoreUnreachable)


@contextmanager
def _killed(server: Cluster) -> Iterator[None]:
    server.kill(0)
    try:
        yield
    finally:
        server.start(0)
        server.await_ready()


def _connections_of(store: EventStore) -> Connections:
    assert isinstance(store.engine, NatsEngine)
    return store.engine._core.connections


def _users(password: str) -> str:
    users = f"{{ user: admin, password: right }}, {{ user: me, password: {password} }}"
    return f"no_auth_user: admin\nauthorization {{ users: [ {users} ] }}"


@pytest.fixture
def guarded() -> Iterator[Cluster]:
    """A server with a user `me`, whose password is `right` until it is changed."""
    with scratch() as folder, serving(folder, settings=_users("right")) as cluster:
        yield cluster


def _change_password(server: Cluster) -> None:
    server.reload(_users("another"))
    deadline = time.monotonic() + LONG_SECONDS
    while True:
        try:
            return evlog.open(server.url("n", "me:another", timeout=10)).close()
        except evlog.StoreAccessDenied:
            assert time.monotonic() < deadline


def test_a_user_that_is_refused_after_an_answer_was_lost_leaves_the_outcome_unknown(
    guarded: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with evlog.open(guarded.url("n", "me:right"), create=True) as store:
        store.append("a", [NewEvent("T", 0)])
        assert isinstance(store.engine, NatsEngine)
        jetstream = store.engine._core.jetstream
        publish = jetstream.publish

        def lost(*arguments: Any) -> int:
            publish(*arguments)
            _change_password(guarded)
            raise Lost

        with monkeypatch.context() as patch:
            patch.setattr(jetstream, "publish", lost)
            with pytest.raises(evlog.AppendUnknown):
                store.append("a", [NewEvent("T", 1)])
        with pytest.raises(evlog.StoreAccessDenied):  # what is known not to be made has the error itself
            store.append("a", [NewEvent("T", 2)])
    with evlog.open(guarded.url("n", "me:another")) as store:
        assert [event.data for event in store.read("a")] == [b"0", b"1"]


def test_a_server_that_ends_the_session_of_a_user_may_have_done_what_was_sent(guarded: Cluster) -> None:
    with evlog.open(guarded.url("n", "me:right"), create=True) as store:
        connections = _connections_of(store)
        session = connections.take()
        _change_password(guarded)
        with pytest.raises(Lost, match=r"(?i)auth"):
            session.request("$JS.API.INFO", b"", time.monotonic() + LONG_SECONDS)
        session.close()
        with pytest.raises(evlog.StoreAccessDenied):
            assert store.head


def test_an_append_by_a_user_that_was_refused_before_is_not_made(guarded: Cluster) -> None:
    with evlog.open(guarded.url("n", "me:right"), create=True) as store:
        store.append("a", [NewEvent("T", 0)])
        with _connections_of(store).lend() as session:
            pass
        _change_password(guarded)
        deadline = time.monotonic() + LONG_SECONDS
        while not session.has_ended():
            assert time.monotonic() < deadline
        with pytest.raises(evlog.StoreAccessDenied):
            store.append("a", [NewEvent("T", 1)])


def test_an_append_to_a_server_that_was_killed_before_is_not_made(server: Cluster) -> None:
    with evlog.open(server.url("n", timeout=0.5), create=True) as store:
        store.append("a", [NewEvent("T", 0)])
        with _killed(server), pytest.raises(evlog.StoreUnreachable):
            store.append("a", [NewEvent("T", 1)])
