"""`evlog read` in each form for programs, as a whole process, and what a search in all events costs.

The forms are compared with JSON lines, the one that goes back in. A search is compared with the same one
written by hand: a scan whose data a program searches itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import evlog
from evlog import EventStore
from tests.benchmarks.measure import Figure, Report, Target, count, seconds_of, take_turns
from tests.benchmarks.processes import Programs
from tests.benchmarks.run import Run

_FORMS: Final = ("csv", "data", "json")
# A text that no event has, a pattern that all but begin to match, and one that nothing can be said of.
_SEARCHES: Final = {
    "a rare text": "zzzz",
    "a pattern": '"amount":9999[0-9]',
    "without any text": "[x-z][0-9]",
}


def run(run: Run) -> Report:
    """Print all of a store in each form, then search it in each way."""
    store = run.filled_directories(["evlog"])["evlog"] / "store"
    events = run.sizes.bulk
    report = Report("forms", f"read {events:,} events in other forms, and search them")
    report.settings = {"evlog": {"forms": "the command, into a file", "searches": "the library"}}
    programs = Programs(run.fresh_directory("forms"))
    columns = {form: partial(_print, programs, store, form, events) for form in _FORMS}
    take_turns(1, columns)
    samples = take_turns(run.sizes.rounds, columns)
    for form in _FORMS[:-1]:
        pair = {form: samples[form], "json": samples["json"]}
        least = Target(0.5, at_least=True, over="json") if form == "csv" else None
        report.figures.append(Figure(f"read -o {form}", "events/s", pair, least))
    with evlog.open(store) as opened:
        for label, pattern in _SEARCHES.items():
            ways: dict[str, Callable[[EventStore, str], int]] = {"evlog": _search, "by hand": _search_by_hand}
            turns = {name: partial(_rate, way, opened, pattern) for name, way in ways.items()}
            found = take_turns(run.sizes.rounds, turns)
            report.figures.append(Figure(f"search for {label}", "events/s", found))
    return report


def _print(programs: Programs, store: Path, form: str, events: int) -> float:
    with open(os.devnull, "wb") as out:
        return events / programs.evlog("read", "--store", str(store), "-o", form, stdout=out)


def _rate(way: Callable[[EventStore, str], int], store: EventStore, pattern: str) -> float:
    return store.head / seconds_of(partial(way, store, pattern))


def _search(store: EventStore, pattern: str) -> int:
    return count(store.read_all(grep=pattern))


def _search_by_hand(store: EventStore, pattern: str) -> int:
    search = re.compile(pattern).search
    return sum(1 for event in store.read_all() if search(event.data.decode()))
