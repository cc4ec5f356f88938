"""`evlog help`: the guide, one Markdown page a topic, and the help of each command.

The pages are data of the package, in `evlog/guide/`. A page begins with a heading, an empty line and one line
that says what the page is about: the list of topics shows that line.
"""

from __future__ import annotations

from evlog.cli._support import console
from evlog.cli._support.commands import COMMANDS
from evlog.cli._support.pager import show
from evlog.cli._support.parameters import argument
from evlog.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.resources.abc import Traversable
    from typing import Final

    from evlog.cli._support.parameters import Given

HELP: Final = """Show a page of the guide, or the help of a command. Without TOPIC, list the pages.

On a terminal a page is formatted and shown in $PAGER (less if that is not set). In a pipe it is plain
Markdown. A topic that is also a command shows the page, then the command's help.

\b
  evlog help
  evlog help concepts
  evlog help concepts | grep -i position
  evlog help subscriptions reset
"""

PARAMETERS: Final = (
    argument("TOPIC", "A page of the guide, or a command."),
    argument("ACTION", "A part of a command, such as reset."),
)
# In the order in which a newcomer reads.
SECTIONS: Final = {
    "Use": (
        *("concepts", "append", "import", "read", "follow", "state", "transact", "tags", "links", "schemas"),
        *("upcasting", "trace", "export", "sql", "web", "terminal", "completion"),
    ),
    "Python": ("python", "asyncio", "concurrency", "testing", "eventsourcing"),
    "Recipes": ("ci", "cron", "outbox", "metrics", "mcp"),
    "Care": ("retention", "compaction", "redaction", "backup", "verify", "mirror"),
    "Servers": ("engines", "postgresql", "nats", "kafka", "dynamodb"),
    "Reference": ("json", "exit-codes", "errors", "limits", "performance", "format"),
}
_END: Final = "Commands: `evlog --help` lists them, `evlog help COMMAND` explains one."
_WIDEST_COLUMNS: Final = 100  # longer lines are hard to read


def command(given: Given) -> None:
    """Show the list of topics, a page, a command's help, or both."""
    pages = _pages()
    if given.topic is None:
        show(_list(pages).encode())
        return
    name = given.topic.lower()
    if given.action is not None:
        if name not in COMMANDS:
            raise InvalidArgument(f"there is no command {given.topic!r}", "give one topic")
        show(f"{_usage(name, given.action)}\n".encode())
        return
    page = pages[name].read_text("utf-8") if name in pages else None
    if page is None and name not in COMMANDS:
        raise _unknown(given.topic, [*pages, *COMMANDS])
    usage = _usage(name) if name in COMMANDS else None
    if page is None:
        show(f"{usage}\n".encode())
        return
    if usage is not None:
        page += f"\n## Usage\n\n```text\n{usage}\n```\n"
    show(_formatted(page))


def _pages() -> dict[str, Traversable]:
    """Return the guide's pages by topic, in reading order."""
    from importlib.resources import files

    folder = files("evlog").joinpath("guide")
    return {name: folder.joinpath(f"{name}.md") for names in SECTIONS.values() for name in names}


def summaries() -> dict[str, str]:
    """Return what each page is about, by topic."""
    return {name: _summary(page) for name, page in _pages().items()}


def _list(pages: dict[str, Traversable]) -> str:
    width = max(map(len, pages))
    lines = ["Topics (`evlog help TOPIC` shows one):"]
    for heading, names in SECTIONS.items():
        lines += ["", f"{heading}:", *(f"  {name:<{width}}  {_summary(pages[name])}" for name in names)]
    return "\n".join([*lines, "", _END, ""])


def _summary(page: Traversable) -> str:
    """Return the first line below the heading."""
    lines = [line for line in page.read_text("utf-8").splitlines() if line]
    return lines[1] if len(lines) > 1 else ""


def _usage(name: str, action: str | None = None) -> str:
    """Return what `evlog NAME --help` prints, or `evlog NAME ACTION --help`."""
    from evlog.cli._support.group import help_of

    return help_of(name, action)


def _unknown(topic: str, known: list[str]) -> InvalidArgument:
    from evlog.cli._support.slips import maybe_command

    meant = maybe_command(topic, known)
    advice = f"did you mean `evlog help {meant}`?" if meant else "`evlog help` lists the topics"
    return InvalidArgument(f"no help topic {topic!r}", advice)


def _formatted(page: str) -> bytes:
    """Return the page for the place where stdout goes."""
    if not console.stdout_is_terminal():
        return page.encode()
    import io

    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import CodeBlock, Markdown
    from rich.text import Text

    class Example(CodeBlock):
        """An example as it is written: what is copied from the screen can be run."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            yield Text(str(self.text).rstrip(), style="cyan", no_wrap=True, overflow="ignore")

    class Page(Markdown):
        elements = Markdown.elements | {"fence": Example}

    out = io.StringIO()
    screen = Console(
        file=out,
        width=min(console.columns(), _WIDEST_COLUMNS),
        force_terminal=True,
        color_system="standard" if console.has_colour() else None,
        legacy_windows=False,
    )
    screen.print(Page(page, hyperlinks=False), crop=False)
    return out.getvalue().encode()
