"""The conformance suite on a stand-in for DynamoDB."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evlog.testing import Conformance


class TestDynamodb(Conformance):
    random_runs = 3

    @pytest.fixture
    def new_url(self, dynamodb_url: Callable[[], str]) -> Callable[[], str]:
        return dynamodb_url
