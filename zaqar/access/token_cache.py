# SPDX-License-Identifier: Apache-2.0
"""A cache of tokens, so that most requests ask neither keystonemiddleware nor Keystone.

:class:`~zaqar.access.keystone.TokenValidator` is its only user. It does not contain the tokens: the key is their
SHA-256.
"""

from __future__ import annotations

from hashlib import sha256

from zaqar.access.identity import Answer, Identity
from zaqar.bounded_cache import BoundedCache, size_of
from zaqar.clock import Clock

REJECTED_SECONDS = 10.0
"""For this time a token that Keystone did not know is refused without asking Keystone again."""

_IDENTITIES_BYTES = 16 * 1024 * 1024
"""Memory for valid tokens: more than 10,000 with a few roles each. The oldest are removed first."""

_REJECTED_BYTES = 2 * 1024 * 1024
"""Memory for rejected tokens: about 5,000. Clients can send any number of them, so they have their own cache."""

Key = bytes


def key_of(token: str) -> Key:
    """Return the key of a token in the cache: its SHA-256."""
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


class TokenCache:
    """The identities of valid tokens, each until a given time, and rejected tokens. Threads may share it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # (from, until, identity). With both times, an entry does not live longer if the clock is set back.
        self._identities: BoundedCache[Key, tuple[float, float, Identity]] = BoundedCache(_IDENTITIES_BYTES)
        self._rejected: BoundedCache[Key, tuple[float, float]] = BoundedCache(_REJECTED_BYTES)

    def find(self, key: Key) -> Identity | None:
        """Return the identity of a token that is cached as valid, or None."""
        entry = self._identities.get(key)
        if entry is None or not entry[0] <= self._clock() < entry[1]:
            return None
        return entry[2]

    def was_rejected(self, key: Key) -> bool:
        """Whether the token is cached as rejected."""
        entry = self._rejected.get(key)
        return entry is not None and entry[0] <= self._clock() < entry[1]

    def keep(self, key: Key, answer: Answer) -> None:
        """Cache the result about a token for ``answer.seconds``, or until the token expires if that is sooner."""
        now = self._clock()
        identity = answer.identity
        if identity is None:
            rejected = (now, now + answer.seconds)
            self._identities.forget(key)
            self._rejected.put(key, rejected, size_of(key) + size_of(rejected))
            return
        entry = (now, min(now + answer.seconds, identity.expires), identity)
        parts = [identity.project, identity.user_id, identity.system_scope, *identity.roles]
        self._rejected.forget(key)
        self._identities.put(key, entry, size_of(key) + size_of(parts) + size_of(entry))
