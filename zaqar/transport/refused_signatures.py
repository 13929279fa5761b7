# SPDX-License-Identifier: Apache-2.0
"""Counts refused signatures for the log. Each transport of a process has one counter."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from zaqar.clock import Clock
from zaqar.errors import SignatureRefused

_log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60
"""The log gets at most one line in this time, because callers without an account can cause any number of refusals."""


class RefusedSignatures:
    """The counter of one transport. Any thread may use it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refused: Counter[str] = Counter()
        self._quiet_until = 0.0
        self._lock = threading.Lock()

    def note(self, refused: SignatureRefused) -> None:
        """Count a refusal. Log the reasons since the last line if that was long enough ago."""
        now = self._clock()
        with self._lock:
            self._refused[refused.reason] += 1
            # The lower bound is for a clock that was set back: it must not keep the log quiet for longer.
            if self._quiet_until - SECONDS_BETWEEN_LINES <= now < self._quiet_until:
                return
            self._quiet_until = now + SECONDS_BETWEEN_LINES
            reasons, self._refused = self._refused, Counter()
        counts = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
        _log.info("Refused %d requests with a signature; %s.", reasons.total(), counts)
