# SPDX-License-Identifier: Apache-2.0
"""Decides which request gets the next free thread, and how many threads each project, queue and store may use.

Requests block on stores and on Keystone, so each needs a thread. :class:`Admission` hands the threads out. Only the
calls themselves run in threads; everything else here runs on the event loop, so there are no locks.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

from zaqar.errors import TooBusy

THREADS = "request"
"""The beginning of the names of the threads."""

SILENT_SECONDS = 0.5
"""A store counts as silent if calls to it are under way and none has returned for this long."""

MAX_WAIT_SECONDS = 2.0
"""How long a request waits for a thread."""

_WAITING_PER_THREAD = 32
"""Default number of waiting requests for each thread, in all; one project may have half of them."""

T = TypeVar("T")
Answered = Callable[[T], bool | None]


class Slot(NamedTuple):
    """The project, queue and store of a request, whose limits it counts against. ``queue`` is None if it has none.

    Equal values mean the same project, queue or store as another request; they have no other meaning.
    ``measures_store`` is true if the duration of the request shows whether the store is silent. It is false if the
    request also waits for something else, such as a name server that a tenant has chosen.
    """

    project: str
    queue: Hashable | None
    store: Hashable
    measures_store: bool = True


class _Store:
    """The calls to one store that are under way, and whether the store seems to answer."""

    def __init__(self, silent_seconds: float) -> None:
        self._silent_seconds = silent_seconds
        self.began: dict[object, float] = {}
        """The time at which each call began, the oldest first."""
        self.taken = 0
        """Number of threads with calls to this store, including threads that are about to begin a call."""
        self.last_answer = float("-inf")
        self.is_suspect = False

    def seems_silent(self, now: float) -> bool:
        if self.is_suspect or not self.began:
            return self.is_suspect
        return now - max(self.last_answer, next(iter(self.began.values()))) > self._silent_seconds

    def note_end(self, call: object, now: float, *, answered: bool | None) -> None:
        """Note that a call has returned.

        A failure shows that the store is silent only if it came late. A store that refuses at once blocks no threads.
        """
        took = now - self.began.pop(call)
        if answered or took <= self._silent_seconds:
            self.last_answer, self.is_suspect = now, False
        elif answered is not None:
            self.is_suspect = True


_Waiter = asyncio.Future[None]
_Waiters = OrderedDict[_Waiter, Slot]
_Project = OrderedDict[Hashable, _Waiters]


class Admission:
    """Threads for requests, divided so that no project, queue or store can use all of them.

    A project may use a quarter of the threads, a queue an eighth, a store three quarters, and a store that seems silent
    a sixteenth, which is enough to notice that it answers again. A request that finds no free thread within these
    limits waits. A free thread goes to the stores in turn, among the requests to a store to the projects in turn, and
    among the requests of a project to the queues in turn. TooBusy is raised after MAX_WAIT_SECONDS, or at once if too
    many requests wait already or if the store seems silent.
    """

    def __init__(
        self,
        threads: int,
        *,
        max_wait: float = MAX_WAIT_SECONDS,
        most_waiting: int | None = None,
        silent_seconds: float = SILENT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=THREADS)
        self._most = threads
        self._per_project = max(1, threads // 4)
        self._per_queue = max(1, threads // 8)
        self._per_store = max(1, threads * 3 // 4)
        self._per_silent_store = max(1, threads // 16)
        self._most_waiting = most_waiting or threads * _WAITING_PER_THREAD
        self._silent_seconds = silent_seconds
        self._max_wait = max_wait
        self._monotonic = monotonic
        self._projects: Counter[str] = Counter()
        self._queues: Counter[Hashable] = Counter()
        self._stores: dict[Hashable, _Store] = {}
        self._waiting: OrderedDict[Hashable, OrderedDict[str, _Project]] = OrderedDict()
        self._waiting_of: Counter[str] = Counter()
        self._waiters: set[_Waiter] = set()
        self._is_closed = False
        self.under_way = 0
        """Number of threads that are busy, including threads that are about to begin a call."""

    async def run(self, slot: Slot, call: Callable[[], T], *, answered: Answered[T] = lambda _: True) -> T:
        """Make the call in a thread, and return or raise the same as the call.

        ``answered`` takes the result and tells whether the store has answered, None if the result does not show it. If
        the caller is cancelled, a call that has begun goes on and counts until it ends. Raises TooBusy if the call was
        not made.
        """
        await self._enter(slot)
        if self._is_closed:
            self._release(slot)
            raise TooBusy
        this = object()
        if slot.measures_store:
            self._stores[slot.store].began[this] = self._monotonic()
        making = asyncio.get_running_loop().run_in_executor(self._threads, call)
        making.add_done_callback(partial(self._leave, slot, this, answered))
        return await asyncio.shield(making)

    def close(self) -> None:
        """Begin no more calls: they get TooBusy. Calls that are under way go on to their end."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _enter(self, slot: Slot) -> None:
        store = self._stores.setdefault(slot.store, _Store(self._silent_seconds))
        if self._has_room(slot, store):
            # This request overtakes no other: a waiting request within the same limits would already have this thread.
            self._take(slot)
            return
        silent = store.seems_silent(self._monotonic())
        if (
            silent
            or self._waiting_of[slot.project] >= self._most_waiting // 2
            or len(self._waiters) >= self._most_waiting
        ):
            self._forget_idle(slot.store)
            raise TooBusy
        await self._wait(slot)

    async def _wait(self, slot: Slot) -> None:
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(slot.store, OrderedDict()).setdefault(slot.project, OrderedDict())
        waiters.setdefault(slot.queue, OrderedDict())[waiter] = slot
        self._waiting_of[slot.project] += 1
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(self._max_wait):
                await waiter
        except TimeoutError:
            if not waiter.cancelled():
                return  # it got a thread at the last moment
            self._give_up(slot, waiter)
            raise TooBusy from None
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._give_up(slot, waiter)
            else:
                self._release(slot)
            raise

    def _has_room(self, slot: Slot, store: _Store) -> bool:
        return (
            self.under_way < self._most
            and self._projects[slot.project] < self._per_project
            and (slot.queue is None or self._queues[slot.queue] < self._per_queue)
            and self._store_has_room(store)
        )

    def _store_has_room(self, store: _Store) -> bool:
        silent = store.seems_silent(self._monotonic())
        return store.taken < (self._per_silent_store if silent else self._per_store)

    def _take(self, slot: Slot) -> None:
        self.under_way += 1
        self._stores[slot.store].taken += 1
        self._projects[slot.project] += 1
        if slot.queue is not None:
            self._queues[slot.queue] += 1

    def _release(self, slot: Slot) -> None:
        self.under_way -= 1
        self._stores[slot.store].taken -= 1
        _decrease(self._projects, slot.project)
        if slot.queue is not None:
            _decrease(self._queues, slot.queue)
        self._admit_waiting()
        self._forget_idle(slot.store)

    def _leave(self, slot: Slot, this: object, answered: Answered[T], made: asyncio.Future[T]) -> None:
        store = self._stores[slot.store]
        returned = not made.cancelled() and made.exception() is None
        if slot.measures_store:
            store.note_end(this, self._monotonic(), answered=answered(made.result()) if returned else None)
        self._release(slot)

    def _admit_waiting(self) -> None:
        """Give free threads to waiting requests that are within their limits."""
        while self.under_way < self._most and (found := self._next()) is not None:
            slot, waiter = found
            self._remove(slot, waiter)
            if waiter.cancelled():
                # The request was cancelled or timed out in this turn of the event loop, and its task has not run since.
                self._forget_idle(slot.store)
                continue
            self._take(slot)
            waiter.set_result(None)

    def _next(self) -> tuple[Slot, _Waiter] | None:
        """The first waiting request that is within its limits. Its store, project and queue become the last in turn.

        The search is short, because at most three projects or eight queues can be at their limits.
        """
        for store_key, projects in self._waiting.items():
            if not self._store_has_room(self._stores[store_key]):
                continue
            for project, queues in projects.items():
                if self._projects[project] >= self._per_project:
                    continue
                for queue, waiters in queues.items():
                    if queue is not None and self._queues[queue] >= self._per_queue:
                        continue
                    waiter, slot = next(iter(waiters.items()))
                    queues.move_to_end(queue)
                    projects.move_to_end(project)
                    self._waiting.move_to_end(store_key)
                    return slot, waiter
        return None

    def _give_up(self, slot: Slot, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._remove(slot, waiter)
            self._forget_idle(slot.store)

    def _forget_idle(self, key: Hashable) -> None:
        # Remember a silent store, so that only few of the next requests go to it.
        store = self._stores.get(key)
        if store is not None and not store.taken and not store.is_suspect and key not in self._waiting:
            del self._stores[key]

    def _remove(self, slot: Slot, waiter: _Waiter) -> None:
        projects = self._waiting[slot.store]
        queues = projects[slot.project]
        waiters = queues[slot.queue]
        del waiters[waiter]
        if not waiters:
            del queues[slot.queue]
        if not queues:
            del projects[slot.project]
        if not projects:
            del self._waiting[slot.store]
        _decrease(self._waiting_of, slot.project)
        self._waiters.remove(waiter)


def _decrease(counts: Counter[T], key: T) -> None:
    # Clients choose the keys, so keep none without requests.
    if counts[key] <= 1:
        del counts[key]
    else:
        counts[key] -= 1
