"""Processes that are killed while they insert: each notification has come to its events exactly once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import evlog
from evlog.adapters.eventsourcing import EvlogProcessRecorder
from tests.support.programs import next_line, start_python

WORKER = """
import sys
from uuid import uuid4
import evlog
from eventsourcing.persistence import IntegrityError, StoredEvent, Tracking
from evlog.adapters.eventsourcing import EvlogProcessRecorder

recorder = EvlogProcessRecorder(evlog.open(sys.argv[1], create=True), application="Billing")
while True:
    number = (recorder.max_tracking_id("Shop") or 0) + 1
    state = b'{"n":%d}' % number
    try:
        recorder.insert_events(
            [StoredEvent(uuid4(), 1, "Billed", state) for _ in range(2)], tracking=Tracking("Shop", number)
        )
    except IntegrityError:
        continue
    print(number, flush=True)
"""


def test_killed_processes_have_processed_each_notification_once(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    acknowledged: list[int] = []
    for _ in range(3):
        workers = [start_python("-c", WORKER, path) for _ in range(2)]
        for worker in workers:
            acknowledged += [int(next_line(worker)) for _ in range(5)]
        for worker in workers:
            worker.kill()
        for worker in workers:
            acknowledged += [int(line) for line in worker.communicate()[0].split()]
    with evlog.open(path) as store:
        recorder = EvlogProcessRecorder(store, application="Billing")
        last = recorder.max_tracking_id("Shop")
        assert last is not None
        found = Counter(json.loads(event.state)["n"] for event in recorder.select_notifications(1, 1 << 20))
        assert found == dict.fromkeys(range(1, last + 1), 2)
        assert len(set(acknowledged)) == len(acknowledged)
        assert max(acknowledged) <= last
        assert store.verify().ok
