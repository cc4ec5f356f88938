"""The head digest: one SHA-256 that stands for the whole history up to a position.

    d(0) = SHA-256(store id)
    d(k) = SHA-256(d(k-1) || SHA-256(log of segment k))

where a segment's log is hashed from its first byte to the end of the record at the position (to its own end
in every segment but the last). So rolling does not change the digest of a position, and whoever pinned
"POSITION:DIGEST" elsewhere can tell later whether anything before it was rewritten. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple

from evlog.errors import InvalidArgument

_PIN: Final = re.compile(r"(\d{1,20}):([0-9a-fA-F]{64})", re.ASCII)


class Pin(NamedTuple):
    """A head digest that somebody wrote down."""

    position: int
    digest: str


def parse_pin(text: str) -> Pin:
    """`POSITION:DIGEST` as `verify` prints it.

    Raises:
        InvalidArgument: it is something else.
    """
    match = _PIN.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(
            f"{text!r} is no POSITION:DIGEST; give what an earlier verify printed as digest"
        )
    return Pin(int(match[1]), match[2].lower())


def chain_digests(store_id: bytes, logs: Iterable[bytes]) -> str:
    """The head digest in hex, from the SHA-256 of each segment's log, oldest first."""
    digest = sha256(store_id).digest()
    for log in logs:
        digest = sha256(digest + log).digest()
    return digest.hex()
