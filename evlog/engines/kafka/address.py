"""Where a store is: the brokers, the topic, and the settings of librdkafka; a text without secrets."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from evlog.engine import make_url, split_url
from evlog.engines.waiting import timeouts_of
from evlog.errors import InvalidArgument

if TYPE_CHECKING:
    from typing import Any

_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,240}", re.ASCII)  # Kafka allows 249; `.evlog` is added
_SECRET: Final = re.compile(r"password|secret|token|\bkey\b|key\.pem|jaas", re.IGNORECASE)
_OWN: Final = ("partitions", "replicas", "config", "timeout")
# Settings that decide about evlog's promises, which a URL must not change.
_FIXED: Final = re.compile(
    r"acks|request\.required\.acks|transactional\.id|enable\.idempotence|isolation\.level|group\.id|"
    r"enable\.auto\.(commit|offset\.store)|enable\.partition\.eof|auto\.offset\.reset|bootstrap\.servers|"
    r"batch\.size|allow\.auto\.create\.topics|default\.topic\.config|logger|.*_cb"
)
_REFUSALS: Final = ("_AUTHENTICATION", "_SSL")

# librdkafka reports lost connections on stderr, and connects again by itself: evlog's errors say it.
_SILENT: Final = logging.getLogger("evlog.engines.kafka.client")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class Address:
    """The parts of `kafka://[user@]host[:port][,host…]/topic[?setting=value…]`.

    Settings are those of librdkafka, such as `security.protocol`. evlog's own are `partitions` and
    `replicas`, for a topic that it creates, `timeout`, and `config`: a file of settings, a line `name=value`
    each.

    Attributes:
        settings: what every client is made with.
        refusal: the client's last report that a broker refuses the user or the certificate. The calls that
            fail for it only say that no broker can be reached.
        text: the URL without what is secret.

    Raises:
        InvalidArgument: the URL makes no sense.
    """

    def __init__(self, url: str) -> None:
        parts = split_url(url)
        self.refusal: Any = None
        user, at, hosts = parts.netloc.rpartition("@")
        name, colon, password = user.partition(":")
        self.topic = unquote(parts.path.removeprefix("/"))
        options = parse_qsl(parts.query, keep_blank_values=True)
        shown = [(key, "***" if _SECRET.search(key) else value) for key, value in options]
        query = urlencode(shown, safe="*,/:", quote_via=quote)
        self.text = make_url("kafka", name + at + hosts, parts.path, query)
        if not hosts or not _TOPIC.fullmatch(self.topic) or self.topic in (".", ".."):
            raise InvalidArgument(f"invalid URL {self.text}; use kafka://HOST[:PORT][,HOST…]/TOPIC")
        given = dict(options)
        self.partitions = self._number(given, "partitions")
        self.replicas = self._number(given, "replicas")
        self.timeout_seconds, self.open_timeout_seconds = timeouts_of(given.get("timeout"), self.text)
        settings = {} if "config" not in given else _read_settings(given["config"])
        settings |= {key: value for key, value in given.items() if key not in _OWN}
        fixed = next((key for key in settings if _FIXED.fullmatch(key)), None)
        if fixed is not None:
            raise InvalidArgument(f"{fixed} cannot be set in {self.text}; leave it out: evlog sets it")
        if name:
            settings.setdefault("sasl.username", unquote(name))
            settings.setdefault("sasl.mechanism", "PLAIN")
            settings.setdefault("security.protocol", "SASL_SSL")
        if colon:
            settings["sasl.password"] = unquote(password)
        self.settings: dict[str, Any] = {
            "bootstrap.servers": hosts,
            "reconnect.backoff.max.ms": 1000,
            **settings,
            "allow.auto.create.topics": False,  # a question would create a topic, with wrong settings
            "logger": _SILENT,
            "error_cb": self._note,
        }

    @property
    def own_topic(self) -> str:
        """The compacted topic that keeps subscriptions, and how far a mirror over many partitions is."""
        return f"{self.topic}.evlog"

    def _note(self, error: Any) -> None:
        """Take the client's reports. Each call says by itself whether it failed, but not always why."""
        if error.name() in _REFUSALS:
            self.refusal = error

    def _number(self, given: dict[str, str], name: str) -> int | None:
        text = given.get(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10_000):
            raise InvalidArgument(f"invalid {name} in {self.text}; use a number from 1 on")
        return int(text)


def _read_settings(path: str) -> dict[str, Any]:
    """Return the settings in a file, as kcat and Kafka's own tools read them."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"the file of settings {path!r} cannot be read ({error})") from None
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}
