"""A short run of the fuzzer; `python -m tests.untrusted.fuzz --minutes N` is the long one."""

from __future__ import annotations

import random

import pytest

from tests.support.programs import run_python
from tests.untrusted.fuzz import change


@pytest.mark.parametrize("seed", ["a", "b"])
def test_changed_files_with_right_crcs_raise_evlog_errors_only(seed: str) -> None:
    run_python("-m", "tests.untrusted.fuzz", "--seed", seed, "--trials", "30", "--crashes")


def test_a_trial_can_be_repeated() -> None:
    content = bytes(range(256)) * 8
    for trial in range(50):
        first, second = (change(content, "log", random.Random(trial)) for _ in range(2))
        assert first == second
