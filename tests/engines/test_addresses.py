"""URLs of engines: what a message shows of them. No server is needed."""

from __future__ import annotations

import pytest

import evlog


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nats://", "invalid store name in nats://; use nats://HOST/NAME"),
        ("kafka://", "invalid URL kafka://; use kafka://HOST"),
        ("dynamodb://", "invalid URL dynamodb:///; use dynamodb://REGION/TABLE"),
        ("dynamodb://eu-central-1/x", "invalid URL dynamodb://eu-central-1/x; use dynamodb://REGION/TABLE"),
        ("postgresql:///shop?nope=1", "invalid URL postgresql:///shop?nope=1 (invalid URI query parameter"),
    ],
)
def test_a_url_is_shown_as_it_was_given(url: str, message: str) -> None:
    with pytest.raises(evlog.InvalidArgument) as refused:
        evlog.open(url)
    assert str(refused.value).startswith(message)


def test_postgresql_without_a_host_is_the_local_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "/nowhere")
    with pytest.raises(evlog.StoreUnreachable) as refused:
        evlog.open("postgresql:///shop?connect_timeout=2")
    assert "/nowhere/.s.PGSQL.5432" in str(refused.value)
