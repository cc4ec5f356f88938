"""`evlog trace`."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Evlog

IDS = [f"00000000-0000-7000-8000-00000000000{number}" for number in range(1, 6)]


@pytest.fixture
def story(evlog: Evlog) -> Evlog:
    """Placed caused Paid and Packed; Paid caused Shipped; Other stands alone."""
    for id, type, cause in zip(
        IDS, ("Placed", "Paid", "Packed", "Shipped", "Other"), (0, 1, 1, 2, 0), strict=True
    ):
        links = ("--causation-id", IDS[cause - 1], "--correlation-id", IDS[0]) if cause else ()
        evlog("append", f"{type.lower()}-1", type, '{"n":"\\u001b[31m"}', "--id", id, *links)
    return evlog


def test_a_pipe_gets_events_by_position_with_depth_and_cause(story: Evlog) -> None:
    for name in (IDS[0], IDS[3], "3"):
        lines = story("trace", name).lines
        assert [line["type"] for line in lines] == ["Placed", "Paid", "Packed", "Shipped"]
        assert [line["depth"] for line in lines] == [0, 1, 1, 2]
        assert [line["caused_by"] for line in lines] == [None, IDS[0], IDS[0], IDS[1]]
    del lines[0]["depth"], lines[0]["caused_by"]
    assert lines[0] == story("show", "1").line
    assert [line["type"] for line in story("trace", IDS[4]).lines] == ["Other"]


def test_a_terminal_gets_a_tree(story: Evlog) -> None:
    heading, *rows = story("trace", "1", "-o", "tree").out.decode().splitlines()
    assert heading.split() == ["event", "position", "stream", "time", "data"]
    starts = [row[: row.index("-1")].rstrip() for row in rows]
    assert [start.rsplit(None, 2)[0].rstrip() for start in starts] == [
        "Placed",
        "├─ Paid",
        "│  └─ Shipped",
        "└─ Packed",
    ]
    assert b"\x1b" not in story("trace", "1", "-o", "tree").out


def test_a_tree_of_any_depth_has_a_bounded_width(evlog: Evlog) -> None:
    ids = [f"00000000-0000-7000-8000-{number:012}" for number in range(400)]
    lines = [
        {"stream": "step", "type": "Step", "id": id, "metadata": {"$causationId": cause}}
        for id, cause in zip(ids, ids[1:] + ids[:1], strict=True)
    ][::-1]
    evlog("append", "--lines", stdin=b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    _, *rows = evlog("trace", "1", "-o", "tree").out.decode().splitlines()
    assert len(rows) == len(ids)
    assert all("└─ Step" in row for row in rows[1:])
    assert max(map(len, rows)) < len(ids)


def test_what_is_missing_or_makes_no_sense(story: Evlog) -> None:
    assert story("trace", "9").code == 5
    assert story("trace", IDS[0].replace("7", "8")).code == 5
    assert story("trace", "x").code == 2
    assert story("trace").code == 2
