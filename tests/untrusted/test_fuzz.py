"""A short run of the fuzzer; `python -m tests.untrusted.fuzz --minutes N` is the long one."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.untrusted.fuzz import change

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("seed", ["a", "b"])
def test_changed_files_with_right_crcs_raise_evlog_errors_only(seed: str) -> None:
    command = [sys.executable, "-m", "tests.untrusted.fuzz", "--seed", seed, "--trials", "30", "--crashes"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_trial_can_be_repeated() -> None:
    content = bytes(range(256)) * 8
    for trial in range(50):
        first, second = (change(content, "log", random.Random(trial)) for _ in range(2))
        assert first == second
