# SPDX-License-Identifier: Apache-2.0
"""Leaves out warnings and errors that were logged a moment ago, so that a fault that repeats does not fill the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from zaqar.metrics.families import LOG_SUPPRESSED
from zaqar.metrics.recorder import Recorder

REPEAT_SECONDS = 60.0
"""A record that equals an earlier one is left out for so long. The next one after that has the number left out."""

MOST_REMEMBERED = 500
"""Number of different records that are remembered. Of more, the oldest ones are forgotten."""

_recorder: Recorder | None = None
"""The log is set up before there is a recorder, and belongs to the whole process, so this does too."""


def count_in(recorder: Recorder | None) -> None:
    """Count the records that are left out from now on. ``zaqar.app`` calls it; None ends it."""
    global _recorder
    _recorder = recorder


class RepeatFilter(logging.Filter):
    """Lets the first of equal warnings pass, then one a minute. Equal means: of one logger, with the same text.

    Records of lower levels always pass.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        # Reentrant, because a finalizer that the garbage collector runs while it is held may log, too.
        self._lock = threading.RLock()
        self._seen: OrderedDict[tuple[str, int, str], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        # Several handlers see the same record, and must do the same with it.
        decided: bool | None = getattr(record, "is_repeat_shown", None)
        if decided is None:
            decided = record.is_repeat_shown = self._decide(record)
            if not decided and _recorder is not None:
                _recorder.add(LOG_SUPPRESSED)
        return decided

    def _decide(self, record: logging.LogRecord) -> bool:
        key, now = (record.name, record.levelno, record.getMessage()), self._monotonic()
        with self._lock:
            last, left_out = self._seen.get(key, (float("-inf"), 0))
            if now - last < REPEAT_SECONDS:
                self._seen[key] = last, left_out + 1
                return False
            self._seen[key] = now, 0
            self._seen.move_to_end(key)
            if len(self._seen) > MOST_REMEMBERED:
                self._seen.popitem(last=False)
        if left_out:
            record.msg, record.args = f"{key[2]} (and {left_out} times more since the last such line)", ()
        return True
