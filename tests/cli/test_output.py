from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.cli._support import console
from evlog.cli._support.output import csv_row


def test_what_is_written_now_comes_after_what_was_written_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        console.write(b"1")
        console.write_now(b"2")
        assert (tmp_path / "out").read_bytes() == b"12"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_every_text_comes_back_from_csv(texts: list[str]) -> None:
    (row,) = csv.reader(io.StringIO(csv_row(texts).decode(), newline=""))
    assert row == texts
