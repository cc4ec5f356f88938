"""Types of arguments, for annotations in programs that call evlog: `evlog.ExpectedVersion` and others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from evlog.model.appends import ExpectedVersion, IfVersion
from evlog.model.events import NewEvent
from evlog.model.queries import IfNone

__all__ = ["Append", "Condition", "ContentType", "ExpectedVersion", "OnFailure", "Sync"]

Sync = Literal["always", "none"]
"""When an append returns: once its events are on the device, or once the operating system has them."""

OnFailure = Literal["stop", "park"]
"""What becomes of an event whose handler keeps failing."""

ContentType = Literal["json", "text", "binary"]
"""What the data of an event is."""

Condition = IfNone | IfVersion
"""What must be true for an append beside the version of its stream."""

Append = tuple[str, Iterable[NewEvent]] | tuple[str, Iterable[NewEvent], ExpectedVersion]
"""An append of `append_many`: a stream, its events, and the version that is expected of it."""
