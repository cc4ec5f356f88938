"""`evlog info`: the store in numbers."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import STORE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Final

    import evlog
    from evlog.cli._support.parameters import Given

HELP: Final = """Show what is in the store: counts, bytes on disk, segments, first and last position and time.

In a pipe it is one JSON object; positions are 0 and times null while the store is empty. "policies" counts
the streams and categories for which `evlog retain` has set something; deleted streams are counted apart.
"saved_bytes" is how many bytes `evlog compact --compress` saved in "compressed_segments".
"capabilities" say what the store's engine can do, and what an append survives.

\b
  evlog info
  evlog info --store /var/lib/orders | cat
"""


PARAMETERS: Final = (STORE,)


def command(given: Given) -> None:
    """Print the numbers."""
    with options.open_store(given) as store:
        info, can = store.info(), store.capabilities
    if console.stdout_is_terminal():
        lines = (f"{name:<15} {console.printable(text)}\n" for name, text in _readable(info, can).items())
        console.write("".join(lines).encode(errors="backslashreplace"))
    else:
        numbers = info._asdict() | {"first_time": _iso(info.first_time), "last_time": _iso(info.last_time)}
        numbers["capabilities"] = vars(can)
        console.write_object(numbers)


def _readable(info: evlog.StoreInfo, can: evlog.Capabilities) -> dict[str, str]:
    span = f"{info.first_position:,} to {info.last_position:,}" if info.events else "none"
    return {
        "path": info.path,
        "engine": can.engine,
        "durability": can.durability,
        "id": str(info.id),
        "format": str(info.format),
        "events": f"{info.events:,}",
        "streams": f"{info.streams:,}",
        "bytes": f"{info.bytes:,}",
        "segments": f"{info.segments:,}",
        "positions": span,
        "first time": _iso(info.first_time) or "none",
        "last time": _iso(info.last_time) or "none",
        "policies": f"{info.policies:,}",
        "deleted streams": f"{info.deleted_streams:,}",
        "clock": _clock_text(info.clock_ahead_seconds),
        "compressed": f"{info.compressed_segments:,} segments, {info.saved_bytes:,} bytes less",
    }


def _clock_text(ahead_seconds: float) -> str:
    if ahead_seconds < 1:
        return "not behind the last event"
    return f"{ahead_seconds:,.0f} s behind the last event, whose time all later events get"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
