"""`evlog fork`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Evlog


def test_the_command_prints_what_it_made(evlog: Evlog) -> None:
    for number in range(3):
        evlog("append", "s", "T", str(number))
    done = json.loads(evlog("fork", "what-if", "--at", "2").out)
    assert (done["path"], done["position"], done["events"]) == ("what-if", 2, 2)
    assert evlog("read", "-s", "what-if").out == b"".join(evlog("read").out.splitlines(True)[:2])
    assert evlog("append", "-s", "what-if", "s", "Other", "-e", "2").code == 0
    assert evlog("fork", "what-if").code == 3
    assert evlog("fork", "other", "--at", "9").code == 2
    assert not Path("other").exists()
