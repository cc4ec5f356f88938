"""Suggestions for a command or option that evlog does not have but a user knows from other tools.

Known words come first, then names that are spelt alike. A suggestion is made only if it exists where the slip
was made.
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Final

# What other tools call it: evlog's name, or names of which the first that exists counts.
_COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    name: meant
    for names, meant in {
        "ls list dir topics show-streams": ("list", "streams"),
        "cat log print dump query select events fetch": ("read", "show"),
        "get": ("show", "read"),
        "find search grep filter": ("read",),
        "subs sub subscription consumers groups consumer-groups": ("subscriptions",),
        "add put write push publish produce emit insert record save set post send ingest import": ("append",),
        "create new setup": ("init",),
        "follow watch listen consume subscribe stream": ("tail",),
        "check fsck validate integrity repair salvage doctor": ("verify",),
        "gc vacuum prune clean purge optimize trim": ("compact",),
        "rm remove del drop erase": ("delete",),
        "stat stats status du describe details": ("info", "show"),
        "keep retention ttl expire policy policies rules": ("retain",),
        "man docs guide manual tutorial": ("help",),
        "seek rewind set-offset offset": ("reset",),
        "retry redrive resume": ("replay",),
        "failed dead dead-letters dlq errors": ("parked",),
    }.items()
    for name in names.split()
}
_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    name: meant
    for names, meant in {
        "key dedupe dedup-key": ("--idempotency-key", "--id-field"),
        "where filter query match": ("--type", "--category"),
        "json jsonl ndjson": ("-o json",),
        "csv": ("-o csv",),
        "pretty": ("-o pretty",),
        "table": ("-o table",),
        "raw": ("-o data",),
        "format": ("--output",),
        "columns select field cols": ("--fields",),
        "db database dir directory path repo root": ("--store",),
        "expected expect-version expected-version version if-match": ("--expect",),
        "limit count max number lines last head tail max-count": ("--limit", "-n", "--max-count"),
        "group consumer subscription subscriber durable": ("--name",),
        "event-type types event kind": ("--type",),
        "prefix": ("--category",),
        "from from-position offset start start-from begin position skip": ("--after", "--from", "--to"),
        "end stop": ("--to", "--until"),
        "before": ("--until", "--to"),
        "newer after-time start-time from-time": ("--since",),
        "older end-time to-time": ("--until",),
        "desc backwards backward descending": ("--reverse",),
        "v": ("--version",),
        "wait": ("--timeout", "--lock-timeout", "--follow"),
        "watch": ("--follow",),
        "command cmd run": ("--exec",),
        "until": ("--until-type",),
        "attempts max-attempts retry": ("--retries",),
        "dead-letter dlq park on-error": ("--on-failure",),
        "stdin bulk jsonlines": ("--lines",),
        "transaction all-or-nothing": ("--atomic",),
        "no-sync nosync fsync": ("--sync",),
        "metadata-field header headers": ("--meta",),
        "uuid event-id": ("--id",),
        "fix": ("--repair",),
        "fast": ("--quick",),
        "preview what-if": ("--dry-run",),
        "age ttl": ("--max-age",),
    }.items()
    for name in names.split()
}
# Advice for slips that no option matches.
_OTHERWISE: Final[dict[tuple[str, str], str]] = {
    ("read", "follow"): "use `evlog tail -f`",
    ("read", "f"): "use `evlog tail -f`",
    ("read", "watch"): "use `evlog tail -f`",
    ("read", "name"): "use `evlog tail --name`",
    ("read", "exec"): "use `evlog tail --exec`",
    ("read", "stream"): "the stream is an argument: `evlog read STREAM`",
    ("tail", "stream"): "the stream is an argument: `evlog tail STREAM`",
    ("tail", "reverse"): "use `evlog read --reverse`",
    ("append", "stream"): "the stream is the first argument: `evlog append STREAM TYPE`",
    ("append", "type"): "the type is the second argument: `evlog append STREAM TYPE`",
    ("append", "data"): "the data is the third argument: `evlog append STREAM TYPE DATA`",
    ("append", "file"): "write @FILE for the data, or use --lines < FILE",
}
# A suggestion that is far off misleads more than none: `open` is not `append`.
LEAST_ALIKE: Final = 0.7


def maybe_command(word: str, known: Collection[str]) -> str | None:
    """Return the command, or the action of a command, that a word most likely means."""
    word = word.lower()
    for name in (word, *_COMMANDS.get(word, ())):
        if name in known:
            return name
    close = get_close_matches(word, known, n=1, cutoff=LEAST_ALIKE)
    return close[0] if close else None


def maybe_option(word: str, command: str, known: Collection[str]) -> str | None:
    """Return what to use for an option that the command does not have.

    Args:
        word: the option as it was written.
        command: the command's name, without `evlog`.
        known: the flags of its options.
    """
    name = word.lstrip("-").lower().replace("_", "-")
    if (command, name) in _OTHERWISE:
        return _OTHERWISE[command, name]
    if name.isdecimal() and "-n" in known:
        return f"did you mean -n {name}?"
    if f"--{name}" in known:
        return f"did you mean --{name}?"
    for meant in _OPTIONS.get(name, ()):
        if meant.partition(" ")[0] in known:
            return f"did you mean {meant}?"
    begun = [flag for flag in known if len(name) > 1 and flag.startswith(f"--{name}")]
    close = begun if len(begun) == 1 else get_close_matches(f"--{name}", known, n=1, cutoff=LEAST_ALIKE)
    return f"did you mean {close[0]}?" if close else None
