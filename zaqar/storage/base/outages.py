# SPDX-License-Identifier: Apache-2.0
"""What the log says of a store that is away: a line when that begins, a count each minute, and a line when it ends.

The seam of each driver, where the errors of its library are translated, reports failures and successes here. A line or
a traceback for each request that is refused would fill the disk of the log, and hide what else is there.
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

COUNT_SECONDS = 60.0
"""How often a store that stays away is mentioned."""

QUIET_SECONDS = 5.0
"""An outage is over at the first success that comes so long after the last failure.

So operations that fail now and then among others that succeed, such as posts to a full disk among reads, are one.
"""

_LONGEST_REASON = 300


class Outage:
    """The outage of one store, or the place for one; shared by all in this process who work with the store."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.since: float | None = None
        """When it began, by ``time.monotonic``; None if the store is not away. On the path of every request."""
        self._lock = threading.Lock()
        self._told = self._last = 0.0
        self._failures = 0

    @classmethod
    def of(cls, name: str) -> Self:
        """That of the store that is called so in the log. The name begins a sentence and holds no password."""
        with _making:
            found = _outages.get(name)
            if found is None:
                found = _outages[name] = cls(name)
        assert isinstance(found, cls)
        return found

    def failed(self, reason: BaseException | str) -> StoreUnavailable:
        """Note that an operation was refused, and log what is due to be logged; the error to raise for it."""
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
            _log.error("%s is not available: %s. What needs it is refused until it is.", self.name, text)
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
        """Note an answer of the store. Called only if ``since`` is set, as nearly always there is no outage."""
        now = time.monotonic()
        with self._lock:
            if self.since is None or now - self._last < QUIET_SECONDS:
                return
            seconds, failures = self._last - self.since, self._failures
            self.since = None
        _log.warning("%s is available again, after %d s; %d operations were refused.", self.name, seconds, failures)

    def renew_in_child(self) -> None:
        """Another thread of the parent may have had the lock at the moment of the fork."""
        self._lock = threading.Lock()


class Unlogged(Outage):
    """For the start of a store, whose failure a StartupError tells."""

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
