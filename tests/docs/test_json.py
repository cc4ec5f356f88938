"""`evlog help json` names every field that a command prints."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from tests.support.readme import GUIDE, run_session, shell_environment

if TYPE_CHECKING:
    from pathlib import Path

# Paragraph of the page → commands, run in this order in one folder. "" is the table of an event.
COMMANDS: Final = (
    ("init", "evlog init"),
    ("append", "evlog append order-1 Placed '{}' --tag a:b --idempotency-key k --correlation-id c"),
    ("append", "echo '{}' | evlog append --lines order-1 Paid --ack"),
    ("append --lines", "echo '{}' | evlog append --lines order-2 Placed"),
    ("append --lines", "echo text | evlog append --lines order-3 Noted --text"),
    ("state", "evlog state order-1 --snapshot total"),
    ("snapshots", "evlog snapshots list"),
    ("snapshots", "evlog snapshots show total order-1"),
    ("redact", "evlog redact 1 --reason erasure 2> errors"),
    ("", "evlog read"),
    ("", "evlog show 1"),
    ("", "evlog trace 1"),
    ("export", "evlog export all.jsonl"),
    ("backup", "evlog backup copy"),
    ("fork", "evlog fork branch"),
    ("mirror", "evlog mirror store mirrored --dry-run"),
    ("mirror", "evlog mirror store mirrored"),
    ("mirror", "evlog mirror store mirrored --check"),
    ("info", "evlog info -s mirrored"),
    ("mirror", "evlog mirror --promote mirrored"),
    ("info", "evlog mirror branch moved --cutover > out && evlog info -s branch"),
    ("retain", "evlog retain order-1 --max-count 1"),
    ("streams", "evlog streams"),
    ("info", "evlog info"),
    ("subscriptions", "evlog tail --name n --tag c:d --grep x > out; evlog subscriptions"),
    ("subscriptions", "evlog subscriptions check n --max-lag 9"),
    ("subscriptions", "evlog subscriptions reset n --to 0"),
    ("", "evlog tail --name p --type Paid --on-failure park --retries 1 --exec false 2> errors"),
    ("subscriptions parked", "evlog subscriptions parked p"),
    ("", "evlog subscriptions replay p 2> errors"),
    ("delete", "evlog delete order-3"),
    ("compact", "evlog compact --dry-run"),
    ("compact", "evlog compact --force"),
    ("verify", "evlog verify"),
    ("verify", "evlog verify --repair"),
    ("verify", "evlog verify --against $(evlog verify | grep -o '[0-9]*:[0-9a-f]\\{64\\}')"),
    ("verify", "evlog verify --salvage saved"),
)


def named_fields() -> dict[str, set[str]]:
    """Return the names in each paragraph of the page, by its heading."""
    (page,) = [page.text for page in GUIDE if page.name.endswith("/json.md")]
    table, commands = page.split("## Commands\n")
    found = {"": set(re.findall(r"`(\w+)`", table))}
    for part in commands.split("\n**`")[1:]:
        name, text = part.split("`**", 1)
        found[name] = set(re.findall(r"`(\w+)`", text))
    return found


def test_every_field_that_a_command_prints_is_on_the_page(tmp_path: Path) -> None:
    environment = shell_environment(tmp_path / "programs") | {"EVLOG_STORE": "store"}
    named = named_fields()
    scripts = [f"{command}\n" for _, command in COMMANDS]
    for (paragraph, command), printed in zip(
        COMMANDS, run_session(scripts, tmp_path, environment), strict=True
    ):
        fields = {field for line in printed.splitlines() for field in json.loads(line)}
        assert fields <= named[paragraph], command
        assert fields or not paragraph, f"{command} prints nothing"
