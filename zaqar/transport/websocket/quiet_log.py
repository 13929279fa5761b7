# SPDX-License-Identifier: Apache-2.0
"""Limits log lines that clients can cause as often as they like, so that they cannot fill the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

QUIET_SECONDS = 10.0
"""The log gets at most one line of each kind in this time."""


class QuietLog:
    """Logs one line of each kind in QUIET_SECONDS. The next one has the number of lines left out. Not thread-safe."""

    def __init__(self, log: logging.Logger, *, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._now = now
        self._told: dict[Hashable, tuple[float, int]] = {}

    def tell(self, level: int, kind: Hashable, text: str, *arguments: object) -> None:
        """Log a line, or only count it. ``kind`` must have few values, and clients must not choose it."""
        now = self._now()
        last, left_out = self._told.get(kind, (float("-inf"), 0))
        if now - last < QUIET_SECONDS:
            self._told[kind] = (last, left_out + 1)
            return
        self._told[kind] = (now, 0)
        if left_out:
            text, arguments = f"{text} Since the last such line there were %d more.", (*arguments, left_out)
        self._log.log(level, text, *arguments)
