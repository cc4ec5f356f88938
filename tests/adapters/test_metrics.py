"""A store's numbers for Prometheus: read back by the parser of its own client library."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from evlog.adapters.metrics import prometheus_text
from evlog.store import EventStore
from tests.support.helpers import new, small_store


def samples(text: bytes) -> dict[tuple[str, str], float]:
    """Sample's name and subscription → value."""
    families = list(text_string_to_metric_families(text.decode()))
    types = {family.type for family in families}
    assert types == {"counter", "gauge"}, "node_exporter drops a file with the types of OpenMetrics"
    return {
        (sample.name, sample.labels.get("subscription", "")): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_number_of_store_and_subscriptions_is_there(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=4) as store:
        for number in range(9):
            store.append("s", [new(number)])
        read_up_to(store, "billing", 3)
        read_up_to(store, 'a "b"\\c', 9)
        found = samples(prometheus_text(store))
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
