"""A store's numbers for Prometheus: read back by the parsers of its own client library."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from evlog.adapters.metrics import openmetrics
from evlog.store import EventStore
from tests.support.helpers import new, small_store


def samples(text: bytes) -> dict[tuple[str, str], float]:
    """Return each value by the sample's name and subscription, as both formats have it."""
    types = set(re.findall(r"^# TYPE \S+ (\S+)$", text.decode(), re.MULTILINE))
    assert types == {"counter", "gauge"}, (
        "what reads the older format refuses the types that OpenMetrics added"
    )
    found, same = (
        {
            (sample.name, sample.labels.get("subscription", "")): sample.value
            for family in parse(text.decode())
            for sample in family.samples
        }
        for parse in (
            openmetrics_parser.text_string_to_metric_families,
            parser.text_string_to_metric_families,
        )
    )
    assert found == same
    return found


def test_every_number_of_store_and_subscriptions_is_there(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=4) as store:
        for number in range(9):
            store.append("s", [new(number)])
        read_up_to(store, "billing", 3)
        read_up_to(store, 'a "b"\\c', 9)
        found = samples(openmetrics(store))
        info = store.info()
        saved_us = store.subscription("billing").saved_us
    assert found["evlog_head_position", ""] == found["evlog_appended_events_total", ""] == 9
    assert found["evlog_events", ""] == 9
    assert found["evlog_segments", ""] == info.segments == 3
    assert found["evlog_size_bytes", ""] == info.bytes
    assert info.last_time is not None
    assert found["evlog_last_event_timestamp_seconds", ""] == info.last_time.timestamp()
    assert found["evlog_subscription_position", "billing"] == 3
    assert found["evlog_subscription_lag_events", "billing"] == 6
    assert found["evlog_subscription_lag_seconds", "billing"] > 0
    assert found["evlog_subscription_parked_events", "billing"] == 1
    assert found["evlog_subscription_checkpoint_timestamp_seconds", "billing"] == saved_us / 1e6
    assert found["evlog_subscription_lag_events", 'a "b"\\c'] == 0


def read_up_to(store: EventStore, name: str, position: int) -> None:
    with store.subscribe(name, follow=False) as subscription:
        for event in subscription:
            if event.position == 2 and name == "billing":
                subscription.park(event, "wrong", 1)
            if event.position > position:
                break
