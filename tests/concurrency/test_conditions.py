"""Conditions between processes: by commands as a shell script runs them, and through the queue of writers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import evlog
from evlog import IfNone, NewEvent, Query
from tests.support.programs import environment, let_go, next_line, run_python, start_python

# One student: as long as there is a place, enrol; again if another student was first.
ENROL = r"""
while :; do
    seen=$("$PYTHON" -m evlog read --type Enrolled --tag course:c1 --fields position) || exit 9
    last=$(printf %s "$seen" | sed -n '$s/[^0-9]//gp')
    [ "$(printf '%s\n' "$seen" | grep -c position)" -lt 2 ] || exit 8
    "$PYTHON" -m evlog append "student-$1" Enrolled --tag course:c1 --tag "student:$1" \
        --if-none type=Enrolled,tag=course:c1 --after "${last:-0}" && exit 0
    [ $? = 3 ] || exit 9
done
"""

# A process that takes numbered names, each of which only one process may have, and says which it got.
TAKE = """
import sys
import evlog
from evlog import ConditionFailed, IfNone, NewEvent, Query
with evlog.open(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(sys.argv[2])):
        event = NewEvent("Taken", tags=[f"name:{number}"])
        try:
            store.append(f"user-{sys.argv[3]}", [event], conditions=IfNone(Query(tags=event.tags)))
            print(number)
        except ConditionFailed:
            pass
"""


def test_ten_commands_that_enrol_at_once_take_the_two_places(tmp_path: Path) -> None:
    store = tmp_path / "store"
    evlog.open(store, create=True).close()
    variables = environment() | {"PYTHON": sys.executable, "EVLOG_STORE": str(store)}
    runs = [
        subprocess.Popen(
            ["bash", "-c", ENROL, "enrol", str(student)],
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for student in range(10)
    ]
    assert sorted(run.wait() for run in runs) == [0, 0] + [8] * 8
    with evlog.open(store) as opened:
        assert len(opened.query("type=Enrolled,tag=course:c1")) == 2
        assert opened.head == 2


def test_a_name_that_many_writers_take_belongs_to_one(tmp_path: Path) -> None:
    """Eight writers queue for the lock, so that leaders append for them, with their conditions."""
    store = tmp_path / "store"
    evlog.open(store, create=True).close()
    names = 60
    runs = [start_python("-c", TAKE, str(store), str(names), str(me)) for me in range(8)]
    for run in runs:
        assert next_line(run) == "ready\n"
    for run in runs:
        let_go(run)
    taken = [int(line) for run in runs for line in run.communicate()[0].split()]
    assert sorted(taken) == list(range(names))
    with evlog.open(store) as opened:
        events = opened.query(Query(["Taken"]))
        assert sorted(event.tags for event in events) == sorted(
            (f"name:{number}",) for number in range(names)
        )
        assert opened.verify().ok


def test_killed_writers_take_no_name_twice_and_lose_none(tmp_path: Path) -> None:
    """Rounds of four writers that all try the same names; each round ends by SIGKILL in the middle."""
    store = tmp_path / "store"
    evlog.open(store, create=True, segment_events=64).close()
    acknowledged: list[int] = []
    for _ in range(3):
        runs = [start_python("-uc", TAKE, str(store), "1000000", str(me)) for me in range(4)]
        for run in runs:
            assert next_line(run) == "ready\n"
            let_go(run)
        with evlog.open(store) as opened:
            enough = len(acknowledged) + 30
            for event in opened.subscribe(after=opened.head):
                if event.position >= enough:
                    break
        for run in runs:
            run.kill()
        for run in runs:
            # The last line may be cut off by the kill.
            acknowledged += [int(line) for line in run.communicate()[0].splitlines(keepends=True)[:-1]]
    with evlog.open(store) as opened:
        tags = [event.tags for event in opened.query(Query(["Taken"]))]
        assert len(set(tags)) == len(tags)
        assert {(f"name:{number}",) for number in acknowledged} <= set(tags)
        assert len(set(acknowledged)) == len(acknowledged) > 0
        assert opened.verify().ok


def test_a_command_says_which_event_failed_its_condition(tmp_path: Path) -> None:
    with evlog.open(tmp_path / "s", create=True) as store:
        store.append("a", [NewEvent("T", tags=["x"])])
        store.append("a", [NewEvent("T")], conditions=IfNone("tag=x", 1))
    arguments = ("-s", str(tmp_path / "s"), "append", "b", "T", "--if-none", "tag=x")
    done = run_python("-m", "evlog", *arguments, code=3, env={"EVLOG_ERRORS": "json"})
    error = json.loads(done.stderr)
    assert (error["error"], error["query"], error["after"], error["position"]) == (
        "ConditionFailed",
        "tag=x",
        0,
        1,
    )
