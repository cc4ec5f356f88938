"""The Typer application: the help of evlog and of each command, and every command line that is not plain.

1. A command's parameters come from its table, or from those of its subcommands (`parameters.py`). Its module
   is imported when it is called; the list in `--help` needs none of them.
2. What Typer finds wrong with a command line becomes an InvalidArgument: one line, exit code 2, with the
   command whose help explains it. An option that takes one value is refused if it is given twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer._click._textwrap import TextWrapper

# Typer publishes only one of these (BadParameter); a wrong command line can raise any of them.
from typer._click.exceptions import ClickException, NoSuchOption, UsageError
from typer._click.globals import get_current_context
from typer._click.parser import _OptionParser
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from evlog.cli._support import console
from evlog.cli._support.commands import COMMANDS, SECTIONS
from evlog.cli._support.parameters import FLAG, STORE, Parameter, Subcommand, run_command
from evlog.cli._support.plain import is_negative_number, load, takes_numbers
from evlog.errors import EXIT_OK, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import ModuleType

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
# Typer breaks a line also at a hyphen, which makes two words of --id-field, and has no setting for it.
TextWrapper.wordsep_re = TextWrapper.wordsep_simple_re
_EXTRA_ARGUMENTS: Final = "Got unexpected extra argument(s) ("
_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


class _Helpful:
    """A command whose help goes through evlog's own output."""

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        option: TyperOption | None = super().get_help_option(ctx)  # type: ignore[misc]  # a command's
        if option is not None:
            option.callback = _show_help
        return option


class LazyGroup(_Helpful, TyperGroup):
    """The commands of COMMANDS, each from the module that has its name."""

    def __init__(self, **attributes: Any) -> None:
        # Typer suggests names from this mapping.
        super().__init__(**attributes | {"commands": dict.fromkeys(COMMANDS), "context_settings": _SETTINGS})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - Typer's signature
        """Import a command and build its parameters."""
        return _build(cmd_name, load(cmd_name)) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first argument names."""
        if args[0] not in COMMANDS:
            advice = _maybe_meant("evlog", args[0], COMMANDS) or "`evlog --help` lists the commands"
            raise InvalidArgument(f"no command {args[0]!r}", advice)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the commands by what they are for, in columns that line up over all sections."""
        width = max(map(len, COMMANDS))
        for heading, commands in SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<{width}}", summary) for name, summary in commands.items()])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what comes before the command's name, and refuse an option that is given twice."""
        _refuse_twice(self.make_parser(ctx), args)
        return super().parse_args(ctx, args)


