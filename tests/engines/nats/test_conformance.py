"""The conformance suite on NATS JetStream."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evlog.testing import Conformance


class TestNats(Conformance):
    random_runs = 6
    random_steps = 30

    @pytest.fixture
    def new_url(self, nats_url: Callable[[], str]) -> Callable[[], str]:
        return nats_url
