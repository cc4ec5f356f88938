"""Following as a store offers it: subscriptions, live and by name, and what they parked."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

from evlog.arguments import as_types, check_bounds
from evlog.errors import InvalidArgument
from evlog.files.follow.checkpoint_file import Filter, ParkedEvent
from evlog.files.log.read import microseconds
from evlog.handle import Handle
from evlog.model.events import Event, check_readable_name
from evlog.subscriptions import named as subscriptions
from evlog.subscriptions.named import ReplayResult, SubscriptionInfo
from evlog.subscriptions.run import Subscription


class Following(Handle):
    """What follows the log, in this process and over many."""

    def subscribe(
        self,
        name: str | None = None,
        *,
        after: int | None = None,
        stream: str | None = None,
        category: str | None = None,
        types: Collection[str] | None = None,
        since: datetime | None = None,
        follow: bool = True,
        timeout: float | None = None,
    ) -> Subscription:
        """Follow the log: every matching event in position order, those that come later too.

        An event is given out once it is acknowledged. Within one run none is given out twice or left out;
        what a named subscription gave out and did not save when it died comes again in its next run. What a
        policy hides comes out until a compaction removes it, as in `read_all`: so nothing is missed by age.

        Args:
            name: a durable subscription (1 to 100 bytes of UTF-8): its next run goes on where this one ended.
            after: where the first run begins: behind this position. Left out, at the beginning.
            stream, category, types: only these events. A name keeps its filter.
            since: where the first run begins: with the first event written then or later.
            follow: wait for more; if false, end where the log ends now.
            timeout: seconds; iteration ends when no event came for so long. None waits for ever.

        Raises:
            SubscriptionBusy: a run of this name is under way.
            InvalidArgument: a bad name or bound, or another filter than the name has.
            CorruptionError: the checkpoint is damaged or beyond the end of the log.
            StoreAccessDenied: a named subscription needs to write its checkpoint, and may not.
        """
        check_bounds(after=after)
        if timeout is not None and not timeout >= 0:
            raise InvalidArgument(f"timeout is {timeout!r}; give seconds, 0 or more, or None")
        if stream is not None:
            check_readable_name(stream)
            if category is not None:
                raise InvalidArgument("stream and category exclude each other; give one of them")
        kept = as_types(types)
        filter = Filter(stream, category, None if kept is None else tuple(sorted(kept)))
        since_us = microseconds(since)
        return subscriptions.begin(
            self._refreshed(),
            name,
            filter,
            after,
            since_us,
            follow=follow,
            timeout_seconds=timeout,
            disk=self._disk,
        )

    def consume(
        self,
        name: str,
        handler: Callable[[Event], object],
        *,
        after: int | None = None,
        stream: str | None = None,
        category: str | None = None,
        types: Collection[str] | None = None,
        since: datetime | None = None,
        follow: bool = True,
        timeout: float | None = None,
        retries: int = 3,
        on_failure: str = "stop",
    ) -> None:
        """Call the handler with every event of a named subscription: at least once, in order.

        The checkpoint passes an event after the handler has returned. Returns when the subscription ends.

        Args:
            handler: gets the event. It failed if it raises an Exception.
            retries: how many failures on one event are borne; between them are 0.1 s, 0.2 s … 10 s.
            on_failure: "stop": raise the last error; the next run begins with that event. "park": put the
                event aside with the error, for `parked` and `replay_parked`, and go on.
            after, stream, category, types, since, follow, timeout: as `subscribe`.

        Raises:
            As `subscribe`, and what the handler raised last.
        """
        if on_failure not in ("stop", "park"):
            raise InvalidArgument(f"on_failure is {on_failure!r}; give 'stop' or 'park'")
        check_bounds(retries=retries)
        with self.subscribe(
            name,
            after=after,
            stream=stream,
            category=category,
            types=types,
            since=since,
            follow=follow,
            timeout=timeout,
        ) as subscription:
            subscriptions.consume(subscription, handler, retries=retries, park=on_failure == "park")

    def subscriptions(self) -> list[SubscriptionInfo]:
        """The named subscriptions, by name: how far each is, and how far behind."""
        return subscriptions.list_all(self._refreshed(), self._disk)

    def subscription(self, name: str) -> SubscriptionInfo:
        """One named subscription.

        Raises:
            SubscriptionNotFound: there is none of this name. As with all methods below.
        """
        return subscriptions.describe(self._refreshed(), name, self._disk)

    def reset_subscription(self, name: str, to: int) -> None:
        """Have the next run begin behind position `to` (0: with the first event); durable when this returns.

        Raises:
            SubscriptionBusy: it is running. InvalidArgument: the position is beyond the end of the log.
        """
        check_bounds(to=to)
        subscriptions.reset(self._refreshed(), name, to, self._disk)

    def delete_subscription(self, name: str) -> None:
        """Forget the checkpoint and the parked events; durable when this returns.

        Raises:
            SubscriptionBusy: it is running.
        """
        subscriptions.delete(self._refreshed(), name, self._disk)

    def parked(self, name: str) -> list[ParkedEvent]:
        """The events that the subscription put aside, with their errors, in the order in which it did."""
        return subscriptions.parked(self._refreshed(), name, self._disk)

    def replay_parked(self, name: str, handler: Callable[[Event], object]) -> ReplayResult:
        """Call the handler with each parked event; those for which it returns leave the list.

        Raises:
            SubscriptionBusy: the subscription is running.
        """
        return subscriptions.replay(self._refreshed(), name, handler, self._disk)
