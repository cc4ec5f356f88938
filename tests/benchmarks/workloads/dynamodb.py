"""A store in DynamoDB beside botocore doing the same work without evlog's promises, on a stand-in.

botocore sends the same events with their ids in transactions of the same size, to a table with the same
index. It knows no versions or positions: it makes them up. The stand-in is one process in Python, so the
figures say what evlog's client costs, not how fast the service is.
"""

from __future__ import annotations

import itertools
import os
from functools import partial
from typing import Any, Final
from uuid import uuid4

import evlog
from evlog import EventStore, NewEvent
from tests.benchmarks.measure import Figure, Report, Target, count, seconds_of, take_turns
from tests.benchmarks.run import Run
from tests.support import ministack

_LEAST: Final = Target(0.7, at_least=True, over="botocore")
_BATCH: Final = 49  # the most that a transaction takes
_MOST_EVENTS: Final = 4900
_DATA: Final = b'{"amount":10,"note":"%b"}' % (b"x" * 77)


def run(run: Run) -> Report:
    """Measure batches, single appends and scans, in turns."""
    report = Report("dynamodb", "evlog in DynamoDB beside plain botocore, on a stand-in")
    if not ministack.IS_INSTALLED:
        report.notes.append("skipped: ministack is not installed")
        return report
    os.environ.update(ministack.CREDENTIALS)
    with ministack.serving() as server:
        evlog.open(server.url("peer"), create=True).close()  # a table with the same keys and index
        peer = Peer(f"http://127.0.0.1:{server.port}")
        with evlog.open(server.url("bench"), create=True) as store:
            events = min(run.sizes.small, _MOST_EVENTS)
            for size, label, target in (
                (_BATCH, f"batches of {_BATCH}", _LEAST),
                (1, "single appends", None),
            ):
                appends = max(1, events // (_BATCH if size > 1 else 20 * _BATCH))
                columns = {
                    "evlog": partial(_rate, partial(_append, store), size, appends),
                    "botocore": partial(_rate, peer.append, size, appends),
                }
                samples = take_turns(run.sizes.rounds, columns)
                report.figures.append(Figure(label, "events/s", samples, target))
            columns = {"evlog": partial(_scan, store), "botocore": partial(_scan, peer)}
            samples = take_turns(run.sizes.rounds, columns)
            report.figures.append(Figure("scan of all", "events/s", samples))
            report.settings = {"dynamodb": {"durability": store.capabilities.durability}}
    return report


class Peer:
    """The client alone."""

    def __init__(self, endpoint: str) -> None:
        import botocore.session

        session = botocore.session.Session()
        self._client: Any = session.create_client(
            "dynamodb", region_name=ministack.REGION, endpoint_url=endpoint
        )
        self._positions = itertools.count(1)

    def append(self, events: int) -> None:
        """Put events and their ids in one transaction, each if it is not there."""
        puts = []
        for position in itertools.islice(self._positions, events):
            id = uuid4()
            event = {
                "PK": {"S": "STREAM#a"},
                "SK": {"S": f"VERSION#{position:020d}"},
                "log": {"S": "LOG"},
                "position": {"N": str(position)},
                "stream": {"S": "a"},
                "type": {"S": "T"},
                "id": {"B": id.bytes},
                "time": {"N": "1764371000000000"},
                "data": {"S": _DATA.decode()},
            }
            puts += [event, {"PK": {"S": f"ID#{id.hex}"}, "SK": {"S": "ID"}, "at": {"N": str(position)}}]
        self._client.transact_write_items(
            TransactItems=[
                {
                    "Put": {
                        "TableName": "peer",
                        "Item": item,
                        "ConditionExpression": "attribute_not_exists(PK)",
                    }
                }
                for item in puts
            ]
        )

    def scan(self) -> int:
        """Read the whole index; return how many events there are."""
        pages = self._client.get_paginator("query").paginate(
            TableName="peer",
            IndexName="by_position",
            KeyConditionExpression="#l = :l",
            ExpressionAttributeNames={"#l": "log"},
            ExpressionAttributeValues={":l": {"S": "LOG"}},
        )
        return sum(len(page["Items"]) for page in pages)


def _append(store: EventStore, events: int) -> None:
    store.append("a", [NewEvent("T", _DATA) for _ in range(events)])


def _rate(append: Any, size: int, appends: int) -> float:
    return appends * size / seconds_of(lambda: [append(size) for _ in range(appends)])


def _scan(client: EventStore | Peer) -> float:
    found: list[int] = []
    work = client.scan if isinstance(client, Peer) else lambda: count(client.read_all())
    seconds = seconds_of(lambda: found.append(work()))
    return found[0] / seconds
