"""Two operations at once: see `tests/engines/pairs.py`. EVLOG_TEST_STRIDE=1 stops at every request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evlog.engines.nats.session import Session
from tests.engines.pairs import SCENES, check_compaction, check_pairs, pairs_of
from tests.support.nats import Cluster


@contextmanager
def requests(before: Callable[[], None]) -> Iterator[None]:
    """Call a function before each request."""
    send = Session.send

    def hooked(session: Session, raw: bytes | bytearray) -> None:
        before()
        send(session, raw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "send", hooked)
        yield


STRIDES = dict(zip(SCENES, (11, 7, 1, 13), strict=True))


@pytest.mark.parametrize("scene", SCENES)
def test_two_operations_at_once_keep_every_promise(
    nats_url: Callable[[], str],
    nats_server: Cluster,
    memory_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scene: str,
) -> None:
    monkeypatch.setattr("evlog.engines.keyed.LEASE_SECONDS", 0.4)

    def remove(url: str) -> None:
        name = url.rpartition("/")[2]
        assert nats_server.ask(nats_server.ports[0], f"$JS.API.STREAM.DELETE.evlog-{name}", b"")
        nats_server.ask(nats_server.ports[0], f"$JS.API.STREAM.DELETE.KV_evlog-{name}", b"")

    check_pairs(pairs_of(scene, nats_url, memory_path, requests, remove), STRIDES[scene])


def test_a_compaction_removes_only_what_is_hidden_at_each_step(
    nats_url: Callable[[], str], memory_path: Path
) -> None:
    check_compaction(nats_url(), memory_path)
