# SPDX-License-Identifier: Apache-2.0
"""How fast one connection may send."""

from __future__ import annotations


class TokenBucket:
    """Admits ``rate`` events a second, and after a pause up to a second's worth at once; a rate of 0 admits all.

    It refuses nothing: it says for how long to wait before the next event is looked at.
    """

    __slots__ = ("_level", "_rate", "_since")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._level = rate
        self._since = now

    def take(self, count: int, now: float) -> float:
        """Count the events; the seconds to wait before more of them are admitted, 0 if none."""
        if not self._rate:
            return 0.0
        self._level = min(self._rate, self._level + (now - self._since) * self._rate) - count
        self._since = now
        return max(0.0, -self._level / self._rate)
