"""Typer parameters that several commands with a Typer function share, made from those of the tables."""

from __future__ import annotations

from typing import Annotated

import typer

from evlog.cli._support.parameters import CATEGORY, SINCE, STORE, TYPES

StoreOption = Annotated[str | None, typer.Option(*STORE.flags, metavar=STORE.metavar, help=STORE.help)]
CategoryOption = Annotated[
    str | None, typer.Option(*CATEGORY.flags, metavar=CATEGORY.metavar, help=CATEGORY.help)
]
TypesOption = Annotated[list[str] | None, typer.Option(*TYPES.flags, metavar=TYPES.metavar, help=TYPES.help)]
SinceOption = Annotated[str | None, typer.Option(*SINCE.flags, metavar=SINCE.metavar, help=SINCE.help)]
