# SPDX-License-Identifier: Apache-2.0
"""The limit of events per second for one connection."""

from __future__ import annotations


class TokenBucket:
    """Admits ``rate`` events per second, and up to ``rate`` at once after a pause; a rate of 0 admits all.

    It refuses no event: it returns the time to wait before the next one.
    """

    __slots__ = ("_level", "_rate", "_since")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._level = rate
        self._since = now

    def take(self, count: int, now: float) -> float:
        """Count events and return the seconds to wait before the next one, 0 for none. ``now`` is a time in seconds."""
        if not self._rate:
            return 0.0
        self._level = min(self._rate, self._level + (now - self._since) * self._rate) - count
        self._since = now
        return max(0.0, -self._level / self._rate)
