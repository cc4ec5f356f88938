"""The service is suspended, and connections are cut, under every call.

The stand-in keeps its data in memory, so it is not killed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import evlog
from tests.engines.outages import UNREACHABLE, check_cuts, check_interrupts, expected, outcomes, prepare
from tests.support.ministack import Ministack, serving
from tests.support.tcp_proxy import proxying


def test_no_call_waits_without_end_for_a_suspended_server(
    dynamodb_server: Ministack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("evlog.engines.dynamodb.client._ANSWER_SECONDS", 1)
    with serving() as server:
        prepare(server.url("shop"))
        codes = expected(server.url("shop"), UNREACHABLE)
        assert outcomes(server.url("shop") + "&timeout=1", server.suspended(), UNREACHABLE) == codes
        with evlog.open(server.url("shop") + "&timeout=100") as store:
            assert store.verify().ok
        check_interrupts(server.url("shop") + "&timeout=1000", server.suspended())


def test_every_call_is_made_once_when_its_connection_is_cut(
    dynamodb_server: Ministack,
    dynamodb_url: Callable[[], str],
) -> None:
    url = dynamodb_url()
    prepare(url)
    with proxying(dynamodb_server.port) as proxy:
        check_cuts(url.replace(str(dynamodb_server.port), str(proxy.port)), proxy)
