"""Two operations at once: see `tests/engines/pairs.py`. EVLOG_TEST_STRIDE=1 stops at every request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from evlog.engines.postgresql.connections import Session
from tests.engines.pairs import SCENES, check_compaction, check_pairs, pairs_of
from tests.support.postgresql import NEWEST

pytestmark = NEWEST


@contextmanager
def requests(before: Callable[[], None]) -> Iterator[None]:
    """Call a function before each request."""
    wait = Session.wait

    def hooked(session: Session, gen: Any, *given: object, **options: object) -> Any:
        before()
        return wait(session, gen, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "wait", hooked)
        yield


def remove(url: str) -> None:
    """Remove a store."""
    with psycopg.connect(url.partition("?")[0], autocommit=True) as connection:
        connection.execute(f"drop schema {url.partition('schema=')[2]} cascade".encode())


STRIDES = dict(zip(SCENES, (11, 7, 1, 13), strict=True))


@pytest.mark.parametrize("scene", SCENES)
def test_two_operations_at_once_keep_every_promise(
    postgresql_url: Callable[[], str], memory_path: Path, scene: str
) -> None:

    check_pairs(pairs_of(scene, postgresql_url, memory_path, requests, remove), STRIDES[scene])


def test_a_compaction_removes_only_what_is_hidden_at_each_step(
    postgresql_url: Callable[[], str], memory_path: Path
) -> None:
    check_compaction(postgresql_url(), memory_path)
