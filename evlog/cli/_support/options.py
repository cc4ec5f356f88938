"""What several commands share: which store and where it is found, which events, what recovery did."""

from __future__ import annotations

import os
from typing import Annotated, Final

import typer

import evlog
from evlog.cli._support import console
from evlog.errors import InvalidArgument

DEFAULT_STORE: Final = ".evlog"

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        "-s",
        metavar="PATH",
        help="The store's directory; else $EVLOG_STORE, else the nearest .evlog from here upwards.",
    ),
]

CategoryOption = Annotated[
    str | None, typer.Option("--category", metavar="NAME", help="Streams named NAME or NAME-….")
]
TypesOption = Annotated[
    list[str] | None, typer.Option("--type", metavar="NAME", help="Only this event type (repeatable).")
]
SinceOption = Annotated[str | None, typer.Option("--since", metavar="WHEN", help="Written then or later.")]


def named_store(ctx: typer.Context, option: str | None) -> str | None:
    """The store that --store (after the command's name or before it) or EVLOG_STORE names."""
    for given in (option, ctx.find_root().params.get("store")):
        if given is not None:
            if not given:
                raise InvalidArgument("--store is empty; give the path of a directory")
            return str(given)
    return os.environ.get("EVLOG_STORE") or None


def find_store(ctx: typer.Context, option: str | None) -> str:
    """The store to use: the one that is named, else the nearest `.evlog`, else `.evlog` here."""
    return named_store(ctx, option) or nearest_store() or DEFAULT_STORE


def nearest_store() -> str | None:
    """The nearest `.evlog` directory, from the current one upwards."""
    if os.path.isdir(DEFAULT_STORE):
        return DEFAULT_STORE
    folder = os.getcwd()
    while (above := os.path.dirname(folder)) != folder:
        folder = above
        path = os.path.join(folder, DEFAULT_STORE)
        if os.path.isdir(path):
            return path
    return None


def open_store(ctx: typer.Context, option: str | None) -> evlog.EventStore:
    """Open the store of a command that makes none.

    Raises:
        StoreNotFound: there is none.
    """
    return evlog.open(find_store(ctx, option))


def report_torn_tails(store: evlog.EventStore) -> None:
    """Say on stderr what was cut off the end of the log, if a crash had left something there."""
    for tail in store.torn_tails:
        console.note(
            f"cut {tail.cut_bytes} bytes off the end of {tail.path}: an append that a crash left unfinished"
        )
