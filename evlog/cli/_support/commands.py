"""The commands, in the order in which the help lists them, each with a line about what it does."""

from __future__ import annotations

COMMANDS = {
    "init": "Create a store.",
    "append": "Append events: one from the arguments, or many from lines of JSON.",
    "transact": "Read a stream, have a command decide, and append what it decided.",
    "read": "Print events, of one stream or of all.",
    "show": "Print single events, by id or position.",
    "trace": "Print what caused an event, and what it caused.",
    "tail": "Print the last events and follow new ones; run a command on each.",
    "state": "Fold events into a state; keep it as a snapshot.",
    "snapshots": "List, show and delete the states that are kept.",
    "subscriptions": "List, show, reset and delete durable subscriptions and what they parked.",
    "streams": "List the streams.",
    "info": "Show what is in the store: counts, bytes, positions and times.",
    "retain": "Set what is kept of a stream or of a category's streams.",
    "delete": "Delete a stream.",
    "schema": "Set the JSON Schema that the data of an event type has to fit; list and show them.",
    "redact": "Erase the content of events; their places stay.",
    "compact": "Remove the events that retention rules and deletions hide, and what was redacted.",
    "mirror": "Copy the store into another one, on any engine, exactly once.",
    "backup": "Copy the store while others write to it, or bring the copy up to date.",
    "export": "Write events to a file: JSON lines, CSV, SQLite, Parquet, CloudEvents.",
    "sql": "Run a query of SQL over the store.",
    "mcp": "Serve the store to an assistant, by the Model Context Protocol.",
    "metrics": "Print the store's numbers for Prometheus.",
    "fork": "Make a store of its own that begins with this one's history.",
    "verify": "Check every byte of the store; repair or salvage what is damaged.",
    "help": "Show the guide by topic, or the help of a command.",
    "completion": "Print the script that makes a shell complete command lines.",
    "version": "Show the version.",
}
