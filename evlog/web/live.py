"""Notifying open pages that the log has grown, and answers that are sent piece by piece.

1. All pages share one follower of the log. It exists only while a page is open, and uses no processor time
   while the log is idle.
2. A page is sent only the last position, and requests the events that it shows. So nothing is queued for a
   slow page, and it delays no other page.
3. An answer ends when the browser has closed the connection, also while there is nothing to send, and when
   the browser has received nothing for a while.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Final

from evlog.aio.workers import Workers
from evlog.errors import EXIT_NOT_FOUND, EvlogError
from evlog.model.filters import EVERYTHING
from evlog.state.trace import Story
from evlog.web.shown import as_rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from evlog.engine import Feed
    from evlog.store import EventStore

STALLED_SECONDS: Final = 20.0
FOLLOWER: Final = "evlog-web-follower"
_PAUSE_SECONDS: Final = 0.03  # between two messages to one page
_QUIET_SECONDS: Final = 15.0  # after this time an empty message tests whether the browser is still connected
_WAIT_SECONDS: Final = 60.0
_STORY_SECONDS: Final = 1.0
_STORY_EVENTS: Final = 500
_PIECE_SECONDS: Final = 0.05
_FIRST_PIECE: Final = 4096


class Heads:
    """The last position of the log, for any number of pages. Used in one event loop.

    Attributes:
        head: the last position that is committed.
        problem: why the follower has ended; None while it runs.
    """

    def __init__(self, store: EventStore) -> None:
        self.head = 0
        self.problem: str | None = None
        self._store = store
        self._pages: set[asyncio.Event] = set()
        self._following: asyncio.Task[None] | None = None

    def join(self) -> asyncio.Event:
        """Return an event that is set whenever the log has grown; the caller must call `leave` later."""
        grown = asyncio.Event()
        self._pages.add(grown)
        if self._following is None or self._following.done():
            self.problem = None
            self._following = asyncio.create_task(self._follow())
        elif self.head:
            grown.set()
        return grown

    def leave(self, grown: asyncio.Event) -> None:
        """End what `join` began; the follower ends with the last page."""
        self._pages.discard(grown)
        if not self._pages and self._following is not None:
            self._following.cancel()
            self._following = None

    async def _follow(self) -> None:
        workers = Workers(1, FOLLOWER)
        feeds: list[Feed] = []  # of its one thread, which closes what it has opened, also after a cancel
        try:
            self.head = await workers.submit(_first_head, self._store, feeds)
            while True:
                self._notify()
                self.head = await workers.submit(_next_head, feeds[0], self.head)
        except Exception as error:  # noqa: BLE001 - the pages show it, whatever it is
            self.problem = _text_of(error) if isinstance(error, EvlogError) else repr(error)
            self._notify()
        finally:
            for feed in feeds:
                feed.wake()
            workers.submit(_close, feeds)
            workers.stop()

    def _notify(self) -> None:
        for grown in self._pages:
            grown.set()


def _first_head(store: EventStore, feeds: list[Feed]) -> int:
    feeds.append(store.engine.follow(EVERYTHING))
    return feeds[0].committed(0)


def _close(feeds: list[Feed]) -> None:
    for feed in feeds:
        feed.close()


def _next_head(feed: Feed, head: int) -> int:
    """Wait in the follower's thread until the log grows; return its last position."""
    feed.wait(head, _WAIT_SECONDS)
    return feed.committed(head)


async def heads_of(heads: Heads) -> AsyncIterator[bytes]:
    """Yield the last position, now and whenever the log has grown."""
    grown = heads.join()
    try:
        yield b"retry: 1000\n\n"
        while True:
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    await grown.wait()
            except TimeoutError:
                yield b": quiet\n\n"
                continue
            grown.clear()
            if heads.problem is not None:
                yield message("problem", heads.problem)
                return
            yield message("head", heads.head)
            await asyncio.sleep(_PAUSE_SECONDS)
    finally:
        heads.leave(grown)


async def story_of(
    store: EventStore, workers: Workers, position: int, *, to_the_end: bool
) -> AsyncIterator[bytes]:
    """Yield the story of an event as it is found: its causes, then its effects.

    Args:
        to_the_end: search the whole log; else stop after a second.
    """
    try:
        story = await workers.submit(_begin_story, store, position)
        yield message("found", as_rows(story.found.values()))
        head, piece, begin = store.head, _FIRST_PIECE, time.monotonic()
        pieces = [(story.first - 1, head), (0, story.first - 1)]  # effects come after their causes
        for after, last in pieces:
            while after < last:
                if len(story.found) > _STORY_EVENTS or not (
                    to_the_end or time.monotonic() - begin < _STORY_SECONDS
                ):
                    yield message(
                        "end", {"complete": False, "from": after, "first": story.first, "head": head}
                    )
                    return
                piece_begin, end = time.monotonic(), min(last, after + piece)
                new = await workers.submit(story.search, after, end)
                after = end
                piece = piece * 2 if time.monotonic() - piece_begin < _PIECE_SECONDS else max(1, piece // 2)
                if new:
                    yield message("found", as_rows(new[:_STORY_EVENTS]))
                else:
                    yield message("searched", {"searched": after, "head": head})
        yield message("end", {"complete": True})
    except EvlogError as error:
        yield message("problem", _text_of(error))


def _begin_story(store: EventStore, position: int) -> Story:
    return Story(store.engine, store.get(position), store.get)


def _text_of(error: EvlogError) -> str:
    return error.problem if error.exit_code == EXIT_NOT_FOUND else str(error)  # the advice is for programs


def message(name: str, content: Any) -> bytes:
    """Return a server-sent event; its data is JSON."""
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()


class Messages:
    """An answer of server-sent events, an ASGI application.

    Args:
        messages: closed at the end.
        stalled_seconds: for how long the browser may take nothing.
    """

    def __init__(self, messages: AsyncIterator[bytes], stalled_seconds: float = STALLED_SECONDS) -> None:
        self._messages = messages
        self._stalled_seconds = stalled_seconds

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the messages until they end, or the browser has left or stalled."""
        left = asyncio.ensure_future(_wait_until_left(receive))
        sending = asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait({left, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            left.cancel()
            sending.cancel()
            await asyncio.wait({left, sending})

    async def _send(self, send: Send) -> None:
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
        }
        await send(start)
        try:
            async for each in self._messages:
                async with asyncio.timeout(self._stalled_seconds):
                    await send({"type": "http.response.body", "body": each, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, OSError):
            pass  # the browser has left, or takes nothing: end the answer
        finally:
            await self._messages.aclose()  # type: ignore[attr-defined]


async def _wait_until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
