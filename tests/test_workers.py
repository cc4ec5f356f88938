"""How xdist shares the tests out among its workers."""

from __future__ import annotations

import re

import pytest

from tests.support.programs import ROOT, run_python


def test_one_worker_runs_all_tests_that_share_a_server() -> None:
    pytest.importorskip("xdist")
    options = ["-v", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider"]
    chosen = ["tests/engines/kafka", "-k", "a_url_that_makes_no_sense"]  # these need no server
    done = run_python("-m", "pytest", *options, *chosen, cwd=ROOT)
    workers = re.findall(r"^\[(gw\d)\] .* PASSED", done.stdout, re.MULTILINE)
    assert len(workers) > 5, done.stdout
    assert len(set(workers)) == 1
