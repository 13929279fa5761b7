# SPDX-License-Identifier: Apache-2.0
"""The generic cell rate algorithm: whether an event is within a rate. :mod:`zaqar.quotas.rates` uses it.

For each key it keeps one number, the *theoretical arrival time*: the time at which all events so far would have
arrived if they had come at exactly the rate. An event may be early by the time that a burst takes. The algorithm is
exact: in any time T at most ``burst + rate * T`` is admitted, however the events are spread over it.

It reads no clock and does no I/O: callers pass ``now``, in seconds of a clock that does not go back.
"""

from __future__ import annotations

import _thread
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MOST_KEYS = 10_000
"""Keys that one object remembers. If there are more, the one that was used longest ago starts anew."""

_EXAMINED = 2
"""Old keys that each new key examines. With two, expired keys are removed faster than new ones come."""

_ROUNDING = 1e-9
"""Part of a burst by which an event may be too early, because a sum of floats is not exact."""


class Gcra(Generic[K]):
    """One rate for many keys. Threads may share it."""

    def __init__(self, rate: float, burst: float) -> None:
        """``rate``: units in a second. ``burst``: units that are admitted at once after a pause; at least 1 counts."""
        self.burst = max(1.0, burst)
        self._interval = 1.0 / rate
        self.span = self.burst * self._interval
        """Seconds that a burst takes at the rate."""
        self._latest = self.span * (1.0 + _ROUNDING)
        self._arrivals: dict[K, float] = {}
        """The theoretical arrival times, the key that was used longest ago first."""
        # A lock of the interpreter, which gevent does not replace: no greenlet is switched while it is held.
        self._lock = _thread.allocate_lock()

    def take(self, key: K, now: float) -> float:
        """Count an event of one unit if it is admitted.

        Returns the seconds that the key is ahead of its rate then: up to ``span``. If the event is refused, returns
        less than 0: the seconds after which it is admitted, with a minus.
        """
        # PERF: the same as wait() and count(), in one step.
        arrivals = self._arrivals
        with self._lock:
            arrival = arrivals.pop(key, None)
            if arrival is None:
                self._make_room(now)
                arrival = now
            elif arrival < now:
                arrival = now
            ahead = arrival - now + self._interval
            if ahead <= self._latest:
                arrivals[key] = arrival + self._interval
                return ahead
            arrivals[key] = arrival
            return self.span - ahead

    def wait(self, key: K, cost: float, now: float) -> float:
        """Return the seconds after which an event that takes ``cost`` units is admitted; 0 if it is now.

        Nothing is counted. An event with a higher cost than the burst is admitted if nothing of the burst is used.
        Events after it then wait until all of its cost is paid off, so the rate holds.
        """
        ahead = self._arrivals.get(key, now) - now
        excess = (ahead if ahead > 0.0 else 0.0) + min(cost, self.burst) * self._interval
        return 0.0 if excess <= self._latest else excess - self.span

    def count(self, key: K, cost: float, now: float) -> None:
        """Count an event. If threads count at the same time, the rate may be exceeded at first; it is paid off."""
        arrivals = self._arrivals
        with self._lock:
            arrival = arrivals.pop(key, None)
            if arrival is None:
                self._make_room(now)
                arrival = now
            # Inserted again, so it is the last one to be removed.
            arrivals[key] = max(arrival, now) + cost * self._interval

    def left(self, key: K, now: float) -> float:
        """Return the units that are admitted at once."""
        ahead = self._arrivals.get(key, now) - now
        return self.burst if ahead <= 0.0 else max(0.0, (self.span - ahead) / self._interval)

    def seconds_until_full(self, key: K, now: float) -> float:
        """Return the seconds after which the whole burst is admitted again."""
        return max(0.0, self._arrivals.get(key, now) - now)

    def __len__(self) -> int:
        return len(self._arrivals)

    def _make_room(self, now: float) -> None:
        """Remove keys that were last used two bursts ago, and the oldest ones if there are too many."""
        arrivals = self._arrivals
        for _ in range(_EXAMINED):
            if not arrivals:
                return
            oldest = next(iter(arrivals))
            if arrivals[oldest] + self.span > now and len(arrivals) < MOST_KEYS:
                return
            del arrivals[oldest]
