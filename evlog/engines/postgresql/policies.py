"""The retention policies of a store in PostgreSQL, kept in memory as rules."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from evlog.engines.postgresql import wire
from evlog.engines.postgresql.connections import Statement
from evlog.engines.postgresql.rows import COLUMNS, load_rows
from evlog.model.retention import METADATA_TYPE, Rules
from evlog.process.forks import register_fork_reset

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from evlog.engines.postgresql.connections import Address, Parameters, Session


class PolicyCache:
    """The rules as they were read last. `refreshed` reads only policies that were appended since."""

    def __init__(self, address: Address) -> None:
        self.question: tuple[Statement, Parameters] = (
            Statement(address.sql("select policies from {schema}.log where {same}")),
            (),
        )
        self._statement = Statement(
            address.sql(
                "select {columns} from {schema}.events where event_type = '{type}' "
                "and starts_with(stream_id, '$$') and global_position > $1 order by global_position",
                columns=COLUMNS,
                type=METADATA_TYPE,
            )
        )
        self._mutex = threading.Lock()  # guards the three below; `_rules` is replaced whole, before the count
        self._rules = Rules()
        self._position = 0
        self._count = 0  # of the policies that were appended before
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Renew the mutex in a forked child; the rules are replaced whole, so they are right."""
        self._mutex = threading.Lock()

    def maybe_current(self, answer: PGresult) -> Rules | None:
        """Return the rules if they are in force after this answer to `question`; None: call `refreshed`."""
        ((count,),) = load_rows(answer, tuple)
        return self._rules if count == self._count else None

    def refreshed(self, connection: Session) -> Rules:
        """Return the rules in force now."""
        question, new = connection.run([self.question, (self._statement, (wire.int8(self._position),))])
        ((count,),), rows = load_rows(question, tuple), load_rows(new, tuple)
        with self._mutex:
            if rows and rows[-1][0] > self._position:
                rules = Rules()
                rules.update(self._rules)
                for row in rows:
                    rules.add(row)
                self._rules, self._position = rules, rows[-1][0]
            self._count = max(self._count, count)
            return self._rules
