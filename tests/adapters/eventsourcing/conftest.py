"""What the library's published tests need is in the extra `test`; without it they are left out, not in CI."""

from __future__ import annotations

import importlib.util
import os

needed = ("eventsourcing", "Crypto", "msgspec")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
assert not (missing and os.environ.get("CI")), f"{missing} are missing: install the extra `test`"
collect_ignore_glob = ["test_*.py"] if missing else []
