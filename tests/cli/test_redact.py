"""`evlog redact`: what it says is still to be done."""

from __future__ import annotations

from tests.cli.conftest import Evlog


def test_a_redaction_says_what_is_still_to_be_done_also_the_second_time(evlog: Evlog) -> None:
    evlog("append", "s", "T", '{"name":"ann"}')

    def redact() -> str:
        result = evlog("redact", "1", "--reason", "r")
        assert result.line["erased"] is False
        return result.err

    def unerased() -> int:
        return int(evlog("compact", "--dry-run").lines[-1]["events_erased"])

    assert "the content is still in files: run `evlog compact`" in redact()
    assert "the content is still in files unless a compaction has run since: run `evlog compact`" in redact()
    assert unerased() == 1
    evlog("compact")
    assert unerased() == 0
