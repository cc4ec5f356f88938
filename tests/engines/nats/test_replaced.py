"""A stream that is deleted and made again while a client has it open: see `tests/engines/replaced.py`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import evlog
from evlog.engines.nats.engine import NatsEngine
from evlog.engines.nats.jetstream import FORMAT, FORMAT_HEADER, publish_one
from tests.engines.replaced import CHANGES, USES, Drop, check_newer, check_run, check_uses
from tests.support.nats import Cluster

Url = Callable[[], str]


@pytest.fixture(params=["with its bucket", "without its bucket"])
def drop(nats_server: Cluster, request: pytest.FixtureRequest) -> Drop:
    """Delete a store's stream, and perhaps its bucket."""

    def drop(url: str) -> None:
        name, port = url.rpartition("/")[2], nats_server.ports[0]
        assert nats_server.ask(port, f"$JS.API.STREAM.DELETE.evlog-{name}", b"")
        if request.param == "with its bucket":
            assert nats_server.ask(port, f"$JS.API.STREAM.DELETE.KV_evlog-{name}", b"")

    return drop


@pytest.mark.parametrize("is_used", [False, True])
def test_nothing_is_read_or_written_in_another_store(nats_url: Url, drop: Drop, is_used: bool) -> None:
    check_uses(nats_url, drop, CHANGES | USES, is_used=is_used)


@pytest.mark.parametrize("name", [None, "n"])
def test_a_run_ends_where_another_store_was_made(nats_url: Url, drop: Drop, name: str | None) -> None:
    check_run(nats_url(), drop, name)


def _raise_format(url: str) -> None:
    with evlog.open(url) as store:
        assert isinstance(store.engine, NatsEngine)
        jetstream = store.engine._core.jetstream
        control = jetstream.last_control()
        headers = {name: value.decode() for name, value in control.headers.items() if "Expected" not in name}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        lines += f"{FORMAT_HEADER}: {FORMAT + 1}\r\n"
        publish_one(jetstream, control.subject, control.data, lines.encode())


def test_a_store_that_a_newer_evlog_has_changed_is_left_alone(nats_url: Url) -> None:
    check_newer(nats_url(), _raise_format)
