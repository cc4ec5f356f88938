"""Power losses on file systems of the running kernel; what was acknowledged is there after the next mount.

A few moments of each; `python -m tests.crash.file_systems` tries more.
"""

from __future__ import annotations

import pytest

from evlog.files.disk.files import Disk
from tests.crash import explore
from tests.crash.block_device import why_not
from tests.crash.file_systems import KINDS, SCENARIOS, Kind, power_losses, recorded

# One after another: mount opens every loop device to find a free one, which delays the end of others.
pytestmark = pytest.mark.xdist_group("loop devices")

_SOME = [kind for kind in KINDS if kind.name == kind.program]


def _need(kind: Kind) -> None:
    if (reason := why_not(kind.program)) is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("kind", _SOME, ids=[kind.name for kind in _SOME])
@pytest.mark.parametrize("name", ["appends", "compaction", "redaction", "refused writes", "subscription"])
def test_a_power_loss_takes_nothing_that_was_acknowledged(kind: Kind, name: str) -> None:
    _need(kind)
    with recorded(kind, SCENARIOS[name]) as done:
        assert (b"refused 0" in {operation.data for operation in done.operations}) == (
            name == "refused writes"
        )
        explore.expect(power_losses(done, explore.usually(4, long=40), seed=1), 1)


def test_a_power_loss_shows_a_missing_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above could not fail."""
    _need(_SOME[0])
    monkeypatch.setattr(Disk, "sync", lambda _disk, _file: None)
    with recorded(_SOME[0], SCENARIOS["appends"]) as done:
        monkeypatch.undo()
        assert power_losses(done, 6, seed=1).failures


def test_a_refused_write_shows_a_missing_look_at_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory goes on showing what the device has refused, so a later writer would build on it."""
    _need(_SOME[0])
    monkeypatch.setattr(Disk, "drop_cache", lambda *_: None)
    with recorded(_SOME[0], SCENARIOS["refused writes"]) as done:
        monkeypatch.undo()
        assert power_losses(done, 6, seed=1).failures
