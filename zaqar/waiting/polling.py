# SPDX-License-Identifier: Apache-2.0
"""Polls the stores while clients wait: for changes without a wake-up, and for the time when a claim or delay ends.

:class:`~zaqar.waiting.hub.Hub` runs one poller for each store and one for the management store, each in a thread of its
own. So a store that does not answer delays no clients of other stores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from zaqar.clock import Clock
from zaqar.model import QueueName
from zaqar.storage.pools import StoreRef
from zaqar.waiting.background import Job
from zaqar.waiting.registry import Registry
from zaqar.waiting.waiters import Located, Wake

T = TypeVar("T")

POLL_SECONDS = 1.0
"""Time between two polls of all queues that are waited for."""

SOON_SECONDS = 0.1
"""Shortest time between two polls if some queues are to be looked at early."""

CHUNK = 500
"""Maximum number of queues in one call of a store."""

FindQueues = Callable[[Collection[QueueName]], Mapping[QueueName, Located]]
"""Asks the management store for at most CHUNK names. Returns the location of each queue that exists."""


class StorePoller(Job):
    """Asks one store for the positions of all queues that are waited for, and wakes takers when a claim or delay ends.

    The thread of the poller calls ``step``. Other threads call ``look``.
    """

    def __init__(self, store_ref: StoreRef, registry: Registry, clock: Clock, *, lost: Callable[[], None]) -> None:
        """``lost`` is called if the store does not have a queue, which may have been deleted."""
        super().__init__()
        self.name = "waiting for the store" if store_ref.name is None else f"waiting for pool {store_ref.name}"
        self._store_ref = store_ref
        self._registry = registry
        self._clock = clock
        self._lost = lost
        self._lock = threading.Lock()
        self._wanted: set[str] = set()
        self._due: dict[str, float] = {}
        self._known: set[str] = set()
        self._next_full = self._last = float("-inf")

    def is_needed(self) -> bool:
        return self._registry.is_waited_at(self._store_ref)

    def look(self, uid: str) -> None:
        """Look at this queue within SOON_SECONDS. All queues of that time share one call of the store."""
        with self._lock:
            if uid in self._wanted:
                return
            self._wanted.add(uid)
        self.nudge()

    def look_if_new(self, uid: str) -> None:
        """Look at this queue soon unless an earlier poll had it, because it is not known when a claim on it ends."""
        if uid not in self._known:
            self.look(uid)

    def close(self) -> None:
        # After an outage look at all queues.
        self._next_full = float("-inf")

    def step(self) -> float:
        self._wake_due()
        now = time.monotonic()
        if now >= self._next_full:
            uids = self._registry.uids_of(self._store_ref)
            self._known.intersection_update(uids)
            self._due = {uid: due for uid, due in self._due.items() if uid in self._known}
            self._take_wanted()
            self._look(uids)
            self._last = now
            self._next_full = now + POLL_SECONDS
        elif self._wanted and now >= self._last + SOON_SECONDS:
            self._look(sorted(self._take_wanted().intersection(self._registry.uids_of(self._store_ref))))
            self._last = now
        return self._rest()

    def _take_wanted(self) -> set[str]:
        with self._lock:
            wanted, self._wanted = self._wanted, set()
        return wanted

    def _look(self, uids: Sequence[str]) -> None:
        for chunk in chunks(uids):
            now = self._clock()
            positions = self._store_ref.store.queues.positions(uids=chunk, now=now)
            self._known.update(chunk)
            for uid in chunk:
                position = positions.get(uid)
                if position is None or position.next_due is None or position.next_due <= now:
                    self._due.pop(uid, None)
                else:
                    self._due[uid] = position.next_due
            self._registry.note_positions(chunk, positions, now)
            if len(positions) < len(chunk):
                self._lost()

    def _wake_due(self) -> None:
        now = self._clock()
        for uid in [uid for uid, due in self._due.items() if due <= now]:
            del self._due[uid]
            self._registry.wake(uid, Wake.FREED)
            # Ask the store when the next claim or delay of this queue ends.
            with self._lock:
                self._wanted.add(uid)

    def _rest(self) -> float:
        now = time.monotonic()
        seconds = self._next_full - now
        if self._wanted:
            seconds = min(seconds, self._last + SOON_SECONDS - now)
        if self._due:
            seconds = min(seconds, min(self._due.values()) - self._clock())
        return max(0.0, seconds)


class NamePoller(Job):
    """Asks the management store for queues that are waited for and that did not exist, or are not known, so far."""

    name = "waiting for queues"

    def __init__(
        self, registry: Registry, find_queues: FindQueues, found: Callable[[QueueName, Located], object]
    ) -> None:
        super().__init__()
        self._registry = registry
        self._find_queues = find_queues
        self._found = found
        self._began = 0.0

    def is_needed(self) -> bool:
        return bool(self._registry.missing())

    def step(self) -> float:
        self._began = time.monotonic()
        for chunk in chunks(self._registry.missing()):
            for queue_name, located in self._find_queues(chunk).items():
                self._found(queue_name, located)
        return max(0.0, self._began + POLL_SECONDS - time.monotonic())

    def rest(self, seconds: float) -> None:
        super().rest(seconds)
        # Wait until SOON_SECONDS after the last call, so that nudges that come close together cost one call.
        time.sleep(max(0.0, self._began + SOON_SECONDS - time.monotonic()))


def chunks(every: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items in lists of at most CHUNK."""
    left = iter(every)
    while chunk := list(islice(left, CHUNK)):
        yield chunk
