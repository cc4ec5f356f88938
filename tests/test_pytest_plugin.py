"""The fixture `evlog_store`, in a run of pytest of its own, as a program that uses evlog has it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.support.programs import ROOT, run_python

TESTS = """
import evlog

def test_it_is_empty(evlog_store, tmp_path):
    assert evlog_store.head == 0
    evlog_store.append("a", [evlog.NewEvent("T")])
    with evlog.open(evlog_store.path) as again:
        assert again.head == 1
    global kept
    kept = evlog_store

def test_each_test_has_its_own_and_the_last_one_is_closed(evlog_store):
    assert evlog_store.head == 0
    try:
        kept.head
    except evlog.StoreClosed:
        return
    raise AssertionError
"""


def test_each_test_gets_a_fresh_store(tmp_path: Path) -> None:
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    assert entry["pytest11"] == {"evlog": "evlog.pytest_plugin"}
    (tmp_path / "test_it.py").write_text(TESTS)
    arguments = ("-m", "pytest", "-q", "-p", entry["pytest11"]["evlog"], str(tmp_path))
    ran = run_python(*arguments, cwd=tmp_path, env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert "2 passed" in ran.stdout
