"""What the parts of the engine share: the log's state, policies and redactions, and how the store is changed.

1. Every change replaces the item of the log, on the condition that nothing has changed since it was read.
   So everything that was read after it (versions, ids, tags) is still true when the transaction is done:
   expected versions and conditions are exact, and positions have no gaps.
2. A writer decides with what it knows from its last append. It reads only after a refusal by the service or
   by the decision. So a writer that is alone needs one call an append.
3. A writer that has collided twice takes a lease, which is in that item, too, and expires. So a writer that
   remembers the item from before is refused, reads it, and waits. The change ends the lease. After its turn a
   writer waits for half as long as it has waited before, so that each has one. The lease only saves work:
   rule 1 holds without it. A waiting writer also ends a lease that it has seen for as long as a lease lasts,
   so clocks that differ do no harm.
4. A transaction that is not answered is sent again by botocore with the same token, which the service knows
   for ten minutes. When that gives no result, the next try looks for the ids of the first. An error that ends
   the change before such a look is `AppendUnknown`.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from evlog.engines.dynamodb.client import Refused
from evlog.engines.dynamodb.items import (
    HEADS,
    LOG_KEY,
    POLICIES,
    Head,
    decode_event,
    decode_head,
    decode_log,
    decode_policy,
    encode_head,
    encode_log,
    number,
    version_key,
)
from evlog.errors import (
    ENDS_RETRIES,
    EvlogError,
    LockTimeout,
    StoreNotFound,
    StoreReplaced,
    StoreThrottled,
    StoreUnreachable,
    unknown_after,
)
from evlog.model.events import now_ns
from evlog.model.history import check_standing
from evlog.model.redaction import Redacted, Redaction, maybe_decode_redaction
from evlog.model.retention import REDACTIONS_STREAM, Rules
from evlog.process.forks import register_fork_reset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, NoReturn

    from evlog.engines.dynamodb.client import Client, Item
    from evlog.engines.dynamodb.items import LogState

MAX_ACTIONS: Final = 100  # of one transaction: the service's limit
_PAUSE_SECONDS: Final = 0.2
_TRIES: Final = 2  # before a writer takes the lease
_TURNS: Final = 3  # this many changes begin with the lease after one that had to wait
_LEASE_US: Final = 3_000_000
_LEASE_PAUSE_SECONDS: Final = 0.04
_MAX_PAUSE_SECONDS: Final = 0.5
_MAX_HEADS: Final = 10_000


class Moment:
    """The log at one revision, and what was read after it.

    Attributes:
        is_fresh: the log was read for this very try; else it is what the last append has left.
        is_unsure: an earlier try may have been done: look for its ids.
    """

    def __init__(
        self,
        client: Client,
        state: LogState,
        heads: dict[str, Head],
        *,
        is_fresh: bool,
        is_unsure: bool = False,
    ) -> None:
        self._client = client
        self.state = state
        self._heads = heads
        self.is_fresh = is_fresh
        self.is_unsure = is_unsure

    def heads(self, streams: Iterable[str]) -> dict[str, Head]:
        """Return the given streams as they are."""
        wanted = dict.fromkeys(streams)
        missing = [stream for stream in wanted if stream not in self._heads]
        if missing:
            self._heads.update(read_heads(self._client, missing, self.state.position))
        return {stream: self._heads[stream] for stream in wanted}

    def unchanged(self, result: Any = None) -> Change:
        """Return the change that does nothing, with a result."""
        return Change(self.state, {}, None, result)

    def after(self, state: LogState, changed: dict[str, Head]) -> Moment:
        """Return what is known once the log has another state, and some heads have changed."""
        heads = {} if len(self._heads) > _MAX_HEADS else self._heads
        heads.update(changed)
        return Moment(self._client, state, heads, is_fresh=False)


class Change:
    """What a transaction does: it replaces the log's state and some heads, and does other actions.

    Args:
        actions: None: nothing is to be done.
    """

    def __init__(
        self,
        state: LogState,
        heads: dict[str, Head],
        actions: Sequence[dict[str, Any]] | None,
        result: Any = None,
    ) -> None:
        self.state = state
        self.heads = heads
        self.actions = actions
        self.result = result


class Core:
    """An open store."""

    def __init__(self, client: Client, store_id: str, *, lock_timeout_seconds: float | None) -> None:
        self.client = client
        self.address = client.address
        self.store_id = store_id
        self.policies = _Policies(client)
        self._lock_timeout_seconds = lock_timeout_seconds
        self._redacted: tuple[list[Redaction], Redacted] = ([], Redacted(()))  # replaced whole
        self._writer = threading.Lock()  # held during a change; guards the three below
        self._last: Moment | None = None
        self._turns = 0  # how many changes begin with the lease
        self._due = 0.0  # before then, others have their turn first
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        self._writer = threading.Lock()
        self._last, self._turns = None, 0

    def state(self, *, is_patient: bool = True) -> LogState:
        """Return the state of the log now; with `is_patient` as every call."""
        return self._state_of(self.client.get(LOG_KEY, is_patient=is_patient))

    def update(self, change: str, condition: str, values: Item) -> LogState:
        """Change fields of the log's item if a condition holds, and return its state. Raises Refused.

        It does not hold in another store: a table may have been made again.
        """
        condition, values = f"({condition}) AND store_id = :s", values | {":s": {"S": self.store_id}}
        return self._state_of(self.client.update(LOG_KEY, change, condition, values, {"#o": "owner"}))

    def _state_of(self, item: Item | None) -> LogState:
        if item is None:
            raise StoreNotFound(self.address.text, was_open=True)
        state = decode_log(item, self.address.text)
        if state.store_id != self.store_id:
            raise StoreReplaced(self.address.text)
        return state

    def redacted(self, state: LogState) -> Redacted:
        """Return which events are redacted."""
        self.redactions(state)
        return self._redacted[1]

    def redactions(self, state: LogState) -> list[Redaction]:
        """Return all redactions, in order."""
        known = self._redacted[0]
        if len(known) < state.redactions:
            items = self.client.query(f"STREAM#{REDACTIONS_STREAM}", version_key(len(known) + 1))
            events = [event for event in map(decode_event, items) if event.position <= state.position]
            known = [*known, *filter(None, map(maybe_decode_redaction, events))]
            self._redacted = known, Redacted(known)
        return known

    # --- changing

    def change(
        self, plan: Callable[[Moment], Change], *, by_mirror: bool = False, is_quick: bool = False
    ) -> Any:
        """Do what a plan says, once nothing has changed since it was made, and return its result.

        Args:
            plan: called for each try. What it raises with a fresh moment ends the change.
            by_mirror: also where the store's standing refuses other changes.
            is_quick: the first try may be made with what the last change has left.

        Raises:
            LockTimeout: other writers were faster for as long as this one could wait.
            AppendUnknown: the service has not answered; the change may have been done.
        """
        turn, is_done = _Turn(self, self._lock_timeout_seconds), False
        if not self._writer.acquire(timeout=turn.seconds_left()):
            turn.give_up()
        try:
            moment, self._last = self._last, None  # after a failure nothing is known
            if self._turns:
                time.sleep(max(0.0, self._due - time.monotonic()))
            if self._turns or not is_quick:
                moment = None
            deadline = time.monotonic() + self.client.timeout_seconds
            while True:
                try:
                    if moment is None:
                        state = turn.state(is_contended=self._turns > 0)
                        moment = Moment(self.client, state, {}, is_fresh=True, is_unsure=turn.is_unsure)
                    change = self._plan(plan, moment, by_mirror=by_mirror)
                    if change is not None:
                        self._last = self._do(moment, change, turn)
                        is_done = change.actions is not None
                        return change.result
                except Refused:
                    turn.lose()
                except (StoreUnreachable, StoreThrottled):
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(_PAUSE_SECONDS)
                moment = None
        except ENDS_RETRIES as error:
            if not turn.is_unsure:
                raise
            raise unknown_after(error, self.address.text) from None
        finally:
            self._turns = _TURNS if turn.has_waited else max(0, self._turns - 1)
            turn.end(is_done=is_done)
            self._due = time.monotonic() + min(_MAX_PAUSE_SECONDS, turn.waited_seconds / 2)
            self._writer.release()

    def _plan(self, plan: Callable[[Moment], Change], moment: Moment, *, by_mirror: bool) -> Change | None:
        """Return what is to be done; None if a fresh moment is needed to say so."""
        try:
            if not by_mirror:
                check_standing(self.address.text, moment.state.standing)
            return plan(moment)
        except StoreUnreachable:
            raise
        except EvlogError:
            if moment.is_fresh:
                raise
            return None

    def _do(self, moment: Moment, change: Change, turn: _Turn) -> Moment:
        """Send the transaction, and return what is known after it. Raises Refused."""
        if change.actions is None:
            return moment
        before = moment.state
        state = change.state._replace(revision=before.revision + 1, owner="", until_us=0)
        log = {
            "Item": encode_log(state),
            # The table may have been made again, and be as far: a writer that remembers does not look before.
            "ConditionExpression": "store_id = :s AND revision = :r",
            "ExpressionAttributeValues": {":s": {"S": self.store_id}, ":r": {"N": str(before.revision)}},
        }
        heads = [{"Put": {"Item": encode_head(stream, head)}} for stream, head in change.heads.items()]
        try:
            self.client.transact([{"Put": log}, *heads, *change.actions])
        finally:
            turn.is_unsure = turn.is_unsure or self.client.is_lost
        return moment.after(state, change.heads)


class _Turn:
    """A writer among others: its tries, and the lease once it has lost two.

    Attributes:
        is_unsure: a try was sent and not answered: it may have been done.
        has_waited: other writers were in the way.
    """

    def __init__(self, core: Core, timeout_seconds: float | None) -> None:
        self._core = core
        self._timeout_seconds = timeout_seconds
        self._end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._owner = uuid4().hex
        self._is_holder = False
        self._lost = 0
        self.is_unsure = False
        self.has_waited = False
        self.waited_seconds = 0.0

    def seconds_left(self) -> float:
        """Return the seconds to wait at most; -1: without a limit."""
        return -1.0 if self._end is None else max(0.0, self._end - time.monotonic())

    def give_up(self) -> NoReturn:
        """Raise LockTimeout."""
        raise LockTimeout(self._core.address.text, self._timeout_seconds or 0.0)

    def lose(self) -> None:
        """Count a try that another writer's change made fail. Raises LockTimeout."""
        self._lost += 1
        self._is_holder = False  # its lease has expired
        if not self.seconds_left():
            self.give_up()

    def state(self, *, is_contended: bool) -> LogState:
        """Return the log's state once no other writer holds the lease. Raises LockTimeout.

        A writer that has lost, or that others were in the way of before, takes the lease with it.
        """
        takes, begun = is_contended or self._lost >= _TRIES, time.monotonic()
        self.has_waited |= self._lost >= _TRIES
        seen_us, seen = 0, begun  # when the present lease ends, and since when this writer sees it
        while True:
            state = self._core.state()  # a write would collide with the holder's
            if state.until_us != seen_us:
                seen_us, seen = state.until_us, time.monotonic()
            is_over = time.monotonic() - seen > _LEASE_US / 1_000_000
            if not state.owner or is_over or state.until_us < now_ns() // 1000:
                if not takes:
                    return state
                leased = self._maybe_take(seen_us if is_over else 0)
                if leased is not None:
                    self.waited_seconds += time.monotonic() - begun
                    return leased
            if not self.seconds_left():
                self.give_up()
            time.sleep(random.uniform(0.5, 1.5) * _LEASE_PAUSE_SECONDS)  # noqa: S311 - no secret
            takes = self.has_waited = True

    def _maybe_take(self, over_us: int) -> LogState | None:
        """Take the lease, and return the log's state with it; None if another writer has it.

        A lease that ends at `over_us` is over, whatever the time is.
        """
        now_us = now_ns() // 1000
        values = {
            ":me": {"S": self._owner},
            ":none": {"S": ""},
            ":one": {"N": "1"},
            ":now": {"N": str(now_us)},
            ":until": {"N": str(now_us + _LEASE_US)},
            ":over": {"N": str(over_us)},
        }
        change = "SET #o = :me, until_us = :until ADD revision :one"
        try:
            leased = self._core.update(
                change, "#o IN (:none, :me) OR until_us < :now OR until_us = :over", values
            )
        except Refused:
            return None
        self._is_holder = True
        return leased

    def end(self, *, is_done: bool) -> None:
        """Leave the lease to the next writer; a change that was done has done so."""
        if self._is_holder and not is_done:
            try:
                values = {":me": {"S": self._owner}, ":none": {"S": ""}}
                self._core.update("SET #o = :none", "#o = :me", values)
            except (EvlogError, Refused):
                pass  # it expires, or is another writer's by now


class _Policies:
    """The retention policies in memory. `rules` reads only those that were appended since its last call."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._mutex = threading.Lock()  # guards the three below; the rules are replaced whole
        self._rules = Rules()
        self._position = 0
        self._count = 0
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Renew the mutex in a forked child; the rules are replaced whole, so they are right."""
        self._mutex = threading.Lock()

    def rules(self, state: LogState) -> Rules:
        """Return the rules in force."""
        with self._mutex:
            if state.policies > self._count:
                rules = Rules()
                rules.update(self._rules)
                items = self._client.query(POLICIES, number(self._position + 1), number(state.position))
                for item in items:
                    rules.add(decode_policy(item))
                self._rules, self._position, self._count = rules, state.position, state.policies
            return self._rules


def read_heads(client: Client, streams: Sequence[str], position: int) -> dict[str, Head]:
    """Return streams as they are in a log that ends at a position."""
    found = client.get_many([(HEADS, stream) for stream in streams])
    return {
        stream: decode_head(found[HEADS, stream], position) if (HEADS, stream) in found else Head()
        for stream in streams
    }
