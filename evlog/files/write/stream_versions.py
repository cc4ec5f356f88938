"""Stream versions as a writer needs them: the current one, checked against what is expected, and the next.

Versions that were looked up once are remembered by name until another process writes to the stream; of
its events only the hashes are at hand, so what is remembered can be found by hash, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from evlog.errors import InvalidArgument, StreamTombstoned, WrongExpectedVersion
from evlog.files.format.entries import ENTRY_BYTES, ENTRY_VERSION
from evlog.files.format.frames import MAX_VERSION
from evlog.files.format.hashes import hash_stream
from evlog.files.log.log import Log
from evlog.files.log.policies import PolicyTable
from evlog.model.appends import NO_STREAM, STREAM_EXISTS, Expectation
from evlog.model.events import check_readable_name, check_stream_name

_MAX_PLACES: Final = 1 << 12
_MAX_REMEMBERED: Final = 1 << 20  # streams; more, and remembering begins anew


class StreamVersions:
    """The versions of a store's streams. Its `…_locked` methods need the writers' lock."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._hashes: dict[str, int] = {}
        self._versions: dict[str, int] = {}
        self._name_of: dict[int, str] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._second: set[str] = set()  # names whose hash belongs to another name: looked up each time

    def hashes(self, streams: Sequence[str], *, system: bool = False) -> list[int]:
        """The hash of each stream's name.

        Args:
            system: the names may be reserved ones.

        Raises:
            InvalidStreamName: one is none.
        """
        if system:  # never remembered here, where all others are found
            return [hash_stream(check_readable_name(stream)) for stream in streams]
        cache = self._hashes
        try:
            return list(map(cache.__getitem__, streams))
        except (KeyError, TypeError):
            pass
        if len(cache) > _MAX_REMEMBERED:
            cache = self._hashes = {}
        for stream in streams:
            if stream.__class__ is not str or stream not in cache:
                name = check_stream_name(stream)
                cache[name] = hash_stream(name)
        return [cache[stream] for stream in streams]

    def next_locked(
        self, streams: Sequence[str], hashes: Sequence[int], expectations: Sequence[Expectation]
    ) -> list[int]:
        """The version that each event gets, once every expectation holds.

        Raises:
            StreamTombstoned: a stream must not be appended to any more.
            WrongExpectedVersion: an expectation does not hold.
            InvalidArgument: a stream is full.
        """
        policies = self._log.policies()
        if policies.any:
            _check_tombstones(streams, policies)
        if expectations:
            self._check_locked(streams, expectations, policies)
        heads: dict[str, int] = {}
        versions = []
        remembered = self._versions.get
        for stream, stream_hash in zip(streams, hashes, strict=True):
            version = heads.get(stream)
            if version is None:
                version = remembered(stream)
                if version is None:
                    version = self._look_up_locked(stream, stream_hash)
            heads[stream] = version = version + 1
            versions.append(version)
        if max(versions) > MAX_VERSION:
            raise InvalidArgument(f"a stream holds at most {MAX_VERSION} events; begin another stream")
        return versions

    def remember(self, streams: Sequence[str], versions: Sequence[int]) -> None:
        """What `next_locked` said is written now."""
        self._versions.update(zip(streams, versions, strict=True))
        if self._second:
            for stream in self._second.intersection(streams):
                del self._versions[stream]
        if len(self._versions) > _MAX_REMEMBERED:
            self.forget_all()

    def place_of(self, stream: str) -> tuple[int, int]:
        """Position and version of the last event of the stream that `learn` was told of, or zeros."""
        return self._places.get(stream, (0, 0))

    def learn(self, stream: str, position: int, version: int) -> None:
        """An event of the stream stands there; others may follow it."""
        if len(self._places) > _MAX_PLACES:
            self._places.clear()
        self._places[stream] = (position, version)

    def confirm_locked(self, stream: str, stream_hash: int, position: int, version: int) -> None:
        """Remember the version of an event that `learn` of some writer was told of, if it is the last still.

        That costs less than a look-up: of the events behind it only the stream hashes need be looked at.
        """
        active = self._log.active
        number = position - active.first_position
        if number < 0 or stream in self._versions:
            return
        entries = active.segment.entries
        key, at = stream_hash.to_bytes(8, "little"), number * ENTRY_BYTES
        if not entries.startswith(key, at) or ENTRY_VERSION.unpack_from(entries, at)[0] != version:
            return  # a backup was put back under a writer that remembers what came after it
        if entries.find(key, at + ENTRY_BYTES) >= 0:
            return  # or bytes that look like it
        if self._name_of.setdefault(stream_hash, stream) == stream:
            self._versions[stream] = version

    def forget(self, hashes: Sequence[int]) -> None:
        """Others wrote to streams with these hashes."""
        for stream_hash in self._name_of.keys() & hashes:
            self._versions.pop(self._name_of.pop(stream_hash), None)

    def forget_all(self) -> None:
        """Look everything up anew."""
        self._versions.clear()
        self._name_of.clear()
        self._second.clear()

    def _check_locked(
        self, streams: Sequence[str], expectations: Sequence[Expectation], policies: PolicyTable
    ) -> None:
        for expectation in expectations:
            at, stream, expected = expectation
            actual = self._versions.get(stream)
            if actual is None:
                actual = self._look_up_locked(stream, hash_stream(stream))
            before = sum(1 for other in streams[:at] if other == stream)
            if not before and expected in (NO_STREAM, STREAM_EXISTS) and policies.any:
                rule = policies.rule_for(stream)
                if rule is not None and rule.is_deleted(actual):
                    actual = 0  # as with KurrentDB: it does not exist, though its versions go on
            actual += before
            if not expectation.is_met(actual):
                raise WrongExpectedVersion(stream, expected, actual)

    def _look_up_locked(self, stream: str, stream_hash: int) -> int:
        version = self._log.find_version(stream, stream_hash)
        if self._name_of.setdefault(stream_hash, stream) == stream:
            self._versions[stream] = version
        else:
            self._second.add(stream)
        return version


def _check_tombstones(streams: Sequence[str], policies: PolicyTable) -> None:
    for stream in dict.fromkeys(streams):
        rule = policies.rule_for(stream)
        if rule is not None and rule.tombstone:
            raise StreamTombstoned(stream)
