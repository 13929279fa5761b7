# SPDX-License-Identifier: Apache-2.0
"""A circuit breaker for each message store, for calls that can be repeated later.

``ConnectionSubscriptions`` uses it. Few threads make these calls for all stores. A store that does not answer blocks
each of its callers until the time-out of the driver, so it must block only some of the threads, and only once in a
while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from zaqar.errors import StoreUnavailable
from zaqar.storage.pools import StoreRef

SLOW_SECONDS = 1.0
"""If a call has been running for this long, no further call is made to the same store."""

FIRST_PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 4.0
"""Back-off after a failure: the first pause, which doubles with each failure, and the longest one."""


class StoreBusy(Exception):
    """The allowed number of calls to this store are running. Try again in a moment."""


@dataclass(slots=True)
class _State:
    """``running``: the start time of each running call, the oldest first. ``try_after``: the end of the back-off."""

    running: dict[object, float] = field(default_factory=dict)
    pause: float = 0.0
    try_after: float = float("-inf")


class StoreGuard:
    """Allows or refuses calls to a store. Threads may share it."""

    def __init__(self, most: int, monotonic: Callable[[], float]) -> None:
        """``most``: the number of simultaneous calls to one store."""
        self._most = most
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._states: WeakKeyDictionary[StoreRef, _State] = WeakKeyDictionary()

    @contextmanager
    def asking(self, store_ref: StoreRef) -> Iterator[None]:
        """Call a store within this context.

        Raises StoreUnavailable at once, before the call, if the store failed a moment ago or has not answered an
        earlier call in SLOW_SECONDS. Raises StoreBusy if ``most`` calls to it are running.
        """
        this = object()
        with self._lock:
            state = self._states.setdefault(store_ref, _State())
            now = self._monotonic()
            oldest = next(iter(state.running.values()), now)
            # After a failure one call at a time probes whether the store answers again.
            is_probed = bool(state.pause and state.running)
            if now < state.try_after or is_probed or now - oldest >= SLOW_SECONDS:
                raise StoreUnavailable
            if len(state.running) >= self._most:
                raise StoreBusy
            state.running[this] = now
        is_away = False
        try:
            yield
        except StoreUnavailable:
            is_away = True
            raise
        finally:
            with self._lock:
                del state.running[this]
                state.pause = min(max(FIRST_PAUSE_SECONDS, 2 * state.pause), MOST_PAUSE_SECONDS) if is_away else 0.0
                state.try_after = self._monotonic() + state.pause if is_away else float("-inf")
