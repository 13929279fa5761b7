# SPDX-License-Identifier: Apache-2.0
"""The waiting clients of each queue and their order. No I/O; :mod:`zaqar.waiting.hub` calls it when a queue changes.

There are two kinds of waiters. *Takers* want to claim or pop: a message goes to one of them, so they have turns. At
most one taker of a queue has the turn. It makes an attempt, and if the attempt has taken as many messages as it may, so
that more may be free, the next taker gets the turn. So a post costs one attempt, and not one for each taker.
*Readers* all see the same messages, so all of them are woken.
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
    """One waiting client, made by :meth:`Registry.join`. A caller that joins must call :meth:`leave` in the end."""

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
        """Whether the process drains, so that the client has to be answered now."""

    def begin(self) -> int:
        """Begin an attempt. Returns the version of the queue; the attempt sees this version or a later one."""
        return self._registry.begin(self)

    def finish(self, *, is_full: bool, is_served: bool) -> None:
        """End an attempt.

        ``is_full``: whether the attempt has taken as many messages as it may, so that more may be free. ``is_served``:
        whether it has taken any, so that this waiter does not wait any more.
        """
        self._registry.finish(self, is_full=is_full, is_served=is_served)

    def leave(self) -> None:
        """Stop waiting. May be called twice. If this waiter has the turn, the next one gets it."""
        self._registry.leave(self)


class Registry:
    """All waiting clients of a process. Any thread may use it.

    ``wake`` of a waiter is called under the lock of the registry, so it must neither block nor call the registry.
    """

    def __init__(
        self,
        *,
        max_waiting: int,
        max_waiting_per_project: int,
        max_streams: int,
        max_streams_per_project: int,
        passed_on: Callable[[QueueName, str], None],
    ) -> None:
        """``max_streams`` limits READERs, ``max_waiting`` all other waiters.

        ``passed_on`` is called, without a lock, with the name and the uid of a queue if the takers of this process have
        ended their turns after a post or a release of this process, and more messages may be free.
        """
        self._most = {False: (max_waiting, max_waiting_per_project), True: (max_streams, max_streams_per_project)}
        self._passed_on = passed_on
        self.reset()

    def reset(self) -> None:
        """Forget all waiters. Called in a child process, in which the clients of its parent do not wait."""
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
        """Waiters that are READERs."""
        self.woken = 0
        """How often a waiter was woken."""
        self.attempts = 0
        self.empty_attempts = 0
        """Attempts of takers that found nothing."""
        self.is_draining = False

    def join(self, queue_name: QueueName, located: Located | None, kind: Kind, *, wake: Callable[[], None]) -> Waiter:
        """Begin to wait. The first taker of a queue has the turn at once, because no earlier event was noted for it.

        Raises TooManyWaiting.
        """
        is_stream = kind is Kind.READER
        most, most_per_project = self._most[is_stream]
        with self._lock:
            if self._count(is_stream) >= most or (self.is_draining and not is_stream):
                raise TooManyWaiting(of_project=False)
            if self._of_projects[is_stream, queue_name.project] >= most_per_project:
                raise TooManyWaiting(of_project=True)
            queue = self._queues.get(queue_name)
            if queue is None:
                queue = self._add(queue_name)
            if queue.located is None and located is not None:
                self._locate(queue, located)
            waiter = Waiter(self, queue, kind, queue_name.project, wake)
            # A stream that begins while the process drains ends at once, in the same way as the others. Its client then
            # comes back; an error would make a browser give up.
            waiter.is_over = self.is_draining
            self.waiting += 1
            self.streams += is_stream
            self._of_projects[is_stream, queue_name.project] += 1
            if kind is Kind.TAKER:
                queue.takers[waiter] = None
                if queue.turn is None and len(queue.takers) == 1:
                    queue.turn, queue.changed_during_turn, queue.must_tell_others = waiter, False, False
                    waiter.is_ready = True
            else:
                if not queue.readers:
                    # Without readers, changes do not raise the version. So begin a new version: the result of an
                    # earlier read may be stale and must not be shared.
                    queue.version = next(self._versions)
                queue.readers[waiter] = None
                waiter.is_ready = True
            return waiter

    def count_of_project(self, project: str) -> tuple[int, int]:
        """How many clients of the project wait for messages, and how many follow a stream."""
        return self._of_projects[False, project], self._of_projects[True, project]

    def count_by_kind(self) -> dict[Kind, int]:
        """The number of waiters of each kind. It looks at each of them, so it is for monitoring."""
        with self._lock:
            counts = Counter(each.kind for queue in self._queues.values() for each in (*queue.takers, *queue.readers))
        return {kind: counts[kind] for kind in Kind}

    def has_takers(self, queue_name: QueueName) -> bool:
        """Whether a taker waits for this queue, so that a new one has to wait behind it."""
        queue = self._queues.get(queue_name)
        return queue is not None and bool(queue.takers)

    def _count(self, is_stream: bool) -> int:
        return self.streams if is_stream else self.waiting - self.streams

    def _add(self, queue_name: QueueName) -> WaitedQueue:
        queue = self._queues[queue_name] = self._missing[queue_name] = WaitedQueue(queue_name, digest_of(queue_name))
        self._by_digest[queue.digest] = queue
        return queue

    def is_waited_by_digest(self, digest: str) -> bool:
        """Whether a client waits for a queue whose name has this digest."""
        return digest in self._by_digest

    def begin(self, waiter: Waiter) -> int:
        with self._lock:
            if waiter.kind is Kind.TAKER:
                self.attempts += 1
                if waiter.queue.turn is waiter:
                    waiter.queue.changed_during_turn = False
            else:
                waiter.is_ready = False
            return waiter.queue.version

    def finish(self, waiter: Waiter, *, is_full: bool, is_served: bool) -> None:
        with self._lock:
            if waiter.kind is not Kind.TAKER:
                return
            self.empty_attempts += not is_served
            passed_on = self._end_turn(
                waiter, more_may_be_free=is_full or waiter.queue.changed_during_turn, leaves=is_served
            )
        self._pass_on(passed_on)

    def leave(self, waiter: Waiter) -> None:
        with self._lock:
            # If the waiter still has the turn, it was woken and has made no attempt, or its attempt has failed. So
            # messages may be free, and the next taker gets the turn.
            passed_on = self._end_turn(waiter, more_may_be_free=True, leaves=True)
        self._pass_on(passed_on)

    def _end_turn(self, waiter: Waiter, *, more_may_be_free: bool, leaves: bool) -> tuple[QueueName, str] | None:
        """End the turn of this waiter if it has it.

        Returns the name and uid of the queue if more messages may be free and other processes have to be told so. The
        caller does that after it has released the lock.
        """
        queue = waiter.queue
        passed_on = None
        has_turn = queue.turn is waiter
        if leaves:
            self._forget(waiter)
        if has_turn:
            queue.turn, waiter.is_ready = None, False
            if more_may_be_free and queue.takers:
                self._give_turn(queue)
            elif more_may_be_free and queue.must_tell_others:
                passed_on, queue.must_tell_others = (queue.queue_name, queue.uid), False
        if not queue.takers and not queue.readers:
            self._remove(queue)
        return passed_on

    def _pass_on(self, passed_on: tuple[QueueName, str] | None) -> None:
        if passed_on is not None:
            self._passed_on(*passed_on)

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
        if self._queues.get(queue.queue_name) is queue:
            self._locate(queue, None)
            del self._queues[queue.queue_name], self._missing[queue.queue_name]
            if self._by_digest.get(queue.digest) is queue:
                del self._by_digest[queue.digest]

    def _give_turn(self, queue: WaitedQueue) -> None:
        following = next(iter(queue.takers))
        queue.turn, queue.changed_during_turn = following, False
        self._ready(following)

    def _ready(self, waiter: Waiter) -> None:
        waiter.is_ready = True
        self.woken += 1
        _wake_up(waiter)

    # -- events ------------------------------------------------------------------------------------------------------

    def wake(self, uid: str, wake: Wake = Wake.POSTED, *, is_own: bool = False, last: int = 0) -> bool:
        """Wake waiters of a queue that has changed. Returns whether a taker of this process will make an attempt.

        ``last`` is the number of the newest message, 0 if it is not known. ``is_own``: whether this process has made
        the change and has not told the takers of other processes.
        """
        # PERF: no lock if no client waits. A client that joins at this moment makes an attempt after it has joined,
        # and sees the change. A queue that is waited for but not located yet is found by the NamePoller.
        if uid not in self._by_uid:
            return False
        with self._lock:
            queue = self._by_uid.get(uid)
            return queue is not None and self._wake(queue, wake, is_own=is_own, last=last)

    def note_queue(self, queue_name: QueueName, located: Located, *, is_own: bool = False, last: int = 0) -> bool:
        """As :meth:`wake`, for a queue that was posted to or created just now. Notes where the queue is."""
        if queue_name not in self._queues:
            return False
        with self._lock:
            queue = self._queues.get(queue_name)
            if queue is None:
                return False
            if queue.located != located:
                self._locate(queue, located)
            return self._wake(queue, Wake.POSTED, is_own=is_own, last=last)

    def note_other_process(self, digest: str, uid: str, wake: Wake, last: int) -> bool:
        """As :meth:`wake`, for a change of which another process has sent a wake-up.

        Returns whether the queue has to be looked up because this process knows the name with another uid or none.
        """
        with self._lock:
            queue = self._by_digest.get(digest)
            if queue is None:
                return False
            if queue.uid == uid:
                self._wake(queue, wake, last=last)
                return False
            # The queue was deleted and created again, or was created after the clients began to wait.
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
            queue.must_tell_others = is_own
            self._give_turn(queue)
        else:
            # The attempt under way may have looked before this change. When it ends, the next taker gets the turn.
            queue.changed_during_turn = True
            queue.must_tell_others = queue.must_tell_others or is_own
        return True

    def note_positions(self, uids: Iterable[str], positions: dict[str, QueuePosition], now: float) -> None:
        """Wake waiters according to the answer of the store. A queue without a position may have been deleted."""
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
            # The position may also be smaller: the store has lost messages, or a post was noted after the store was
            # asked. Readers then look once more, which does no harm.
            wake |= Wake.READERS
            queue.last = position.last
        if position.free:
            if queue.turn is None:
                # A taker that has the turn at this moment finds these messages.
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
            self._missing[queue.queue_name] = queue
        else:
            self._missing.pop(queue.queue_name, None)
            self._by_uid[located.uid] = queue
            self._by_store.setdefault(located.store_ref, {})[located.uid] = queue

    def use(self, other: Registry) -> None:
        """Take over the limits of ``other``, and forget where the queues are, so that they are looked up again."""
        with self._lock:
            self._most = other._most
            for queue in self._queues.values():
                self._locate(queue, None)

    def drain(self) -> None:
        """Answer every client now, and let no further client wait. A stream that begins later ends at once."""
        with self._lock:
            self.is_draining = True
            for queue in self._queues.values():
                for waiter in (*queue.takers, *queue.readers):
                    waiter.is_over = True
                    _wake_up(waiter)

    # -- queues to ask the stores for --------------------------------------------------------------------------------

    def store_refs(self) -> list[StoreRef]:
        """The stores of the queues that are waited for and known to exist."""
        with self._lock:
            return list(self._by_store)

    def is_waited_at(self, store_ref: StoreRef) -> bool:
        return store_ref in self._by_store

    def store_of(self, uid: str) -> StoreRef | None:
        """The store of the queue with this uid; None if no client waits for it."""
        with self._lock:
            queue = self._by_uid.get(uid)
            return None if queue is None or queue.located is None else queue.located.store_ref

    def uids_of(self, store_ref: StoreRef) -> list[str]:
        """The uids of the queues of this store that are waited for."""
        with self._lock:
            return list(self._by_store.get(store_ref, ()))

    def missing(self) -> list[QueueName]:
        """The names that clients wait for and for which no queue is known."""
        with self._lock:
            return list(self._missing)


def _wake_up(waiter: Waiter) -> None:
    try:
        waiter.wake()
    except Exception:  # noqa: BLE001, the function belongs to a transport
        # For example, the event loop of the waiter is closed. Other waiters must be woken all the same, and a post that
        # is stored must not fail.
        _log.exception("A client that waits cannot be woken.")
