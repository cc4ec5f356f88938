"""The library's published tests on a store in a directory."""

from __future__ import annotations

from tests.adapters.eventsourcing import cases
from tests.adapters.eventsourcing.cases import OnDirectory, TextIds


class TestAggregateRecorder(OnDirectory, cases.AggregateRecorder):
    pass


class TestAggregateRecorderWithTextIds(TextIds, OnDirectory, cases.AggregateRecorder):
    pass


class TestSnapshotRecorder(OnDirectory, cases.SnapshotRecorder):
    pass


class TestApplicationRecorder(OnDirectory, cases.ApplicationRecorder):
    pass


class TestApplicationRecorderWithTextIds(TextIds, OnDirectory, cases.ApplicationRecorder):
    pass


class TestTrackingRecorder(OnDirectory, cases.TrackingRecorder):
    pass


class TestProcessRecorder(OnDirectory, cases.ProcessRecorder):
    pass


class TestProcessRecorderWithTextIds(TextIds, OnDirectory, cases.ProcessRecorder):
    pass


class TestNonInterleavingNotificationIDs(OnDirectory, cases.NonInterleavingNotificationIDs):
    pass


class TestFactory(OnDirectory, cases.Factory):
    pass


class TestExampleApplication(OnDirectory, cases.ExampleApplication):
    pass


class TestApplication(OnDirectory, cases.Application):
    pass


class TestView(OnDirectory, cases.View):
    pass


class TestAggregateProjection(OnDirectory, cases.AggregateProjection):
    pass


class TestTaggedDecisionProjection(OnDirectory, cases.TaggedDecisionProjection):
    pass


class TestEventSourcedProjection(OnDirectory, cases.EventSourcedProjection):
    pass


class TestDCBRecorder(OnDirectory, cases.DCBRecorder):
    pass
