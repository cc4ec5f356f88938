"""The short form of the long follow: hundreds of rolls leave no descriptor and no memory behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.concurrency.long_follow import follow_through, growth

ROLLS = 600
A_LEAK_BYTES = 2048  # of a roll; what a forgotten segment holds is several times as much


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read from /proc")
def test_a_follower_holds_no_more_after_hundreds_of_rolls(memory_path: Path) -> None:
    descriptors, memory_bytes = growth(list(follow_through(memory_path / "store", ROLLS)))
    assert descriptors == 0
    assert memory_bytes < ROLLS * A_LEAK_BYTES
