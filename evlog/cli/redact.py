"""`evlog redact`: erase the content of events."""

from __future__ import annotations

from evlog.cli._support import console
from evlog.cli._support.options import STORE
from evlog.cli._support.output import print_object
from evlog.cli._support.parameters import Argument, Option
