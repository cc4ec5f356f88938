"""`evlog state` and `evlog snapshots`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest

from evlog.errors import EvlogError, StoreAccessDenied, StoreFull
from evlog.files.follow.snapshot_file import SnapshotFile
from tests.cli.conftest import Evlog

COUNT = (
    "python3 -c 'import sys; print(json.dumps((json.loads(input()) or 0) + len(list(sys.stdin))))'".replace(
        "import sys", "import json, sys"
    )
)


@pytest.fixture
def shop(evlog: Evlog) -> Evlog:
    """Three events of order-1, one of order-2, one of user-1."""
    for stream, data in (
        ("order-1", {"total": 3, "by": "ann"}),
        ("order-1", {"total": 4}),
        ("order-2", {"total": 9}),
        ("order-1", {"by": None}),
        ("user-1", {"name": "ben"}),
    ):
        evlog("append", stream, "Changed", json.dumps(data), "--tag", stream)
    return evlog


def test_a_stream_s_state(shop: Evlog) -> None:
    line = shop("state", "order-1").line
    assert list(line) == ["state", "events", "version", "position", "time"]
    assert line["state"] == {"total": 4}
    assert (line["events"], line["version"], line["position"]) == (3, 3, 4)
    assert line["time"] == shop("show", "4").line["time"]
    assert shop("state", "order-1", "--at", "1").line["state"] == {"total": 3, "by": "ann"}
    assert shop("state", "order-1", "-o", "data").out == b'{"total":4}\n'
    assert shop("state", "--at", "99").line["position"] == shop("info").line["last_position"]
    before = shop("state", "order-1", "--at", "0").line
    assert (before["state"], before["events"], before["time"]) == (None, 0, None)


def test_a_selection_s_state(shop: Evlog) -> None:
    line = shop("state", "--category", "order").line
    assert list(line) == ["state", "events", "position", "time"]
    assert (line["state"], line["events"], line["position"]) == ({"total": 9}, 4, 5)
    assert shop("state", "--tag", "order-2").line["state"] == {"total": 9}
    assert shop("state", "--category", "order", "--at", "2").line["events"] == 2
    assert shop("state", "--type", "None").line == {"state": None, "events": 0, "position": 5, "time": None}
    assert shop("state", "--until", "yesterday").line["events"] == 0


def test_pretty_says_where_it_comes_from(shop: Evlog) -> None:
    first, *rest = shop("state", "order-1", "-o", "pretty").out.decode().splitlines()
    assert first.startswith("order-1  version 3  3 events  position 4  ")
    assert rest == ["    {", '      "total": 4', "    }"]


def test_a_command_folds_from_the_state_so_far(shop: Evlog) -> None:
    assert shop("state", "--exec", COUNT, "--snapshot", "n").line["state"] == 5
    shop("append", "user-1", "Changed")
    echo = shop("state", "--exec", COUNT, "--snapshot", "n").line
    assert (echo["state"], echo["events"], echo["position"]) == (6, 6, 6)
    assert shop("snapshots", "show", "n").line["fold"] == f"exec: {COUNT}"
    first = shop("state", "order-1", "--exec", "head -n 1; cat > /dev/null", "--snapshot", "n").line
    assert first["state"] is None
    lines = shop("state", "order-1", "--exec", "tail -n 1").line["state"]
    assert lines == shop("show", "4").line


def test_what_a_command_prints_is_kept_as_it_is(shop: Evlog) -> None:
    printed = 'printf \' {"a": 1.50,\\n "b": 1e400}\\n\\n\'; cat > /dev/null'
    assert shop("state", "--exec", printed, "-o", "data").out == b'{"a": 1.50,  "b": 1e400}\n'


@pytest.mark.parametrize("text", ["false", "true", "echo 1 2", "echo NaN", "echo '{'", "exit 3", "no-such-x"])
def test_a_command_that_does_not_fold_keeps_nothing(shop: Evlog, text: str) -> None:
    failed = shop("state", "--exec", text, "--snapshot", "n")
    assert (failed.code, failed.out) == (1, b"")
    assert "no state was kept" in failed.err
    assert shop("snapshots").out == b""


def test_without_new_events_no_command_is_run(shop: Evlog) -> None:
    shop("state", "--exec", COUNT, "--snapshot", "n")
    assert shop("state", "--exec", COUNT, "--snapshot", "n").line["state"] == 5
    here = Path("mark")
    fold = f"cat > /dev/null; touch {here}; echo 1"
    shop("state", "--exec", fold, "--at", "0")
    assert not here.exists()


def test_options_that_exclude_each_other_and_missing_things(shop: Evlog) -> None:
    assert shop("state", "order-1", "--category", "order").code == 2
    assert shop("state", "--exec", " ").code == 2
    assert shop("state", "--snapshot", "").code == 2
    missing = shop("state", "order")
    assert missing.code == 5
    assert "--category order" in missing.err
    shop("delete", "order-1")
    assert shop("state", "order-1").code == 5
    for action in ("show", "delete"):
        assert shop("snapshots", action, "none").code == 5
        assert shop("snapshots", action, "none", "order-1").code == 5


def test_snapshots_are_listed_shown_and_deleted(shop: Evlog) -> None:
    shop("state", "order-1", "--snapshot", "s")
    shop("state", "--category", "order", "--tag", "order-2", "--snapshot", "s")
    of_stream, of_selection = sorted(shop("snapshots").lines, key=lambda row: row["stream"] or "z")
    assert (of_stream["stream"], of_stream["version"], of_stream["events"]) == ("order-1", 3, 3)
    assert of_selection["selection"] == {"category": "order", "tags": ["order-2"]}
    assert shop("snapshots", "show", "s", "order-1").line["state"] == {"total": 4}
    assert shop("snapshots", "show", "s", "--fields", "state").line == {"state": {"total": 9}}
    shop("state", "order-1", "--snapshot", "one")
    assert "each with the stream to give" in shop("snapshots", "show", "one").err
    shop("snapshots", "delete", "one", "order-1")
    table = shop("snapshots", "list", "-o", "table").out.decode()
    assert "--category order --tag order-2" in table
    shop("snapshots", "delete", "s", "order-1")
    assert len(shop("snapshots").lines) == 1


def test_a_snapshot_is_shown_with_all_digits_of_its_numbers(evlog: Evlog) -> None:
    state = b'{"huge":1e999,"long":%b,"exact":[1.000000000000000000001]}' % (b"9" * 5000)
    evlog("append", "s", "T", state.decode())
    evlog("state", "s", "--snapshot", "n")
    assert evlog("snapshots", "show", "n", "s").out.endswith(b',"state":%b}\n' % state)
    assert evlog("snapshots", "show", "n", "s", "--fields", "state.huge").out == b'{"state.huge":1e999}\n'
    assert state in evlog("snapshots", "show", "n", "s", "-o", "pretty").out
    csv = evlog("snapshots", "show", "n", "s", "-o", "csv", "--fields", "state.huge,state.exact").out
    assert csv == b"state.huge,state.exact\n1e999,[1.000000000000000000001]\n"


def test_a_damaged_snapshot_is_said_and_rebuilt(shop: Evlog) -> None:
    shop("state", "--snapshot", "s")
    (path,) = Path(".evlog/snapshots").glob("*.log")
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    (row,) = shop("snapshots").lines
    assert "cut off or damaged" in row["damage"]
    assert shop("snapshots", "show", "s").code == 4
    report = shop("verify").line
    assert report["ok"]
    assert [finding["kind"] for finding in report["findings"]] == ["snapshot"]
    assert shop("state", "--snapshot", "s").line["events"] == 5
    assert path.read_bytes()[-20:] != raw[:-1][-20:]
    assert shop("verify").line["findings"] == []


@pytest.mark.parametrize("fold", [[], ["--exec", COUNT]], ids=["merge", "exec"])
@pytest.mark.parametrize(
    ("error", "code"), [(StoreAccessDenied("lock", "read-only"), 1), (StoreFull("x", "no room"), 9)]
)
def test_a_state_whose_snapshot_cannot_be_saved_is_printed(
    shop: Evlog, monkeypatch: pytest.MonkeyPatch, fold: list[str], error: EvlogError, code: int
) -> None:
    def refused(*_: object) -> NoReturn:
        raise error

    whole = shop("state", "order-1", *fold)
    monkeypatch.setattr(SnapshotFile, "save", refused)
    done = shop("state", "order-1", *fold, "--snapshot", "s")
    assert (done.code, done.out) == (code, whole.out)
    assert done.err == f"evlog: the snapshot 's' was not saved: {error}\n"
