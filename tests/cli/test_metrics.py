"""`evlog metrics`."""

from __future__ import annotations

import sys

import pytest

from tests.adapters.test_metrics import samples
from tests.cli.conftest import Evlog


def test_the_command_prints_them(evlog: Evlog) -> None:
    evlog("append", "s", "T")
    assert samples(evlog("metrics").out)["evlog_head_position", ""] == 1


def test_without_the_library_the_extra_is_named(evlog: Evlog, monkeypatch: pytest.MonkeyPatch) -> None:
    evlog("append", "s", "T")
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "evlog.adapters.metrics")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    result = evlog("metrics")
    assert result.code == 10
    assert "pip install 'evlog-store[metrics]'" in result.err
