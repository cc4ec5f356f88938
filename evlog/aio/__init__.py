"""evlog for asyncio: append, read and subscribe without blocking the event loop. `evlog help asyncio`.

    async with await aio.open("orders.evlog", create=True) as store:
        await store.append("order-42", [NewEvent("OrderPaid", {"amount": 10})])
        async for event in store.read("order-42"):
            ...

store.py          `open` and `AsyncStore`. Read this first
subscription.py   following the log, and handling its events with retries
workers.py        threads that make blocking calls for tasks
"""

from evlog.aio.store import AsyncStore, open
from evlog.aio.subscription import AsyncSubscription

__all__ = ["AsyncStore", "AsyncSubscription", "open"]
