"""`evlog compact`: remove the events that retention rules and deletions hide."""

from __future__ import annotations

from evlog.cli._support import console, options
from evlog.cli._support.parameters import STORE, flag
from evlog.cli._support.progress import with_progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

    from evlog.cli._support.parameters import Given
    from evlog.model.reports import Compaction

HELP: Final = """Remove the events that `retain` and `delete` have hidden, and merge small segments.

Positions, versions, ids and times of all other events stay as they are; a used id stays used. Other processes
may read and write meanwhile. Removed events never come back. A compaction can be interrupted at any time; the
next `evlog compact` continues it. Events that a named subscription has not read yet are not removed without
--force (exit code 3). In a pipe the summary is one JSON object; --dry-run prints a line of JSON for each
stream and rule before it.

--compress also compresses the logs of sealed segments, if that makes them smaller. Every evlog that has
zstandard installed (pip install 'evlog-store[zstd]'; exit code 10 without it) reads them as before, and they
stay compressed when a later compaction rewrites them. No event and no digest changes.

\b
  evlog compact --dry-run
  evlog compact
  evlog compact --compress
  evlog retain --category session --max-age 30d && evlog compact
"""

_MOST_ROWS: Final = 20


PARAMETERS: Final = (
    flag("--dry-run", "Only print what would be removed, by rule and stream."),
    flag("--force", "Also remove events that named subscriptions have not read."),
    flag("--compress", "Also compress the logs of sealed segments with zstandard."),
    STORE,
)


def command(given: Given) -> None:
    """Compact, and print what was done."""
    dry_run, compress = given.dry_run, given.compress
    with options.open_store(given) as store:
        done = with_progress(
            lambda progress: store.compact(
                dry_run=dry_run, force=given.force, compress=compress, progress=progress
            ),
            counts_bytes=not options.is_url(store.path),
        )
    if not dry_run:
        console.set_done("the compaction is done")
    if console.stdout_is_terminal():
        _write_text(done, dry_run=dry_run, compress=compress)
    else:
        _write_json(done, dry_run=dry_run)


def _write_json(done: Compaction, *, dry_run: bool) -> None:
    for rule, stream, events, size in done.removals:
        console.write_object({"rule": rule, "stream": stream, "events": events, "bytes": size})
    summary = done._asdict() | {"dry_run": dry_run}
    del summary["removals"]
    if dry_run:
        del summary["segments_after"], summary["bytes_after"]  # not known before it is done
    console.write_object(summary)


def _write_text(done: Compaction, *, dry_run: bool, compress: bool) -> None:
    lines = [f"resumed the compaction that began at position {done.position:,}"] if done.resumed else []
    if dry_run:
        for chunk in _removal_table(done):
            console.write(chunk)
        size = sum(removal.bytes for removal in done.removals)
        if done.events_erased:
            lines.append(f"would erase {console.count_of(done.events_erased, 'redacted event')}")
        events = console.count_of(done.events_removed, "event")
        lines.append(f"would remove {events}, {size:,} bytes of the log; nothing was changed")
    elif (
        done.events_removed
        or done.events_erased
        or done.segments_before != done.segments_after
        or done.segments_compressed
    ):
        erased = console.count_of(done.events_erased, "redacted event")
        share = f" ({done.bytes_after / done.bytes_before:.0%})" if done.bytes_before else ""
        lines += [
            f"{console.count_of(done.events_removed, 'event')} removed",
            *([f"{erased} erased"] if done.events_erased else ()),
            f"{console.count_of(done.segments_before, 'segment')}, now {done.segments_after:,}",
            f"{done.bytes_before:,} bytes, now {done.bytes_after:,}{share}",
        ]
    else:
        lines.append("nothing to remove")
    if done.segments_compressed or compress:
        lines.append(_compressed_text(done, dry_run=dry_run))
    console.write("".join(f"{line}\n" for line in lines).encode())


def _compressed_text(done: Compaction, *, dry_run: bool) -> str:
    if not done.segments_compressed:
        return "nothing to compress"
    share = done.compressed_bytes / done.uncompressed_bytes
    what = f"{done.uncompressed_bytes:,} bytes of log"
    size = f"{done.compressed_bytes:,} ({share:.0%})"
    segments = console.count_of(done.segments_compressed, "segment")
    if dry_run:
        return f"{segments} would be compressed: {what}, to about {size}"
    return f"{segments} compressed: {what}, now {size}"


def _removal_table(done: Compaction) -> Iterator[bytes]:
    from collections import Counter

    from evlog.cli._support.table import draw_table

    rules: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for removal in done.removals:
        name = _rule_text(removal.rule)
        rules[name] += removal.events
        sizes[name] += removal.bytes
    if len(rules) > 1 or len(done.removals) > _MOST_ROWS:
        yield from draw_table(
            ("rule", "events", "bytes"),
            [(name, str(events), str(sizes[name])) for name, events in rules.most_common(_MOST_ROWS)],
        )
        yield b"\n"
    if done.removals:
        yield from draw_table(
            ("stream", "rule", "events", "bytes"),
            [
                (stream, _rule_text(rule), str(events), str(size))
                for rule, stream, events, size in done.removals[:_MOST_ROWS]
            ],
        )
    if len(done.removals) > _MOST_ROWS:
        yield f"and {console.count_of(len(done.removals) - _MOST_ROWS, 'more stream')}\n".encode()


def _rule_text(rule: dict[str, Any]) -> str:
    """Return a rule in one line: of which stream or category it is, and what it says."""
    kind = "category" if "category" in rule else "stream"
    words = " ".join(f"{name}={value}" for name, value in rule.items() if name not in ("stream", "category"))
    return f"{kind} {rule[kind]}: {words}"
