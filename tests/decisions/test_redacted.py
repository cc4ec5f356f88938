"""A decision whose events were redacted was made all the same."""

from __future__ import annotations

import pytest

import evlog
from evlog import EventStore
from tests.support.helpers import new


def test_a_redacted_decision_is_not_made_again(store: EventStore) -> None:
    (made,) = store.transact("a", lambda _: [new(1), new(2)], key="k")
    store.redact(made.first_position, reason="a test")
    for _ in range(2):
        (again,) = store.transact("a", lambda _: [new(9)], key="k")
        assert again.duplicate
        assert again[:5] == made[:5]
        with pytest.raises(evlog.IdConflict, match="belongs to a decision about 'a'"):
            store.transact("b", lambda _: [new(9)], key="k")
        store.compact()
    store.redact(made.last_position, reason="a test")
    (again,) = store.transact("a", lambda _: [new(9)], key="k")
    assert again[:5] == made[:5]
