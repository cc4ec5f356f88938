"""A kill, then another command, then a power loss: nothing acknowledged is lost."""

from __future__ import annotations

from tests.crash import chain, explore


def test_a_power_loss_after_a_command_after_a_kill_loses_nothing() -> None:
    outcome = explore.run(chain.jobs(stride=100, most=0))
    explore.expect(outcome, 300)
