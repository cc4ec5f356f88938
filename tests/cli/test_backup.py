"""`evlog backup`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Evlog
from tests.support.helpers import flip_bit


def test_a_backup_is_one_line_of_json_and_a_store(evlog: Evlog) -> None:
    evlog("append", "order-1", "Placed", '{"n":1}')
    done = json.loads(evlog("backup", "copy").out)
    assert done["ok"] is True
    assert (done["position"], done["events"], done["findings"]) == (1, 1, [])
    assert done["copied_bytes"] > 0
    assert evlog("read", "-s", "copy").out == evlog("read").out


def test_errors_have_their_exit_codes(evlog: Evlog) -> None:
    assert evlog("backup", "copy").code == 5
    evlog("append", "s", "T")
    assert evlog("backup").code == 2
    assert evlog("backup", "copy").code == 0
    evlog("append", "s", "Mine", "-s", "copy")
    result = evlog("backup", "copy")
    assert result.code == 3
    assert "no longer a copy" in result.err
    assert evlog("backup", ".evlog").code == 5
    result = evlog("backup", "other", "-s", "postgresql://127.0.0.1:1/none")
    assert result.code == 10
    assert "evlog mirror" in result.err


def test_damage_in_the_copy_is_exit_code_4(evlog: Evlog) -> None:
    evlog("init", "--segment-events", "2")
    for _ in range(5):
        evlog("append", "s", "T")
    log = Path(".evlog/segments/00000000000000000001.0.log")
    flip_bit(log, -3)
    result = evlog("backup", "copy")
    assert result.code == 4
    assert json.loads(result.out)["findings"][0]["file"] == "segments/00000000000000000001.0.log"
