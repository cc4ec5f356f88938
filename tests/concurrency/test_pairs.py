"""An operation that runs while another one is half done breaks no promise. See pairs.py, which tries more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.concurrency.pairs import (
    OPERATIONS,
    Template,
    check_descriptors,
    prepared,
    schedules,
    try_schedule,
)
from tests.crash.explore import step_of

STRIDE = 1201  # a prime, so that calls, operations and modes are mixed


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    with prepared() as made:
        yield made


@pytest.mark.parametrize("first", OPERATIONS)
def test_operations_that_meet_another_one_half_done_break_no_promise(template: Template, first: str) -> None:
    for second, call, mode in schedules(template, first, step_of(STRIDE)):
        outcome = try_schedule(template, first, second, call, mode)
        assert not outcome.failure, f"{first} at call {call}, {second}, {mode}:\n{outcome.failure}"
    check_descriptors(template)
