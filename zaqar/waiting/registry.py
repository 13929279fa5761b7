# SPDX-License-Identifier: Apache-2.0
"""Who waits for which queue, in which order. It does no I/O; :mod:`zaqar.waiting.hub` calls it when something happens.

There are two kinds of waiters. *Takers* want to claim or pop: a message goes to one of them, so they have turns. At
most one taker of a queue has the turn. It makes an attempt, and if the attempt has taken as many messages as it may, so
that more may be free, the next taker gets the turn. So a post costs one attempt, and not one for each taker.
*Readers* get what all readers get, so all of them are woken.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, Flag
from itertools import count
from typing import NamedTuple

from zaqar.model import Address, QueuePosition
from zaqar.storage.placement import Place


class Kind(Enum):
    """What a waiter does when it is woken. FREE_READER is a reader that sees no claimed or no delayed messages."""

    TAKER = "taker"
    READER = "reader"
    FREE_READER = "free reader"


class Wake(Flag):
    """Which waiters of a queue an event concerns. FREE_READERS are among the READERS."""

    TAKERS = 1
    FREE_READERS = 2
    READERS = 4
    FREED = TAKERS | FREE_READERS
    """A message is free again: a claim was released or has ended, or a delay has ended."""
    POSTED = TAKERS | FREE_READERS | READERS


class Located(NamedTuple):
    """The uid of a queue that exists, and the place of the store that serves it."""

    uid: str
    place: Place


class TooManyWaiting(Exception):
    """As many clients wait as this process, or the project in it, may have. The client may try again in a moment."""

    def __init__(self, *, of_project: bool) -> None:
        super().__init__()
        self.of_project = of_project


@dataclass(eq=False, slots=True)
class WaitedQueue:
    """A queue for which somebody waits. ``located`` is None if there is no such queue, or if it is not known yet.

    ``version`` grows with each change that readers may see; see :class:`~zaqar.waiting.shared_reads.SharedReads`.
    """

    address: Address
    located: Located | None = None
    takers: dict[Waiter, None] = field(default_factory=dict)
    readers: dict[Waiter, None] = field(default_factory=dict)
    turn: Waiter | None = None
    again: bool = False
    """Whether something happened after the attempt of the turn may have begun."""
    last: int = 0
    version: int = 0


class Bound:
    """How many clients of one sort this process serves, and how many of one project; none of it is thread-safe."""

    def __init__(self, most: int, most_of_project: int) -> None:
        self._most = most
        self._most_of_project = most_of_project
        self._of_projects: Counter[str] = Counter()
        self.total = 0

    def add(self, project: str) -> None:
        """Count one more. Raises TooManyWaiting."""
        if self.total >= self._most:
            raise TooManyWaiting(of_project=False)
        if self._of_projects[project] >= self._most_of_project:
            raise TooManyWaiting(of_project=True)
        self.total += 1
        self._of_projects[project] += 1

    def remove(self, project: str) -> None:
        """Count one less."""
        self.total -= 1
        self._of_projects[project] -= 1
        if not self._of_projects[project]:
            del self._of_projects[project]


class Waiter:
    """One client that waits; made by :meth:`Registry.join`. Whoever joins must call :meth:`leave`."""

    def __init__(self, registry: Registry, queue: WaitedQueue, kind: Kind, bound: Bound, wake: Callable[[], None]):
        self._registry = registry
        self.queue = queue
        self.kind = kind
        self.bound = bound
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
        passed_on: Callable[[str], None],
        max_streams: int = 0,
        max_streams_per_project: int = 0,
    ) -> None:
        """``passed_on`` is called with the uid of a queue if more may be free than the takers of this process took."""
        self._waiting = Bound(max_waiting, max_waiting_per_project)
        self._streams = Bound(max_streams, max_streams_per_project)
        self._passed_on = passed_on
        self._lock = threading.RLock()
        self._queues: dict[Address, WaitedQueue] = {}
        self._by_uid: dict[str, WaitedQueue] = {}
        self._versions = count(1)
        self.waiting = 0
        """Requests that wait, and streams."""
        self.is_draining = False

    def join(
        self,
        address: Address,
        located: Located | None,
        kind: Kind,
        *,
        wake: Callable[[], None],
        is_stream: bool = False,
    ) -> Waiter:
        """Wait from now on. The first taker of a queue has the turn at once, as nothing was noted for it before.

        With ``is_stream`` the waiter counts as a stream and not as a request that waits. Raises TooManyWaiting.
        """
        bound = self._streams if is_stream else self._waiting
        with self._lock:
            if self.is_draining:
                raise TooManyWaiting(of_project=False)
            bound.add(address.project)
            self.waiting += 1
            queue = self._queues.get(address)
            if queue is None:
                queue = self._queues[address] = WaitedQueue(address)
            if queue.located is None and located is not None:
                self._locate(queue, located)
            waiter = Waiter(self, queue, kind, bound, wake)
            if kind is Kind.TAKER:
                queue.takers[waiter] = None
                if queue.turn is None and len(queue.takers) == 1:
                    queue.turn, waiter.is_ready = waiter, True
            else:
                if not queue.readers:
                    # Nothing was noted for readers before, so no earlier read is known to be up to date.
                    queue.version = next(self._versions)
                queue.readers[waiter] = None
                waiter.is_ready = True
            return waiter

    def has_takers(self, address: Address) -> bool:
        """Whether a taker waits for this queue, so that a new one has to wait behind it."""
        queue = self._queues.get(address)
        return queue is not None and bool(queue.takers)

    def begin(self, waiter: Waiter) -> int:
        with self._lock:
            if waiter.kind is Kind.TAKER:
                waiter.queue.again = False
            else:
                waiter.is_ready = False
            return waiter.queue.version

    def finish(self, waiter: Waiter, *, is_full: bool, is_served: bool) -> None:
        with self._lock:
            queue = waiter.queue
            if queue.turn is not waiter:
                return
            if is_served:
                self._remove(waiter)
            if is_full or queue.again:
                self._give_turn(queue)
            else:
                queue.turn, waiter.is_ready = None, False

    def leave(self, waiter: Waiter) -> None:
        with self._lock:
            self._remove(waiter)
            if waiter.queue.turn is waiter:
                # It was woken and has not tried.
                self._give_turn(waiter.queue)

    def _remove(self, waiter: Waiter) -> None:
        queue = waiter.queue
        waiting = queue.takers if waiter.kind is Kind.TAKER else queue.readers
        if waiting.pop(waiter, self) is self:
            return
        self.waiting -= 1
        waiter.bound.remove(queue.address.project)
        if not queue.takers and not queue.readers:
            del self._queues[queue.address]
            self._locate(queue, None)

    def _give_turn(self, queue: WaitedQueue) -> None:
        if queue.turn is not None:
            queue.turn.is_ready = False
        queue.again = False
        queue.turn = following = next(iter(queue.takers), None)
        if following is not None:
            following.is_ready = True
            following.wake()
        elif queue.located is not None:
            self._passed_on(queue.located.uid)

    # -- events ------------------------------------------------------------------------------------------------------

    def wake(self, uid: str, wake: Wake = Wake.POSTED) -> bool:
        """Something has happened to a queue. Returns whether a taker of this process will make an attempt."""
        queue = self._by_uid.get(uid)
        if queue is None:
            return False
        with self._lock:
            return self._wake(queue, wake)

    def note_queue(self, address: Address, located: Located) -> bool:
        """A queue of this name exists, which may have been created just now. Returns the same as :meth:`wake`."""
        queue = self._queues.get(address)
        if queue is None:
            return False
        with self._lock:
            if queue.located != located:
                self._locate(queue, located)
            return self._wake(queue, Wake.POSTED)

    def _wake(self, queue: WaitedQueue, wake: Wake) -> bool:
        if queue.readers and wake & (Wake.READERS | Wake.FREE_READERS):
            queue.version = next(self._versions)
            for reader in queue.readers:
                if not reader.is_ready and (Wake.READERS in wake or reader.kind is Kind.FREE_READER):
                    reader.is_ready = True
                    reader.wake()
        if Wake.TAKERS not in wake or not queue.takers:
            return False
        if queue.turn is None:
            self._give_turn(queue)
        else:
            queue.again = True
        return True

    def note_position(self, uid: str, position: QueuePosition | None) -> None:
        """What the store says about a queue: None if it does not have the queue, which may have been deleted."""
        queue = self._by_uid.get(uid)
        if queue is None:
            return
        with self._lock:
            if position is None:
                self._locate(queue, None)
                self._wake(queue, Wake.READERS)
                return
            if position.last > queue.last:
                queue.last = position.last
                self._wake(queue, Wake.READERS)
            if position.free:
                # Takers that have the turn at this moment find the same.
                self._wake(queue, Wake.FREED if queue.turn is None else Wake.FREE_READERS)

    def _locate(self, queue: WaitedQueue, located: Located | None) -> None:
        if queue.located is not None and self._by_uid.get(queue.located.uid) is queue:
            del self._by_uid[queue.located.uid]
        queue.located, queue.last = located, 0
        if located is not None:
            self._by_uid[located.uid] = queue

    def drain(self) -> None:
        """Have every client answered now, and let no other one wait."""
        with self._lock:
            self.is_draining = True
            for queue in self._queues.values():
                for waiter in (*queue.takers, *queue.readers):
                    waiter.is_over = True
                    waiter.wake()

    # -- what to ask the stores --------------------------------------------------------------------------------------

    def by_place(self) -> dict[Place, list[str]]:
        """The uids of the queues that are waited for and known to exist, by the place of their store."""
        found: dict[Place, list[str]] = {}
        with self._lock:
            for queue in self._queues.values():
                if queue.located is not None:
                    found.setdefault(queue.located.place, []).append(queue.located.uid)
        return found

    def missing(self) -> list[Address]:
        """The names that are waited for and that no queue is known by."""
        with self._lock:
            return [address for address, queue in self._queues.items() if queue.located is None]
