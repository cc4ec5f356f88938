from __future__ import annotations

import pytest

from evlog.errors import InvalidArgument
from evlog.model.pins import Pin, maybe_parse_pin

DIGEST = "0aF9" * 16


def test_a_pin_is_what_verify_printed() -> None:
    assert maybe_parse_pin(f" 17:{DIGEST}\n", quick=False) == Pin(17, DIGEST.lower())
    assert maybe_parse_pin(None, quick=True) is None


@pytest.mark.parametrize(
    "text", ["", "1", "1:abc", f"-1:{DIGEST}", f"²:{DIGEST}", f"x:{DIGEST}", f"1:{'g' * 64}"]
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="pass POSITION:DIGEST"):
        maybe_parse_pin(text, quick=False)


def test_a_quick_check_takes_no_pin() -> None:
    with pytest.raises(InvalidArgument, match="quick reads few"):
        maybe_parse_pin(f"1:{DIGEST}", quick=True)
