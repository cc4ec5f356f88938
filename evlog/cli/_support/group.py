"""The commands, by name: one is imported when it is called, all of them only for the list in `--help`.

Typer builds every command's parameters when an app is made, which would cost each call the imports of all
commands. So this group knows their names and asks for a command when it is needed. What Typer finds wrong
with a command line becomes an InvalidArgument here: one line, exit code 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

# Typer shows only one of these in public (BadParameter), and a wrong command line can raise any of them.
from typer._click.exceptions import ClickException
from typer.core import TyperGroup
from typer.main import get_command

from evlog.cli._support import console
from evlog.cli._support.options import StoreOption
from evlog.errors import EXIT_OK, InvalidArgument

if TYPE_CHECKING:
    from typer.core import TyperCommand

COMMANDS: Final = {
    "init": "Create a store.",
    "append": "Append events: one from the arguments, or many from lines of JSON.",
    "read": "Print events, of one stream or of all.",
    "tail": "Print the last events and follow those that come; run a command on each.",
    "subscriptions": "List, show, reset and delete durable subscriptions and what they parked.",
    "streams": "List the streams.",
    "info": "Show what is in the store: counts, bytes, positions and times.",
    "retain": "Say what is kept of a stream or of a category's streams.",
    "delete": "Delete a stream.",
    "compact": "Remove what retention policies and deletions have hidden.",
    "verify": "Check every byte of the store; repair or salvage what is damaged.",
    "help": "Show the guide by topic, or the help of a command.",
}

HELP: Final = """An event store in a directory: append-only, ordered, versioned, idempotent.

Every event belongs to a stream (one thing's history, such as order-42), where it has a version, and has a
position in the whole store. Data comes out on stdout as JSON lines (tables on a terminal), everything else
on stderr; EVLOG_ERRORS=json makes errors JSON too.

\b
  evlog append order-42 OrderPlaced '{"total":30}'
  evlog append order-42 OrderPaid '{"amount":30}' --expect 1
  evlog read order-42
  evlog streams --category order
"""


class LazyGroup(TyperGroup):
    """The commands of COMMANDS, each from the module that has its name."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's signature
        """The names in the order in which the help lists them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:  # noqa: ARG002
        """Import a command and build its parameters."""
        if cmd_name not in COMMANDS:
            return None
        from importlib import import_module

        module = import_module(f"evlog.cli.{cmd_name}")
        app = _new_app()
        app.command(cmd_name, help=module.HELP, short_help=COMMANDS[cmd_name])(module.command)
        return get_command(app)  # type: ignore[return-value]  # one command and no callback: no group

    def invoke(self, ctx: Any) -> Any:
        """Run the command, keeping Typer from making a closed pipe on stderr an exit code of its own."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise console.ClosedPipe from None


def invoke(arguments: list[str]) -> int:
    """Run the command that the arguments name and return its exit code.

    Raises:
        InvalidArgument: the command line is wrong; the message says where the help is.
    """
    app = _new_app()
    app.callback(cls=LazyGroup, help=HELP, invoke_without_command=True)(_evlog)
    try:
        code = get_command(app).main(arguments, prog_name="evlog", standalone_mode=False)
    except ClickException as error:
        raise InvalidArgument(_usage_message(error)) from None
    except SystemExit as ended:
        # Typer's way of ending when the pipe closes under a help text.
        return EXIT_OK if isinstance(ended.__context__, BrokenPipeError) else int(ended.code or 0)
    return code if isinstance(code, int) else EXIT_OK


def _new_app() -> typer.Typer:
    # Rich takes 100 ms to draw boxes around a help text, completion 10 ms of every call.
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        from evlog._version import __version__

        console.write(f"evlog {__version__}\n".encode())
        raise typer.Exit


def _evlog(
    ctx: typer.Context,
    store: StoreOption = None,  # noqa: ARG001 - the commands look it up: options.store_path
    version: Annotated[  # noqa: ARG001 - the callback does it
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        console.write(ctx.get_help().encode() + b"\n")


def _usage_message(error: ClickException) -> str:
    """Typer's message in evlog's form: what is wrong; what to do."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "evlog"
    message = error.format_message().strip().rstrip(".")
    message = message.replace("is not a valid int range", "is not a whole number")
    return f"{message[:1].lower()}{message[1:]}; `{command} --help` shows how it is used"
