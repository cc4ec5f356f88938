"""`evlog help`: the guide, one Markdown page a topic, and the help of each command.

The pages are data of the package, in `evlog/guide/`. A page begins with a heading, an empty line and one line
that says what the page is about: the list of topics shows that line.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated, Final

import typer
from typer.core import TyperGroup

from evlog.cli._support import console
from evlog.cli._support.pager import show
from evlog.errors import InvalidArgument

HELP: Final = """Show a page of the guide, or the help of a command. Without TOPIC, list the pages.

On a terminal a page is formatted and shown in $PAGER (less if that is not set). In a pipe it is plain
Markdown. A topic that is also a command shows the page, then the command's help.

\b
  evlog help
  evlog help concepts
  evlog help concepts | grep -i position
"""

# The order in which a newcomer reads; pages that are not named here follow by name.
_READING_ORDER: Final = (
    *("concepts", "append", "read", "follow", "python", "concurrency", "ci", "cron", "outbox"),
    *("retention", "compaction", "backup", "verify"),
    *("json", "exit-codes", "errors", "limits", "format", "engines", "performance"),
)
_END: Final = "Commands: `evlog --help` lists them, `evlog help COMMAND` explains one."
_WIDEST_COLUMNS: Final = 100  # longer lines are hard to read


def command(
    ctx: typer.Context,
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", help="A page of the guide, or a command.")
    ] = None,
) -> None:
    """Show the list of topics, a page, a command's help, or both."""
    pages = _pages()
    if topic is None:
        show(_list(pages).encode())
        return
    name = topic.lower()
    page = pages[name].read_text("utf-8") if name in pages else None
    usage = _usage(ctx, name)
    if page is None and usage is None:
        raise _unknown(ctx, topic, list(pages))
    if page is None:
        show(f"{usage}\n".encode())
        return
    if usage is not None:
        page += f"\n## Usage\n\n```text\n{usage}\n```\n"
    show(_formatted(page))


def _pages() -> dict[str, Traversable]:
    """Return the guide's pages by topic, in reading order."""
    found = {
        page.name.removesuffix(".md"): page
        for page in files("evlog").joinpath("guide").iterdir()
        if page.name.endswith(".md")
    }
    order = {name: number for number, name in enumerate(_READING_ORDER)}
    return {name: found[name] for name in sorted(found, key=lambda name: (order.get(name, len(order)), name))}


def _list(pages: dict[str, Traversable]) -> str:
    width = max(map(len, pages), default=0)
    lines = [f"  {name:<{width}}  {_summary(page)}" for name, page in pages.items()]
    return "\n".join(["Topics (`evlog help TOPIC` shows one):", "", *lines, "", _END, ""])


def _summary(page: Traversable) -> str:
    """Return the first line below the heading."""
    lines = [line for line in page.read_text("utf-8").splitlines() if line]
    return lines[1] if len(lines) > 1 else ""


def _usage(ctx: typer.Context, name: str) -> str | None:
    """Return what `evlog NAME --help` prints; None if there is no such command."""
    root = ctx.find_root()
    group = root.command
    found = group.get_command(root, name) if isinstance(group, TyperGroup) else None
    if found is None:
        return None
    return found.get_help(type(root)(found, info_name=name, parent=root))


def _unknown(ctx: typer.Context, topic: str, topics: list[str]) -> InvalidArgument:
    from difflib import get_close_matches

    root = ctx.find_root()
    group = root.command
    commands = group.list_commands(root) if isinstance(group, TyperGroup) else []
    close = get_close_matches(topic.lower(), [*topics, *commands], n=1, cutoff=0.5)
    meant = f"did you mean `evlog help {close[0]}`?" if close else "`evlog help` lists the topics"
    return InvalidArgument(f"no help topic {topic!r}; {meant}")


def _formatted(page: str) -> bytes:
    """Return the page for the place where stdout goes."""
    if not console.stdout_is_terminal():
        return page.encode()
    import io
    import os

    from rich.console import Console
    from rich.markdown import Markdown

    columns = os.get_terminal_size(1).columns or 80
    out = io.StringIO()
    screen = Console(
        file=out,
        width=min(columns, _WIDEST_COLUMNS),
        force_terminal=True,
        color_system="standard" if console.has_colour() else None,
        legacy_windows=False,
    )
    screen.print(Markdown(page, hyperlinks=False))
    return out.getvalue().encode()
