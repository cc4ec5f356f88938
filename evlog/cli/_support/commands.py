"""The commands by what they are for, in the order of the help, each with a line that fits 80 columns."""

from __future__ import annotations

SECTIONS = {
    "Write": {
        "init": "Create an empty store.",
        "append": "Append an event, or one for each line of JSON on stdin.",
        "transact": "Read a stream, have a command decide, append its decision.",
        "schema": "Have the data of an event type checked on append.",
    },
    "Read": {
        "read": "Print events, of one stream or of all.",
        "show": "Print single events, by id, position or key.",
        "trace": "Print what caused an event, and what it caused.",
        "streams": "List the streams.",
        "sql": "Query events and streams in SQL.",
        "web": "Show the store in a browser on this machine.",
        "mcp": "Serve the store to an assistant (Model Context Protocol).",
    },
    "Follow": {
        "tail": "Print the last events and new ones; run a command on each.",
        "subscriptions": "List, check, reset, delete what `tail --name` made.",
    },
    "State": {
        "state": "Fold events into a state.",
        "snapshots": "List, show, delete the states that `state --snapshot` kept.",
    },
    "Keep and erase": {
        "retain": "Limit what is kept of a stream or a category.",
        "delete": "Delete a stream.",
        "redact": "Erase the content of events; their places stay.",
        "compact": "Free the space of events that are hidden or redacted.",
    },
    "Copies": {
        "backup": "Copy the store while others write; again: only what is new.",
        "fork": "Make a new store that begins with this one's history.",
        "mirror": "Copy a store into another one, on any engine, exactly once.",
        "export": "Write events to JSON lines, CSV, SQLite or Parquet files.",
    },
    "Check": {
        "info": "Show counts, bytes, positions and times.",
        "verify": "Check every byte; repair or salvage what is damaged.",
        "metrics": "Print the store's numbers for Prometheus.",
    },
    "Help": {
        "help": "Show the guide by topic, or the help of a command.",
        "completion": "Print the script that completes command lines in a shell.",
        "version": "Show the version.",
    },
}
COMMANDS = {name: summary for section in SECTIONS.values() for name, summary in section.items()}