class TableCommand(_Helpful, TyperCommand):
    """A command whose parameters come from a table."""

    def __init__(self, module: ModuleType | Subcommand, name: str, summary: str) -> None:
        self._module = module
        super().__init__(
            name,
            callback=self._call,
            params=[_typer_parameter(parameter) for parameter in module.PARAMETERS],
            help=module.HELP,
            short_help=summary,
            context_settings=_SETTINGS,
            rich_markup_mode=None,
        )

    def make_parser(self, ctx: Any) -> _OptionParser:
        """Return Typer's parser, made to take negative numbers for arguments where DATA can be one."""
        parser = super().make_parser(ctx)
        if takes_numbers(self._module.PARAMETERS):
            parser.__class__ = _NumberParser
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line, and refuse an option that is given twice."""
        try:
            _refuse_twice(self.make_parser(ctx), args)
            return super().parse_args(ctx, args)
        except UsageError as error:
            error.ctx = error.ctx or ctx  # so that the message names this command's help
            raise

    def _call(self, **texts: Any) -> Any:
        ctx = get_current_context()
        while texts.get("store") is None and ctx.parent is not None:
            ctx = ctx.parent
            texts["store"] = ctx.params.get("store")
        return run_command(self._module, texts)


class SubcommandGroup(_Helpful, TyperGroup):
    """A command with subcommands, one of which is meant if none is named."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self._default: str = module.DEFAULT
        super().__init__(
            name=name,
            commands={
                action: TableCommand(found, action, found.HELP.partition("\n")[0])
                for action, found in module.SUBCOMMANDS.items()
            },
            params=[_typer_parameter(STORE)],
            help=module.HELP,
            short_help=COMMANDS[name],
            subcommand_metavar="[ACTION] [ARGS]...",
            no_args_is_help=False,
            invoke_without_command=True,
            context_settings=_SETTINGS,
            rich_markup_mode=None,
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the subcommand that the first argument names."""
        if args[0] not in self.commands:
            path = ctx.command_path
            advice = _maybe_meant(path, args[0], self.commands) or f"use one of {', '.join(self.commands)}"
            raise InvalidArgument(f"no action {args[0]!r} of `{path}`", advice)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what comes before the action, refuse an option given twice, add the default action."""
        try:
            rest = _refuse_twice(self.make_parser(ctx), args)
        except NoSuchOption:
            return super().parse_args(ctx, [self._default, *args])  # an option of the default action
        return super().parse_args(ctx, args if rest else [*args, self._default])


class _Argument(TyperArgument):
    def make_metavar(self, ctx: Any, *, usage: bool = False) -> str:  # noqa: ARG002 - Typer's signature
        """Return the name as manual pages write it; Typer has {NAME}, and no dots for several."""
        name = str(self.metavar)
        if not usage:
            return name
        dots = "..." if self.nargs != 1 else ""
        return f"{name}{dots}" if self.required else f"[{name}]{dots}"


class _NumberParser(_OptionParser):
    def _process_opts(self, arg: str, state: Any) -> None:
        if is_negative_number(arg):
            state.largs.append(arg)
        else:
            super()._process_opts(arg, state)


def invoke(arguments: list[str]) -> int:
    """Run the command that the arguments name and return its exit code.

    Raises:
        InvalidArgument: the command line is wrong; the message says where the help is.
    """
    try:
        code = _application().main(arguments, prog_name="evlog", standalone_mode=False)
    except ClickException as error:
        raise InvalidArgument(_usage_message(error)) from None
    except SystemExit as ended:
        # Typer ends in this way when the pipe closes under a help text.
        return EXIT_OK if isinstance(ended.__context__, BrokenPipeError) else int(ended.code or 0)
    return code if isinstance(code, int) else EXIT_OK


def help_of(name: str, action: str | None = None) -> str:
    """Return what `evlog NAME --help` prints, or `evlog NAME ACTION --help`.

    Raises:
        InvalidArgument: the command has no such action.
    """
    root = _application()
    context = root.context_class(root, info_name="evlog")
    command: Any = root
    for part in (name, action):
        if part is not None:
            if not hasattr(command, "resolve_command"):
                raise InvalidArgument(f"`evlog {name}` has no actions", f"see `evlog help {name}`")
            _, command, _ = command.resolve_command(context, [part])
            context = command.context_class(
                command, info_name=part, parent=context, help_option_names=_SETTINGS["help_option_names"]
            )
    return str(command.get_help(context))


def _application() -> TyperGroup:
    # Rich takes 100 ms to draw boxes around a help text, completion 10 ms of every call.
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(cls=LazyGroup, help=HELP, invoke_without_command=True)(_evlog)
    return get_command(app)  # type: ignore[return-value]  # an application with a callback is a group


def _build(name: str, module: ModuleType) -> TableCommand | SubcommandGroup:
    if hasattr(module, "SUBCOMMANDS"):
        return SubcommandGroup(module, name)
    return TableCommand(module, name, COMMANDS[name])


def _typer_parameter(parameter: Parameter) -> TyperArgument | TyperOption:
    if not parameter.flags:
        return _Argument(
            param_decls=[parameter.name],
            metavar=parameter.metavar,
            help=parameter.help,
            required=parameter.required,
            nargs=-1 if parameter.many else 1,
            show_default=False,
        )
    return TyperOption(
        param_decls=[parameter.name, *parameter.flags],
        metavar=parameter.metavar,
        help=parameter.help,
        is_flag=parameter.kind is FLAG,
        default=False if parameter.kind is FLAG else None,
        multiple=parameter.many,
    )


def _maybe_meant(path: str, word: str, known: Collection[str]) -> str | None:
    from evlog.cli._support.slips import maybe_command

    meant = maybe_command(word, known)
    return None if meant is None else f"did you mean `{path} {meant}`?"


def _refuse_twice(parser: _OptionParser, arguments: list[str]) -> list[str]:
    """Refuse an option that is given twice; return the arguments that are not options."""
    _, rest, order = parser.parse_args(list(arguments))
    single = [found for found in order if isinstance(found, TyperOption) and not found.multiple]
    for option in single:
        if not option.is_flag and single.count(option) > 1:
            raise InvalidArgument(f"{max(option.opts, key=len)} is given twice", "give it once")
    return rest


def _show_help(ctx: Any, _param: Any, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        console.write(f"{ctx.get_help()}\n".encode())
        raise typer.Exit


def _show_version(wanted: bool) -> None:
    if wanted:
        from evlog._version import __version__

        console.write(f"evlog {__version__}\n".encode())
        raise typer.Exit


def _evlog(
    ctx: typer.Context,
    store: Annotated[  # noqa: ARG001 - the commands look it up
        str | None, typer.Option(*STORE.flags, metavar=STORE.metavar, help=STORE.help)
    ] = None,
    version: Annotated[  # noqa: ARG001 - the callback does it
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        console.write(f"{ctx.get_help()}\n".encode())


def _usage_message(error: ClickException) -> str:
    """Return Typer's message in evlog's form: what is wrong; what to do."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "evlog"
    if isinstance(error, NoSuchOption) and context is not None:
        from evlog.cli._support.slips import maybe_option

        parameters = context.command.get_params(context)  # with --help
        known = [flag for parameter in parameters for flag in parameter.opts if flag[:1] == "-"]
        meant = maybe_option(error.option_name, command.removeprefix("evlog").strip(), known)
        if meant is not None:
            return f"no option {error.option_name}; {meant} (`{command} --help` lists the options)"
        return f"no option {error.option_name}; `{command} --help` shows how it is used"
    message = error.format_message().strip().rstrip(".")
    if (words := message.removeprefix(_EXTRA_ARGUMENTS)) != message:
        message = f"unexpected argument {words.removesuffix(')')!r}"
        if command == "evlog append":
            return f"{message}; quote DATA for the shell, as in '{{\"amount\": 10}}'"
        parameters = [] if context is None else context.command.params
        takes_none = not any(isinstance(parameter, TyperArgument) for parameter in parameters)
        if takes_none and any(parameter.name == STORE.name for parameter in parameters):
            return f"{message}; --store names the store (`{command} --help` shows how it is used)"
    return f"{message[:1].lower()}{message[1:]}; `{command} --help` shows how it is used"
