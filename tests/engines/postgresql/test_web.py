"""The page of `evlog web` over a store in PostgreSQL."""

from __future__ import annotations

import socket
from collections.abc import Callable

import evlog
from evlog import NewEvent
from tests.web.conftest import LONG_SECONDS, fill, serving_here


def test_the_page_shows_a_store_on_a_server(postgresql_url: Callable[[], str]) -> None:
    with evlog.open(postgresql_url(), create=True) as store, serving_here(store) as served:
        fill(store)
        store.consume("audit", lambda _: None, follow=False)
        last = store.append("cart-00", [store.get(1).caused("Sent", {"to": "ann"})]).last_position
        page = served.ask("events?limit=3&category=cart")
        assert [event["position"] for event in page["events"]] == [301, 290, 289]
        page = served.ask("events?limit=2&stream=cart-00&before=11")
        assert [event["version"] for event in page["events"]] == [10, 9]
        assert served.ask("events?limit=2&tag=customer:2&text=number")["events"][0]["position"] == 291
        assert served.ask(f"event?position={last}")["previous"] == 10
        assert served.ask("streams?limit=2&prefix=order-1")["count"] == 5
        (audit,) = served.ask("subscriptions")["subscriptions"]
        assert (audit["position"], audit["lag_events"]) == (300, 1)
        assert served.ask("store")["capabilities"]["engine"] == "postgresql"
        assert served.ask("verify")["ok"]
        _, told = served.request("story?position=1")
        assert b'"position": 301' in told
        with socket.create_connection(("127.0.0.1", served.port), timeout=LONG_SECONDS) as live:
            live.sendall(f"GET {served.path}live HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            received = b""
            while b"data: 301" not in received:
                received += live.recv(4096)
            store.append("a", [NewEvent("T")])
            while b"data: 302" not in received:
                received += live.recv(4096)
