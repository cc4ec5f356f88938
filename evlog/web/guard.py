"""Which requests are answered, and what every answer says to a browser.

1. Only GET. Only under the token, which other users of the machine and other sites do not know.
2. Only with a Host header that names this machine: a site whose name was rebound to 127.0.0.1 has its own.
3. A browser is started with a code that is good for one request, because its command line can be read by
   other users. The code leads to the token.
4. A browser loads scripts and styles from here only, runs none that is inside a page, and turns no text into
   markup. It shows the page in no frame, sends no address elsewhere and stores nothing.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_RAW_HEADERS: Final = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
_HOSTS: Final = frozenset({b"127.0.0.1", b"localhost"})  # with any port: a tunnel may have another one


class Guard:
    """An ASGI application in front of another, which sees only what is let through, without the token.

    Attributes:
        token: the first part of every path.
        code: takes a browser to the token, once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.token: Final = secrets.token_urlsafe(24)
        self.code = secrets.token_urlsafe(24)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_RAW_HEADERS]
            await send(message)

        app, path = self._choose(scope)
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, send_with_headers)

    def _choose(self, scope: Scope) -> tuple[ASGIApp, str]:
        """Return the application that answers the request, and the path that it gets."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0].partition(b":")[0] not in _HOSTS:
            return PlainTextResponse("evlog web answers only to 127.0.0.1 and localhost\n", 403), "/"
        first, slash, rest = scope["path"].removeprefix("/").partition("/")
        if not slash and secrets.compare_digest(first.encode(), self.code.encode()):
            self.code = secrets.token_urlsafe(24)
            return RedirectResponse(f"/{self.token}/", 303), "/"
        if not secrets.compare_digest(first.encode(), self.token.encode()):
            text = "the address lacks its token; open the address that `evlog web` has printed\n"
            return PlainTextResponse(text, 403), "/"
        if scope["method"] != "GET":
            return PlainTextResponse("evlog web only reads; use GET\n", 405, {"allow": "GET"}), "/"
        if not slash:
            return RedirectResponse(f"/{self.token}/", 303), "/"
        return self._app, "/" + rest
