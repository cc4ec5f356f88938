"""Where a store in NATS is: servers, its name, credentials and options, and a text without secrets."""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from evlog.engine import make_url, split_url
from evlog.engines.waiting import timeouts_of
from evlog.errors import InvalidArgument

PORT: Final = 4222
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,60}", re.ASCII)
_OPTIONS: Final = ("replicas", "timeout", "tls", "ca")
_REPLICAS: Final = ("1", "3", "5")


class Address:
    """Where a store is.

    Attributes:
        servers: hosts and ports, in the order in which they are tried.
        name: the store's; `stream` is JetStream's name for its events, `bucket` for its records by key.
        replicas: of a stream that is made; None: three in a cluster, else one.
        timeout_seconds: for how long what a failover interrupts is tried again.
        open_timeout_seconds: for how long a server is looked for when the store is opened.
        text: the URL without secrets.
    """

    def __init__(self, url: str) -> None:
        parts = split_url(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        user, at, hosts = parts.netloc.rpartition("@")
        name, colon, secret = user.partition(":")
        shown = name if colon else "***" if user else ""  # a user alone is a token
        self.text = make_url("nats", shown + at + hosts, parts.path, urlencode(options, safe="/~"))
        self.name = parts.path.strip("/")
        if not _NAME.fullmatch(self.name):
            raise InvalidArgument(
                f"invalid store name in {self.text}; use nats://HOST/NAME with letters, digits, _ and -"
            )
        unknown = [option for option in options if option not in _OPTIONS]
        if unknown:
            raise InvalidArgument(f"unknown option {unknown[0]!r} in the URL; use {', '.join(_OPTIONS)}")
        if options.get("replicas", "1") not in _REPLICAS:
            raise InvalidArgument(f"invalid replicas {options['replicas']!r} in the URL; use 1, 3 or 5")
        if options.get("tls", "no") not in ("yes", "no"):
            raise InvalidArgument(f"invalid tls {options['tls']!r} in the URL; use yes or no")
        try:
            self.servers = [_host(host) for host in hosts.split(",")]
        except ValueError as error:
            raise InvalidArgument(f"invalid URL {self.text} ({error})") from None
        self.timeout_seconds, self.open_timeout_seconds = timeouts_of(options.get("timeout"), self.text)
        self.replicas = int(options["replicas"]) if "replicas" in options else None
        self.uses_tls = options.get("tls") == "yes"
        self.ca = options.get("ca") or os.environ.get("NATS_CA")
        self.user = unquote(name) if colon else os.environ.get("NATS_USER")
        self.password = unquote(secret) if colon else os.environ.get("NATS_PASSWORD")
        self.token = unquote(user) if user and not colon else os.environ.get("NATS_TOKEN")
        self.stream = f"evlog-{self.name}"
        self.bucket = f"KV_evlog-{self.name}"


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing")
    return parts.hostname, parts.port or PORT
