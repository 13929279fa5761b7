# SPDX-License-Identifier: Apache-2.0
"""What a process remembers of tokens, so that most requests ask neither keystonemiddleware nor Keystone.

:class:`~zaqar.access.keystone.TokenValidator` is the only user. Tokens themselves are not kept: a key is their SHA-256.
"""

from __future__ import annotations

from hashlib import sha256

from zaqar.access.identity import Answer, Identity
from zaqar.bounded_cache import BoundedCache, size_of
from zaqar.clock import Clock

REJECTED_SECONDS = 10.0
"""For so long a token that Keystone did not know is refused without another question."""

_IDENTITIES_BYTES = 16 * 1024 * 1024
"""Memory of the valid tokens: more than 10,000 with a few roles each. The oldest are dropped first."""

_REJECTED_BYTES = 2 * 1024 * 1024
"""Memory of the others: about 5,000. Anybody can send any number of them, so they take no room from the valid ones."""

Key = bytes


def key_of(token: str) -> Key:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


class TokenCache:
    """The identities of valid tokens, each until a time, and the tokens that were rejected. Safe for threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # (from, until, identity). Two times, so that a clock that is set back does not make entries live longer.
        self._identities: BoundedCache[Key, tuple[float, float, Identity]] = BoundedCache(_IDENTITIES_BYTES)
        self._rejected: BoundedCache[Key, tuple[float, float]] = BoundedCache(_REJECTED_BYTES)

    def find(self, key: Key) -> Identity | None:
        """The identity of a token that was found valid, and still counts as such."""
        entry = self._identities.get(key)
        if entry is None or not entry[0] <= self._clock() < entry[1]:
            return None
        return entry[2]

    def was_rejected(self, key: Key) -> bool:
        entry = self._rejected.get(key)
        return entry is not None and entry[0] <= self._clock() < entry[1]

    def keep(self, key: Key, answer: Answer) -> None:
        """Remember what was found out about a token for ``answer.seconds``, or until it ends if that is sooner."""
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
