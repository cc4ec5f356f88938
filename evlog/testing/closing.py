"""A closed store says so, alone or while threads use it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

import evlog
from evlog import EventStore
from evlog.testing.base import LONG_SECONDS, EngineTests, new


class CloseTests(EngineTests):
    """What closing does."""

    def test_a_closed_store_says_so(self, filled: EventStore) -> None:
        filled.close()
        filled.close()
        uses: list[Callable[[], object]] = [
            lambda: filled.append("a", [new(0)]),
            lambda: filled.append_many([("a", [new(0)])]),
            lambda: filled.head,
            lambda: list(filled.read("a")),
            lambda: list(filled.read_all()),
            lambda: filled.stream_version("a"),
            lambda: list(filled.streams()),
            filled.subscribe,
            filled.subscriptions,
            lambda: filled.consume("n", print),
            filled.info,
        ]
        for use in uses:
            with pytest.raises(evlog.StoreClosed) as caught:
                use()
            assert caught.value.path == filled.path
        assert "closed" in repr(filled)

    def test_threads_that_use_a_store_while_it_is_closed_get_that_error_alone(
        self, filled: EventStore
    ) -> None:
        uses: list[Callable[[], object]] = [
            lambda: filled.append("a", [new(0)]),
            lambda: filled.append_many([("a", [new(0)]), ("b", [new(1)])]),
            lambda: list(filled.read("a-1")),
            lambda: list(filled.read_all(reverse=True, limit=3)),
            lambda: list(filled.streams()),
            lambda: filled.subscribe(follow=False, after=filled.head).close(),
        ]
        begun = threading.Barrier(len(uses) + 1)
        errors: list[BaseException] = []

        def work(use: Callable[[], object]) -> None:
            try:
                use()
                begun.wait()
                while True:
                    use()
            except BaseException as error:  # noqa: BLE001 - looked at below
                errors.append(error)

        threads = [threading.Thread(target=work, args=(use,)) for use in uses]
        for thread in threads:
            thread.start()
        begun.wait()
        filled.close()
        for thread in threads:
            thread.join(LONG_SECONDS)
        assert {type(error) for error in errors} == {evlog.StoreClosed}, errors
        assert len(errors) == len(uses)
