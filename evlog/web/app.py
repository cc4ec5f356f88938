"""The paths of the page, and what each answers. All are below the token, see guard.py.

/              the page               /static/NAME   its scripts and styles
/events        a page of events       /event         one event          /data      its data, as a file
/names         of recent events       /streams       a page of streams
/subscriptions all of them            /parked        what one gave up
/store         the store in numbers   /verify        a quick check of it
/live, /story  server-sent events
"""

from __future__ import annotations

import os
from html import escape
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from evlog._version import __version__
from evlog.aio.workers import Workers
from evlog.errors import EXIT_NOT_FOUND, EvlogError, InvalidArgument
from evlog.web.live import Heads, Messages, heads_of, story_of
from evlog.web.reading import number_of, read_page
from evlog.web.shown import as_event
from evlog.web.streams import StreamNames, recent_names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.datastructures import QueryParams
    from starlette.requests import Request

    from evlog.model.events import Event
    from evlog.store import EventStore

STATIC: Final = os.path.join(os.path.dirname(__file__), "static")
_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_ENDINGS: Final = {"json": "json", "text": "txt", "binary": "bin"}
_READERS: Final = 4
_RECENT_EVENTS: Final = 2000
_MOST: Final = 200


def make_app(store: EventStore) -> Starlette:
    """Return the application, without its guard. Called in the event loop that runs it.

    Args:
        store: open as long as the application runs.
    """
    workers = Workers(_READERS, "evlog-web-reader")
    listing = Workers(1, "evlog-web-lister")  # names are collected for seconds: nothing else waits for it
    heads = Heads(store)
    answers = _Answers(store)

    def reading(answer: Callable[[QueryParams], Response]) -> Callable[[Request], Awaitable[Response]]:
        threads = listing if answer == answers.streams else workers

        async def call(request: Request) -> Response:
            try:
                return await threads.submit(answer, request.query_params)
            except EvlogError as error:
                return _refusal(error)

        return call

    async def live(_: Request) -> Any:
        return Messages(heads_of(heads))

    async def story(request: Request) -> Any:
        query = request.query_params
        try:
            position = _required(query)
        except InvalidArgument as error:
            return _refusal(error)
        return Messages(story_of(store, workers, position, to_the_end=query.get("all") == "1"))

    own = (
        answers.events, answers.event, answers.data, answers.names, answers.streams,
        answers.subscriptions, answers.parked, answers.store, answers.verify,
    )  # fmt: skip
    routes = [Route(f"/{answer.__name__}", reading(answer)) for answer in own]
    routes += [Route("/live", live), Route("/story", story)]
    for name in sorted(os.listdir(STATIC)):
        with open(os.path.join(STATIC, name), "rb") as file:
            content = file.read()
        if name == "index.html":
            content = content.replace(b"{{store}}", escape(store.path).encode())
            routes.append(Route("/", _file(name, content)))
        else:
            routes.append(Route(f"/static/{name}", _file(name, content)))
    return Starlette(routes=routes, exception_handlers={404: _not_found, Exception: _failed})


def _file(name: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    async def call(_: Request) -> Response:
        return Response(content, media_type=_TYPES[os.path.splitext(name)[1]])

    return call


async def _not_found(_: Request, __: Exception) -> Response:
    return PlainTextResponse("there is no such page\n", 404)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"problem": f"{type(error).__name__}: {error}"}, 500)


def _refusal(error: EvlogError) -> Response:
    if error.exit_code == EXIT_NOT_FOUND:
        return JSONResponse({"problem": error.problem}, 404)  # the advice is for programs
    return JSONResponse({"problem": str(error)}, 400 if isinstance(error, ValueError) else 500)


def _required(query: QueryParams) -> int:
    position = number_of(query, "position")
    if position is None:
        raise InvalidArgument("no position is given", "give one")
    return position


class _Answers:
    """What is read for each path; called in threads."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._names = StreamNames(store)

    def events(self, query: QueryParams) -> Response:
        return JSONResponse(read_page(self._store, query)._asdict())

    def event(self, query: QueryParams) -> Response:
        return JSONResponse(as_event(self._store, self._find(query)))

    def data(self, query: QueryParams) -> Response:
        event = self._find(query)
        name = f"evlog-{event.position}.{_ENDINGS[event.content_type]}"
        disposition = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(event.data, media_type="application/octet-stream", headers=disposition)

    def _find(self, query: QueryParams) -> Event:
        """Return the event at a position, or with an id."""
        return self._store.get(query["id"] if query.get("id") else _required(query))

    def names(self, _: QueryParams) -> Response:
        return JSONResponse(recent_names(self._store, _RECENT_EVENTS))

    def streams(self, query: QueryParams) -> Response:
        limit = number_of(query, "limit", _MOST) or 1
        found = self._names.page(query.get("prefix", ""), query.get("after"), query.get("before"), limit)
        return JSONResponse(found)

    def subscriptions(self, _: QueryParams) -> Response:
        found = [info._asdict() | {"filter": info.filter.as_object()} for info in self._store.subscriptions()]
        return JSONResponse({"subscriptions": found, "head": self._store.head})

    def parked(self, query: QueryParams) -> Response:
        found = self._store.parked(query.get("name", ""))
        rows = [each._asdict() | {"id": str(each.id)} for each in found[:_MOST]]
        return JSONResponse({"parked": rows, "count": len(found)})

    def store(self, _: QueryParams) -> Response:
        store = self._store
        info, can, standing = store.info(), store.capabilities, store.standing
        numbers = info._asdict() | {
            "id": str(info.id),
            "first_time": info.first_time and info.first_time.isoformat(),
            "last_time": info.last_time and info.last_time.isoformat(),
        }
        return JSONResponse(
            numbers
            | {
                "path": store.path,
                "version": __version__,
                "capabilities": vars(can),
                "mirror_of": "" if standing.is_unfinished_fork or standing.is_import else standing.mirror_of,
                "unfinished_fork": standing.is_unfinished_fork,
                "importing": standing.is_import,
                "moved_to": standing.moved_to,
                "kept": [
                    {"name": name, "category": stream is None, **kept._asdict()}
                    for stream, category, kept in store.policies()[:_MOST]
                    if (name := stream or category)
                ],
                "schemas": [{"type": each.type, "version": each.version} for each in store.schemas()[:_MOST]],
            }
        )

    def verify(self, _: QueryParams) -> Response:
        report = self._store.verify(quick=True)
        findings = [found._asdict() for found in report.findings]
        return JSONResponse({"ok": report.ok, "findings": findings[:_MOST], "count": len(findings)})
