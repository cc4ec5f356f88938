"""Checks of a recorded history: the results of all processes fit one order of events."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from evlog import Event

Record = dict[str, Any]


def check_log(events: list[Event]) -> None:
    """Check that positions and versions have no gap, no id is there twice, and time never decreases."""
    assert [event.position for event in events] == list(range(1, len(events) + 1))
    versions: dict[str, int] = defaultdict(int)
    for event in events:
        versions[event.stream] += 1
        assert event.version == versions[event.stream]
    assert len({event.id for event in events}) == len(events)
    times = [event.time_us for event in events]
    assert times == sorted(times)


def check_acknowledged(events: list[Event], history: list[Record]) -> None:
    """Check that each acknowledged event is where its writer was told, once, and nothing else is there."""
    at = {event.position: event for event in events}
    told: list[str] = []
    for record in history:
        if record["kind"] == "append":
            event = at[record["position"]]
            assert str(event.id) == record["id"]
            assert (event.stream, event.version) == (record["stream"], record["version"])
            assert record["version"] == record["expected"] + 1
            assert not record["duplicate"]
            told.append(record["id"])
        elif record["kind"] == "batch":
            for offset, id in enumerate(record["ids"]):
                assert str(at[record["position"] + offset].id) == id
            told += record["ids"]
        elif record["kind"] == "retry":
            assert record["duplicate"]
            assert str(at[record["position"]].id) == record["id"]
    assert sorted(told) == sorted(str(event.id) for event in events)


def check_counters(events: list[Event]) -> None:
    """Check that no update is lost: each counter went 1, 2, 3 …"""
    values: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if event.type == "Counted":
            values[event.stream].append(event.json())
    for stream, seen in values.items():
        assert seen == list(range(1, len(seen) + 1)), stream


def check_order(history: list[Record]) -> None:
    """Check that what was acknowledged before an append began has a lower position than what it wrote."""
    acknowledged = sorted(
        (record["ended"], record["position"]) for record in history if record["kind"] in ("append", "batch")
    )
    highest: list[tuple[int, int]] = []
    most = 0
    for ended, position in acknowledged:
        most = max(most, position)
        highest.append((ended, most))
    written = sorted(
        (record["began"], record["position"]) for record in history if record["kind"] in ("append", "batch")
    )
    at = 0
    for began, position in written:
        while at < len(highest) and highest[at][0] < began:
            at += 1
        if at:
            assert position > highest[at - 1][1]


def check_readers(events: list[Event], readers: list[list[Record]], history: list[Record]) -> None:
    """Check that reads never go back, keep the log's order, and see all that was acknowledged before."""
    acknowledged = sorted(
        (record["ended"], record["position"]) for record in history if record["kind"] in ("append", "batch")
    )
    for records in readers:
        seen: list[str] = []
        for record in records:
            known = max((position for ended, position in acknowledged if ended < record["began"]), default=0)
            if record["kind"] == "poll":
                assert record["positions"] == list(range(len(seen) + 1, len(seen) + 1 + len(record["ids"])))
                seen += record["ids"]
                assert len(seen) >= known
            elif record["kind"] == "look":
                assert record["head"] >= known
        if seen:
            assert seen == [str(event.id) for event in events[: len(seen)]]
        looks = [record for record in records if record["kind"] == "look"]
        for key in ("head", "version"):
            assert [record[key] for record in looks] == sorted(record[key] for record in looks)


def check_refusals(history: list[Record]) -> None:
    """Check that each refusal was right: the version in the error was in the log, or being written."""
    made: dict[tuple[str, int], int] = {
        (record["stream"], record["version"]): record["began"]
        for record in history
        if record["kind"] == "append"
    }
    for record in history:
        if record["kind"] == "refused":
            assert record["actual"] > record["expected"]
            assert made[record["stream"], record["actual"]] < record["ended"]
