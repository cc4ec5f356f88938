"""`evlog metrics`: the store's numbers for Prometheus."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import STORE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.cli._support.parameters import Given

HELP: Final = """Print the store's numbers as OpenMetrics text, for Prometheus.

The head position, events, bytes and segments of the store; and of each named subscription its position, lag,
parked events and when its checkpoint was saved. It needs prometheus-client
(pip install 'evlog-store[metrics]'; exit code 10 without it).

\b
  evlog metrics
  evlog metrics | grep parked_events
"""

PARAMETERS: Final = (STORE,)


def command(given: Given) -> None:
    """Print the numbers."""
    from evlog.adapters.metrics import openmetrics

    with options.open_store(given) as store:
        text = openmetrics(store)
    console.write(text)
