"""The retention policies of a store in PostgreSQL, kept in memory as rules."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from evlog.engines.postgresql.rows import COLUMNS
from evlog.files.disk.fork import register_fork_reset
from evlog.model.retention import METADATA_TYPE, Rules

if TYPE_CHECKING:
    from evlog.engines.postgresql.connections import Address, Connection


class PolicyCache:
    """The rules as of the last look: a look reads only policies that were made since."""

    def __init__(self, address: Address) -> None:
        self._statement = address.sql(
            "select {columns} from {schema}.events where event_type = '{type}' "
            "and stream_id like '$$%%' and global_position > %s order by global_position",
            columns=COLUMNS,
            type=METADATA_TYPE,
        )
        self._mutex = threading.Lock()  # guards the two below; `_rules` is replaced whole
        self._rules = Rules()
        self._position = 0
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Renew the mutex in a forked child; the rules are replaced whole, so they are right."""
        self._mutex = threading.Lock()

    def refreshed(self, connection: Connection) -> Rules:
        """Return the rules in force now."""
        rows = connection.cursor(binary=True).execute(self._statement, (self._position,)).fetchall()
        with self._mutex:
            if rows and rows[-1][0] > self._position:
                rules = Rules()
                rules.update(self._rules)
                for row in rows:
                    rules.add(row)
                self._rules, self._position = rules, rows[-1][0]
            return self._rules
