"""The fixture `evlog_store` for the tests of programs that use evlog: a fresh store for each test.

pytest finds it by itself where evlog is installed: it is the entry point `evlog` of the group `pytest11`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from evlog.store import EventStore


@pytest.fixture
def evlog_store(tmp_path: os.PathLike[str]) -> Iterator[EventStore]:
    """Return an empty store in `tmp_path`, closed after the test; `evlog_store.path` opens it again.

    It does not sync its appends: a test does not outlive a power loss.
    """
    import evlog

    with evlog.open(f"{os.fspath(tmp_path)}/evlog-store", create=True, sync="none") as store:
        yield store
