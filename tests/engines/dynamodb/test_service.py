"""The conformance suite on the service itself, where a user asks for it.

`EVLOG_TEST_DYNAMODB=dynamodb://REGION/PREFIX` makes a table for each test in the user's account, with this
prefix, and deletes it again. It costs money and takes an hour.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

import evlog
from evlog.engines.dynamodb.client import Address, Client
from evlog.testing import Conformance

PREFIX = os.environ.get("EVLOG_TEST_DYNAMODB")


@pytest.mark.skipif(PREFIX is None, reason="EVLOG_TEST_DYNAMODB names no account to make tables in")
class TestService(Conformance):
    random_runs = 3

    @pytest.fixture
    def new_url(self) -> Iterator[Callable[[], str]]:
        made: list[str] = []

        def name() -> str:
            made.append(f"{PREFIX}-{uuid4().hex}")
            return made[-1]

        yield name
        for url in made:
            client = Client(Address(url))
            try:
                client.call("delete_table")
            except evlog.StoreNotFound:
                pass  # the test has not opened it
            client.close()
