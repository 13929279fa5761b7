# SPDX-License-Identifier: Apache-2.0
"""Log lines about the outage of a store: one when it begins, a count each minute, and one when it ends.

Each driver calls this module where it translates the errors of its library to StoreUnavailable. A log line or a
traceback for each refused request would fill the disk and hide other lines.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from typing import Self

from zaqar.errors import StoreUnavailable

_log = logging.getLogger(__name__)

_ALWAYS_SHOWN = {"is_repeat_shown": True}
"""Keeps ``zaqar.logs.repeats`` from leaving out the line: each outage has its own, also if the last one was similar."""

COUNT_SECONDS = 60.0
"""Seconds between two log lines during an outage."""

QUIET_SECONDS = 5.0
"""An outage ends with the first success that comes this many seconds after the last failure, or later.

So if some operations fail while others succeed, for example posts to a full disk and reads, that is one outage.
"""

_LONGEST_REASON = 300


class Outage:
    """Whether one store has an outage at present. All users of the store in this process share one object."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.since: float | None = None
        """The begin of the outage, as of ``time.monotonic``; None if there is none.

        Every request reads it, without the lock. A stale value costs one call of ``succeeded`` too many or too few.
        """
        self._lock = threading.Lock()
        self._told = self._last = 0.0
        self._failures = 0

    @classmethod
    def of(cls, name: str) -> Self:
        """The outage of the store with this name in the log. The name can begin a sentence, and has no password."""
        with _making:
            found = _outages.get(name)
            if found is None:
                found = _outages[name] = cls(name)
        assert isinstance(found, cls)
        return found

    def failed(self, reason: BaseException | str) -> StoreUnavailable:
        """Count an operation that failed, write a log line if one is due, and return the error to raise."""
        now = time.monotonic()
        text = _in_one_line(reason)
        with self._lock:
            self._failures += 1
            self._last = now
            begins = self.since is None
            if begins:
                self.since, self._told, self._failures = now, now, 1
            counts = now - self._told >= COUNT_SECONDS
            if counts:
                self._told = now
            seconds, failures = now - (self.since or now), self._failures
        if begins:
            _log.error(
                "%s is not available: %s. What needs it is refused until it is.", self.name, text, extra=_ALWAYS_SHOWN
            )
        elif counts:
            _log.error(
                "%s is not available for %d s now; %d operations were refused, the last one for: %s.",
                self.name,
                seconds,
                failures,
                text,
            )
        if isinstance(reason, BaseException):
            _log.debug("%s: an operation was refused.", self.name, exc_info=reason)
        error = StoreUnavailable()
        error.is_logged = True
        return error

    def succeeded(self) -> None:
        """End the outage if the last failure is long enough ago. To save time, call it only if ``since`` is set."""
        now = time.monotonic()
        with self._lock:
            if self.since is None or now - self._last < QUIET_SECONDS:
                return
            seconds, failures = self._last - self.since, self._failures
            self.since = None
        _log.warning(
            "%s is available again, after %d s; %d operations were refused.",
            self.name,
            seconds,
            failures,
            extra=_ALWAYS_SHOWN,
        )

    def renew_in_child(self) -> None:
        """Make a new lock after a fork: another thread of the parent may have held the old one at that moment."""
        self._lock = threading.Lock()


class Unlogged(Outage):
    """Writes no log lines. For the start of a store: its failure is reported by a StartupError."""

    def failed(self, reason: BaseException | str) -> StoreUnavailable:
        return StoreUnavailable()


_outages: weakref.WeakValueDictionary[str, Outage] = weakref.WeakValueDictionary()
_making = threading.Lock()


def _in_one_line(reason: BaseException | str) -> str:
    text = " ".join(str(reason).split()).rstrip(".") or type(reason).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def _renew_in_child() -> None:
    global _making
    _making = threading.Lock()
    for outage in list(_outages.values()):
        outage.renew_in_child()


os.register_at_fork(after_in_child=_renew_in_child)
