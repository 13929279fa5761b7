# SPDX-License-Identifier: Apache-2.0
"""Counts the requests that no signature opens, for the log. Every transport of a process has one counter."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from zaqar.clock import Clock
from zaqar.errors import SignatureRefused

_log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60
"""A caller without an account chooses how many requests are refused. The log grows by one line in this time."""


class RefusedSignatures:
    """Safe for threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refused: Counter[str] = Counter()
        self._quiet_until = 0.0
        self._lock = threading.Lock()

    def note(self, refused: SignatureRefused) -> None:
        """Count a refusal, and log the reasons since the last line if that was long enough ago."""
        now = self._clock()
        with self._lock:
            self._refused[refused.reason] += 1
            # A clock that was set back must not keep the log quiet for longer.
            if self._quiet_until - SECONDS_BETWEEN_LINES <= now < self._quiet_until:
                return
            self._quiet_until = now + SECONDS_BETWEEN_LINES
            reasons, self._refused = self._refused, Counter()
        counts = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
        _log.info("Refused %d requests with a signature; %s.", reasons.total(), counts)
