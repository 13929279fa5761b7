# SPDX-License-Identifier: Apache-2.0
"""What wakes the waiters of a process: posts and releases here, wake-ups from elsewhere, and a look at the stores.

While somebody waits, each store is asked once a second for the positions of all queues that are waited for. So an event
that was not told costs a second at most.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

from zaqar.clock import Clock
from zaqar.errors import StoreUnavailable
from zaqar.model import Address, Queue
from zaqar.storage.placement import Place
from zaqar.waiting.registry import Kind, Located, Registry, Waiter, Wake
from zaqar.waiting.shared_reads import SharedReads

_log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Time between two looks at a store."""


Remembered = Callable[[Address], Located | None]
"""Where a queue is, from memory; None if it is not remembered. What is remembered may be out of date."""

FindQueues = Callable[[Collection[Address]], Mapping[Address, Located]]
"""Where the queues are that exist. Asks the management store; at most 500 names."""


class Hub:
    """Knows all waiters of a process. Any thread may use it; its own threads run only while somebody waits."""

    def __init__(
        self,
        *,
        remembered: Remembered,
        find_queues: FindQueues,
        clock: Clock,
        max_waiting: int,
        max_waiting_per_project: int,
        max_streams: int = 0,
        max_streams_per_project: int = 0,
    ) -> None:
        self._remembered = remembered
        self._find_queues = find_queues
        self._clock = clock
        self.registry = Registry(
            max_waiting=max_waiting,
            max_waiting_per_project=max_waiting_per_project,
            max_streams=max_streams,
            max_streams_per_project=max_streams_per_project,
            passed_on=self._tell_others,
        )
        self.shared = SharedReads()
        self._lock = threading.Lock()
        self._poller: threading.Thread | None = None

    def join(self, address: Address, kind: Kind, *, wake: Callable[[], None], is_stream: bool = False) -> Waiter:
        """Wait for a queue, which need not exist. ``wake`` must not block. Raises TooManyWaiting.

        ``is_stream``: whether the waiter counts as a stream and not as a request that waits.
        """
        waiter = self.registry.join(address, self._remembered(address), kind, wake=wake, is_stream=is_stream)
        self._start()
        return waiter

    def posted(self, queue: Queue, place: Place) -> None:
        """Messages were posted to the queue. Costs next to nothing if nobody waits."""
        if self.registry.waiting:
            address = Address(queue.project, queue.kind, queue.name)
            self.registry.note_queue(address, Located(queue.uid, place))

    def freed(self, queue: Queue) -> None:
        """Messages of the queue are free again."""
        if self.registry.waiting:
            self.registry.wake(queue.uid, Wake.FREED)

    def drain(self) -> None:
        """Have every client that waits answered now, and let no other one wait."""
        self.registry.drain()

    def _tell_others(self, uid: str) -> None:
        """Have the takers of other processes look."""

    def _start(self) -> None:
        with self._lock:
            if self._poller is None:
                self._poller = threading.Thread(target=self._poll, name="waiting", daemon=True)
                self._poller.start()

    def _poll(self) -> None:
        while True:
            time.sleep(POLL_SECONDS)
            with self._lock:
                if not self.registry.waiting:
                    self._poller = None
                    return
            try:
                self._look()
            except StoreUnavailable:
                _log.debug("A store that is waited for is away.")

    def _look(self) -> None:
        missing = self.registry.missing()
        if missing:
            for address, located in self._find_queues(missing).items():
                self.registry.note_queue(address, located)
        for place, uids in self.registry.by_place().items():
            positions = place.store.positions(uids=uids, now=self._clock())
            for uid in uids:
                self.registry.note_position(uid, positions.get(uid))
