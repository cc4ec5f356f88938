"""A process that decides: it withdraws from one account, again and again.

    python -m tests.decisions.worker STORE NAME COUNT

COUNT times it withdraws 3, if that much is there, in one to three events (so that another run of the same
decision would give other events), with the key NAME-NUMBER. It prints the number of each decision once that
is durable.
"""

from __future__ import annotations

import os
import sys

import evlog
from evlog import Event, NewEvent

AMOUNT = 3


def balance_of(history: list[Event]) -> int:
    """Return what the account holds."""
    return sum(event.json() if event.type == "Deposited" else -event.json() for event in history)


def withdraw(history: list[Event]) -> list[NewEvent]:
    """Withdraw three at once, or in parts."""
    if balance_of(history) < AMOUNT:
        return []
    parts = ([3], [1, 2], [2, 1], [1, 1, 1])[os.urandom(1)[0] % 4]
    return [NewEvent("Withdrawn", part) for part in parts]


def main(path: str, name: str, count: int) -> None:
    with evlog.open(path) as store:
        for number in range(count):
            made = store.transact("account", withdraw, retries=10_000, key=f"{name}-{number}")
            print(number, len(made), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
