"""URLs of engines: what a message shows of them. No server is needed."""

from __future__ import annotations

import pytest

import evlog
from evlog.engine import check_marks


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


PASSWORD = "left-right"  # in messages neither half may be seen


@pytest.mark.parametrize("scheme", ["postgresql", "nats", "kafka", "dynamodb"])
@pytest.mark.parametrize("mark", ["/", "#", "?", "@"])
def test_a_mark_in_a_password_that_is_not_escaped_shows_nothing_of_it(scheme: str, mark: str) -> None:
    for rest in (f"user:{PASSWORD.replace('-', mark)}@h:1/db", f"us{mark}er@h/db", f"user:12{mark}34@h/db"):
        if mark == "@" and rest.startswith("us@"):
            continue  # a user and a host
        with pytest.raises(evlog.InvalidArgument, match=f"write %{ord(mark):02X} for ") as refused:
            evlog.open(f"{scheme}://{rest}")
        assert not any(secret in str(refused.value) for secret in ("left", "right", "12", "34@"))


@pytest.mark.parametrize(
    "url",
    [
        *(
            f"{scheme}://user:{password}@h/db"  # which Python cannot split
            for scheme in ("postgresql", "nats", "kafka", "dynamodb")
            for password in ("left\u2100right", "[left]right", "[left")
        ),
        "postgresql://user:left%zzright@h/db",  # these are refused by a client
        "postgresql://user:left right@h/db",
        "dynamodb://eu-central-1/table?endpoint=http://user:leftright@h:x",
    ],
)
def test_a_message_shows_nothing_of_a_password(url: str) -> None:
    with pytest.raises(evlog.InvalidArgument) as refused:
        evlog.open(url)
    assert "left" not in str(refused.value)
    assert "right" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://a:1,b:2/db?user=me@example&password=x@y",
        "postgresql:///db?user=a@b",
        "postgresql://a:1,b,[::1]:2/db?user=a@b",
        "nats://user:p%40ss@[::1]:4222,[::2]/n",
        "kafka://[::1]/t?sasl.username=a@b",
        "dynamodb://eu-central-1/table?endpoint=http://u:p@h:8000",
        "kafka://k1:9092/topic",
    ],
)
def test_marks_where_they_belong_are_accepted(url: str) -> None:
    check_marks(url)


def test_postgresql_without_a_host_is_the_local_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "/nowhere")
    with pytest.raises(evlog.StoreUnreachable) as refused:
        evlog.open("postgresql:///shop?connect_timeout=2")
    assert "/nowhere/.s.PGSQL.5432" in str(refused.value)
