"""The same work in several processes: what each returns, and what one of them that fails does to the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool

import pytest

from tests.benchmarks.together import run_together

Wait = Callable[[], object]


def _double(number: int, wait: Wait) -> int:
    wait()
    return 2 * number


def _fail_in_one(number: int, wait: Wait) -> int:
    if number == 1:
        raise ValueError("not prepared")
    wait()
    return number


def _die_in_one(number: int, wait: Wait) -> int:
    if number == 1:
        os._exit(9)
    wait()
    return number


def test_each_process_does_its_own_part() -> None:
    assert run_together(_double, [(number,) for number in range(3)]) == [0, 2, 4]


def test_an_error_in_one_process_ends_all_with_that_error() -> None:
    with pytest.raises(ValueError, match="not prepared"):
        run_together(_fail_in_one, [(number,) for number in range(3)])


def test_no_process_waits_for_one_that_died() -> None:
    with pytest.raises(BrokenProcessPool):
        run_together(_die_in_one, [(number,) for number in range(3)])
