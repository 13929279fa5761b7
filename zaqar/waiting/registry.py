# SPDX-License-Identifier: Apache-2.0
"""Who waits for which queue, in which order. It does no I/O; :mod:`zaqar.waiting.hub` calls it when something happens.

There are two kinds of waiters. *Takers* want to claim or pop: a message goes to one of them, so they have turns. At
most one taker of a queue has the turn. It makes an attempt, and if the attempt has taken as many messages as it may, so
that more may be free, the next taker gets the turn. So a post costs one attempt, and not one for each taker.
*Readers* get what all readers get, so all of them are woken.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count

from zaqar.model import QueueName, QueuePosition
from zaqar.storage.pools import StoreRef
from zaqar.waiting.waiters import Kind, Located, TooManyWaiting, WaitedQueue, Wake, digest_of

_log = logging.getLogger(__name__)

__all__ = ["Kind", "Located", "Registry", "TooManyWaiting", "WaitedQueue", "Waiter", "Wake"]


class Waiter:
    """One client that waits; made by :meth:`Registry.join`. A caller that joins must call :meth:`leave`."""

    __slots__ = ("_registry", "is_over", "is_ready", "kind", "project", "queue", "wake")

    def __init__(self, registry: Registry, queue: WaitedQueue, kind: Kind, project: str, wake: Callable[[], None]):
        self._registry = registry
        self.queue = queue
        self.kind = kind
        self.project = project
        self.wake = wake
        self.is_ready = False
        """Whether an attempt is due: a taker has the turn, or a reader was woken."""
        self.is_over = False
        """Whether the process drains, so that the client is to be answered now."""

    def begin(self) -> int:
        """Begin an attempt. Returns the version of the queue, which the attempt sees or a later one."""
        return self._registry.begin(self)

    def finish(self, *, is_full: bool, is_served: bool) -> None:
        """End an attempt.

        ``is_full``: whether it has taken as many messages as it may, so that more may be free. ``is_served``: whether
        it has taken any, so that this waiter waits no more.
        """
        self._registry.finish(self, is_full=is_full, is_served=is_served)

    def leave(self) -> None:
        """Wait no more. May be called twice. If this waiter has the turn, the next one gets it."""
        self._registry.leave(self)


class Registry:
    """Any thread may use it. ``wake`` of a waiter is called under a lock and must neither block nor call back."""

    def __init__(
        self,
        *,
        max_waiting: int,
        max_waiting_per_project: int,
        max_streams: int,
        max_streams_per_project: int,
        passed_on: Callable[[QueueName, str], None],
    ) -> None:
        """READERs are limited as streams, other waiters as waiting clients.

        ``passed_on`` is called, without a lock, with the address and the uid of a queue if more may be free than the
        takers of this process took after a post or a release of this process.
        """
        self._most = {False: (max_waiting, max_waiting_per_project), True: (max_streams, max_streams_per_project)}
        self._passed_on = passed_on
        self.reset()

    def reset(self) -> None:
        """Forget everything: in a child process nobody waits who waited in its parent."""
        self._lock = threading.Lock()
        self._queues: dict[QueueName, WaitedQueue] = {}
        self._by_uid: dict[str, WaitedQueue] = {}
        self._by_digest: dict[str, WaitedQueue] = {}
        self._by_store: dict[StoreRef, dict[str, WaitedQueue]] = {}
        self._missing: dict[QueueName, WaitedQueue] = {}
        self._of_projects: Counter[tuple[bool, str]] = Counter()
        self._versions = count(1)
        self.waiting = 0
        """Waiters of any kind. This and the counters below are for metrics, and may be read without a lock."""
        self.streams = 0
        """How many of them are READERs."""
        self.woken = 0
        """Times that a waiter was woken."""
        self.attempts = 0
        self.empty_attempts = 0
        """Attempts of takers that found nothing."""
        self.is_draining = False

    def join(self, address: QueueName, located: Located | None, kind: Kind, *, wake: Callable[[], None]) -> Waiter:
        """Wait from now on. The first taker of a queue has the turn at once, as nothing was noted for it before.

        Raises TooManyWaiting.
        """
        is_stream = kind is Kind.READER
        most, most_per_project = self._most[is_stream]
        with self._lock:
            if self._count(is_stream) >= most or self.is_draining:
                raise TooManyWaiting(of_project=False)
            if self._of_projects[is_stream, address.project] >= most_per_project:
                raise TooManyWaiting(of_project=True)
            queue = self._queues.get(address)
            if queue is None:
                queue = self._add(address)
            if queue.located is None and located is not None:
                self._locate(queue, located)
            waiter = Waiter(self, queue, kind, address.project, wake)
            self.waiting += 1
            self.streams += is_stream
            self._of_projects[is_stream, address.project] += 1
            if kind is Kind.TAKER:
                queue.takers[waiter] = None
                if queue.turn is None and len(queue.takers) == 1:
                    queue.turn, queue.again, queue.tells = waiter, False, False
                    waiter.is_ready = True
            else:
                if not queue.readers:
                    # Nothing was noted for readers before, so no earlier read is known to be up to date.
                    queue.version = next(self._versions)
                queue.readers[waiter] = None
                waiter.is_ready = True
            return waiter

    def has_takers(self, address: QueueName) -> bool:
        """Whether a taker waits for this queue, so that a new one has to wait behind it."""
        queue = self._queues.get(address)
        return queue is not None and bool(queue.takers)

    def _count(self, is_stream: bool) -> int:
        return self.streams if is_stream else self.waiting - self.streams

    def _add(self, address: QueueName) -> WaitedQueue:
        queue = self._queues[address] = self._missing[address] = WaitedQueue(address, digest_of(address))
        self._by_digest[queue.digest] = queue
        return queue

    def is_waited_by_digest(self, digest: str) -> bool:
        """Whether anybody waits for a queue whose name has this digest."""
        return digest in self._by_digest

    def begin(self, waiter: Waiter) -> int:
        with self._lock:
            if waiter.kind is Kind.TAKER:
                self.attempts += 1
                if waiter.queue.turn is waiter:
                    waiter.queue.again = False
            else:
                waiter.is_ready = False
            return waiter.queue.version

    def finish(self, waiter: Waiter, *, is_full: bool, is_served: bool) -> None:
        with self._lock:
            if waiter.kind is not Kind.TAKER:
                return
            self.empty_attempts += not is_served
            told = self._end_turn(waiter, goes_on=is_full or waiter.queue.again, leaves=is_served)
        self._tell(told)

    def leave(self, waiter: Waiter) -> None:
        with self._lock:
            # If it has the turn, it was woken and has not tried, or its attempt has failed.
            told = self._end_turn(waiter, goes_on=True, leaves=True)
        self._tell(told)

    def _end_turn(self, waiter: Waiter, *, goes_on: bool, leaves: bool) -> tuple[QueueName, str] | None:
        """End the turn of this waiter if it has it. Returns the queue if others are to be told that more may be free.

        ``goes_on``: whether more may be free.
        """
        queue = waiter.queue
        told = None
        has_turn = queue.turn is waiter
        if leaves:
            self._forget(waiter)
        if has_turn:
            queue.turn, waiter.is_ready = None, False
            if goes_on and queue.takers:
                self._give_turn(queue)
            elif goes_on and queue.tells:
                told, queue.tells = (queue.address, queue.uid), False
        if not queue.takers and not queue.readers:
            self._remove(queue)
        return told

    def _tell(self, told: tuple[QueueName, str] | None) -> None:
        if told is not None:
            self._passed_on(*told)

    def _forget(self, waiter: Waiter) -> None:
        queue = waiter.queue
        waiting = queue.takers if waiter.kind is Kind.TAKER else queue.readers
        if waiting.pop(waiter, self) is self:
            return
        is_stream = waiter.kind is Kind.READER
        self.waiting -= 1
        self.streams -= is_stream
        counted = is_stream, waiter.project
        self._of_projects[counted] -= 1
        if not self._of_projects[counted]:
            del self._of_projects[counted]

    def _remove(self, queue: WaitedQueue) -> None:
        if self._queues.get(queue.address) is queue:
            self._locate(queue, None)
            del self._queues[queue.address], self._missing[queue.address]
            if self._by_digest.get(queue.digest) is queue:
                del self._by_digest[queue.digest]

    def _give_turn(self, queue: WaitedQueue) -> None:
        following = next(iter(queue.takers))
        queue.turn, queue.again = following, False
        self._ready(following)

    def _ready(self, waiter: Waiter) -> None:
        waiter.is_ready = True
        self.woken += 1
        _wake_up(waiter)

    # -- events ------------------------------------------------------------------------------------------------------

    def wake(self, uid: str, wake: Wake = Wake.POSTED, *, is_own: bool = False, last: int = 0) -> bool:
        """Something has happened to a queue. Returns whether a taker of this process will make an attempt.

        ``last`` is the number of the newest message, if it is known. ``is_own``: whether this process did it, and has
        not told the takers of others.
        """
        if uid not in self._by_uid:
            return False
        with self._lock:
            queue = self._by_uid.get(uid)
            return queue is not None and self._wake(queue, wake, is_own=is_own, last=last)

    def note_queue(self, address: QueueName, located: Located, *, is_own: bool = False, last: int = 0) -> bool:
        """A queue of this name exists and was posted to, or was created just now. The rest is as in :meth:`wake`."""
        if address not in self._queues:
            return False
        with self._lock:
            queue = self._queues.get(address)
            if queue is None:
                return False
            if queue.located != located:
                self._locate(queue, located)
            return self._wake(queue, Wake.POSTED, is_own=is_own, last=last)

    def note_foreign(self, digest: str, uid: str, wake: Wake, last: int) -> bool:
        """Another process has told that something happened to the queue of this name and uid.

        Returns whether the queue has to be looked up, because it is not known here by this uid.
        """
        with self._lock:
            queue = self._by_digest.get(digest)
            if queue is None:
                return False
            if queue.uid == uid:
                self._wake(queue, wake, last=last)
                return False
            self._locate(queue, None)
            self._wake(queue, wake)
            return True

    def _wake(self, queue: WaitedQueue, wake: Wake, *, is_own: bool = False, last: int = 0) -> bool:
        queue.last = max(queue.last, last)
        if queue.readers and wake & Wake.SHOWN:
            queue.version = next(self._versions)
            for reader in queue.readers:
                if not reader.is_ready and (Wake.READERS in wake or reader.kind is Kind.FREE_READER):
                    self._ready(reader)
        if Wake.TAKERS not in wake or not queue.takers:
            return False
        if queue.turn is None:
            queue.tells = is_own
            self._give_turn(queue)
        else:
            queue.again = True
            queue.tells = queue.tells or is_own
        return True

    def note_positions(self, uids: Iterable[str], positions: dict[str, QueuePosition], now: float) -> None:
        """What the store has said about queues. One that is not in ``positions`` may have been deleted."""
        with self._lock:
            for uid in uids:
                queue = self._by_uid.get(uid)
                if queue is not None:
                    self._note_position(queue, positions.get(uid), now)

    def _note_position(self, queue: WaitedQueue, position: QueuePosition | None, now: float) -> None:
        if position is None:
            self._locate(queue, None)
            self._wake(queue, Wake.READERS)
            return
        wake = Wake(0)
        if position.last != queue.last:
            # Smaller if the store has lost messages, or if a post was noted after the store was asked.
            wake |= Wake.READERS
            queue.last = position.last
        if position.free:
            if queue.turn is None:
                # Takers that have the turn at this moment find the same.
                wake |= Wake.TAKERS
            if queue.is_news(position, now):
                wake |= Wake.FREE_READERS
        if wake:
            self._wake(queue, wake, last=position.last)

    def _locate(self, queue: WaitedQueue, located: Located | None) -> None:
        if queue.located is not None:
            uid, store_ref = queue.located
            if self._by_uid.get(uid) is queue:
                del self._by_uid[uid]
            of_store = self._by_store[store_ref]
            of_store.pop(uid, None)
            if not of_store:
                del self._by_store[store_ref]
        queue.located, queue.last, queue.position = located, 0, None
        if located is None:
            self._missing[queue.address] = queue
        else:
            self._missing.pop(queue.address, None)
            self._by_uid[located.uid] = queue
            self._by_store.setdefault(located.store_ref, {})[located.uid] = queue

    def use(self, other: Registry) -> None:
        """Take over the limits of ``other``, and forget where the queues are, so that they are looked up again."""
        with self._lock:
            self._most = other._most
            for queue in self._queues.values():
                self._locate(queue, None)

    def drain(self) -> None:
        """Have every client answered now, and let no other one wait."""
        with self._lock:
            self.is_draining = True
            for queue in self._queues.values():
                for waiter in (*queue.takers, *queue.readers):
                    waiter.is_over = True
                    _wake_up(waiter)

    # -- what to ask the stores --------------------------------------------------------------------------------------

    def store_refs(self) -> list[StoreRef]:
        """The stores of the queues that are waited for and known to exist."""
        with self._lock:
            return list(self._by_store)

    def is_waited_at(self, store_ref: StoreRef) -> bool:
        return store_ref in self._by_store

    def store_of(self, uid: str) -> StoreRef | None:
        """Where the queue of this uid is, if it is waited for."""
        with self._lock:
            queue = self._by_uid.get(uid)
            return None if queue is None or queue.located is None else queue.located.store_ref

    def uids_of(self, store_ref: StoreRef) -> list[str]:
        """The uids of the queues of this store that are waited for."""
        with self._lock:
            return list(self._by_store.get(store_ref, ()))

    def missing(self) -> list[QueueName]:
        """The names that are waited for and that no queue is known by."""
        with self._lock:
            return list(self._missing)


def _wake_up(waiter: Waiter) -> None:
    try:
        waiter.wake()
    except Exception:  # noqa: BLE001, it is another one's code
        # Such as one whose event loop is closed. It must neither keep others asleep nor fail a post that is stored.
        _log.exception("A client that waits cannot be woken.")
