"""A store's numbers as OpenMetrics text, by prometheus_client.

Names and units follow Prometheus's conventions: base units, `_total` for what only grows, and a point in time
as `_timestamp_seconds`, from which a query computes the age.

node_exporter, the Pushgateway and promtool read Prometheus's older text format. They take this text, too,
because every metric is a counter or a gauge: they refuse the types that OpenMetrics added, such as `info`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evlog.errors import ExtraNotInstalled

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.openmetrics.exposition import generate_latest
    from prometheus_client.registry import Collector, CollectorRegistry
except ImportError as error:
    raise ExtraNotInstalled("evlog metrics", "prometheus-client", "metrics", error) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from evlog.model.reports import StoreInfo
    from evlog.store import EventStore
    from evlog.subscriptions.named import SubscriptionInfo

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_STORE: Final[tuple[tuple[str, str, Callable[[StoreInfo], float]], ...]] = (
    ("evlog_head_position", "Last position of the log.", lambda info: info.last_position),
    ("evlog_events", "Events that a read of everything gives.", lambda info: info.events),
    ("evlog_streams", "Streams that exist.", lambda info: info.streams),
    ("evlog_size_bytes", "Size of the store.", lambda info: info.bytes),
    ("evlog_segments", "Segments of the log.", lambda info: info.segments),
    (
        "evlog_last_event_timestamp_seconds",
        "Time of the last event; 0 in an empty store.",
        lambda info: 0.0 if info.last_time is None else info.last_time.timestamp(),
    ),
)
_SUBSCRIPTION: Final[tuple[tuple[str, str, Callable[[SubscriptionInfo], float]], ...]] = (
    ("evlog_subscription_position", "Last position that was scanned.", lambda sub: sub.position),
    ("evlog_subscription_lag_events", "Positions that were not scanned yet.", lambda sub: sub.lag_events),
    (
        "evlog_subscription_lag_seconds",
        "Age of the first event that was not scanned; 0 if there is none.",
        lambda sub: sub.lag_seconds,
    ),
    ("evlog_subscription_parked_events", "Events that were set aside.", lambda sub: sub.parked),
    ("evlog_subscription_running", "1 while a run holds the subscription.", lambda sub: sub.running),
    (
        "evlog_subscription_checkpoint_timestamp_seconds",
        "When the checkpoint was saved last.",
        lambda sub: sub.saved_us / 1e6,
    ),
    ("evlog_subscription_damaged", "1 if its checkpoint is damaged.", lambda sub: sub.damage is not None),
)


class StoreCollector(Collector):
    """Gives a store's numbers to a registry, as they are at each collection.

    Args:
        store: open while it is collected from.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. Raises as `EventStore.info` and `EventStore.subscriptions`."""
        info = self._store.info()
        about = GaugeMetricFamily("evlog_store_info", "The store.", labels=["store_id", "engine"])
        about.add_metric([str(info.id), self._store.capabilities.engine], 1)
        yield about
        yield CounterMetricFamily(
            "evlog_appended_events", "Positions that were ever given to events.", value=info.last_position
        )
        for name, help, value in _STORE:
            yield GaugeMetricFamily(name, help, value=value(info), unit=_unit(name))
        subscriptions = self._store.subscriptions()
        for name, help, of in _SUBSCRIPTION:
            family = GaugeMetricFamily(name, help, labels=["subscription"], unit=_unit(name))
            for each in subscriptions:
                family.add_metric([each.name], of(each))
            yield family


def openmetrics(store: EventStore) -> bytes:
    """Return the store's numbers as OpenMetrics text, of the media type CONTENT_TYPE.

    Raises:
        As `EventStore.info` and `EventStore.subscriptions`.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector(store))
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text


def _unit(name: str) -> str:
    unit = name.rpartition("_")[2]
    return unit if unit in {"bytes", "seconds"} else ""
