"""The conformance suite on a real broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evlog.testing import Conformance


class TestKafka(Conformance):
    random_runs = 4
    random_steps = 30

    @pytest.fixture
    def new_url(self, kafka_url: Callable[[], str]) -> Callable[[], str]:
        return kafka_url
