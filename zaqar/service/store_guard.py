# SPDX-License-Identifier: Apache-2.0
"""A circuit breaker for each message store, for questions that can be asked again later.

The threads that ask are few and serve all stores. So a store that does not answer may hold only some of them, and each
for the time-out of its driver only once in a while.
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
"""If a question has been under way for so long, no other one is asked of the same store."""

FIRST_PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 4.0
"""How long a store is left alone after a failure: at first, doubled each time, and at most."""


class StoreBusy(Exception):
    """As many questions to this store as allowed are under way. Ask again in a moment."""


@dataclass(slots=True)
class _State:
    """``running``: when each question began that is under way; the oldest is the first one."""

    running: dict[object, float] = field(default_factory=dict)
    pause: float = 0.0
    try_after: float = float("-inf")


class StoreGuard:
    """Any thread may use it."""

    def __init__(self, most: int, monotonic: Callable[[], float]) -> None:
        """``most``: questions to one store at a time."""
        self._most = most
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._states: WeakKeyDictionary[StoreRef, _State] = WeakKeyDictionary()

    @contextmanager
    def asking(self, store_ref: StoreRef) -> Iterator[None]:
        """Ask a store within this context.

        Raises StoreUnavailable at once, without a question, if the store failed a moment ago or leaves an earlier
        question unanswered, and StoreBusy if ``most`` questions to it are under way.
        """
        this = object()
        with self._lock:
            state = self._states.setdefault(store_ref, _State())
            now = self._monotonic()
            oldest = next(iter(state.running.values()), now)
            # After a failure one question at a time finds out whether the store is back.
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
