"""The page that `evlog web` serves: a store to look at, in a browser on the same machine. `evlog help web`.

1. It only reads. Every request is a GET; nothing that it can ask for changes the store.
2. It is for one user: it listens on the loopback interface, and every path begins with a random token.
3. A request reads a bounded piece, for a bounded time. If a search needs longer, the page continues it with
   another request, so the search ends when the page shows something else.
4. The page shows the content of a store as text, never as markup: `static/` makes nodes, no HTML.

server.py   the socket, and the loop until Ctrl-C. Read this first
guard.py    which requests are let through, and the headers of every answer
app.py      the paths, and what each answers
reading.py  pages of events, forwards and backwards
shown.py    events as the page shows them
streams.py  the names of all streams, in order
live.py     notifying pages that the log has grown, and long answers
static/     the page: HTML, CSS and JavaScript as they are, without a build
"""

from evlog.errors import ExtraNotInstalled

try:
    import starlette  # noqa: F401 - to find out whether it is installed
    import uvicorn  # noqa: F401
except ImportError as error:
    library = (error.name or "starlette").partition(".")[0]
    raise ExtraNotInstalled("evlog web", library, "web", error) from error
