# SPDX-License-Identifier: Apache-2.0
"""Which request is carried out next, and how many of each project, queue and store at a time.

Requests block on stores and on Keystone, so each takes a thread. :class:`Admission` hands the threads out. Everything
here runs on the event loop but the calls themselves, so there are no locks.
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
"""What the names of the threads begin with."""

SILENT_SECONDS = 0.5
"""A store is suspected not to answer if no call of it has returned for so long while some are under way."""

PATIENCE_SECONDS = 2.0
"""How long a request waits for a thread."""

_WAITING_PER_THREAD = 32
"""Requests may wait in all, for each thread, unless it is said otherwise; of one project half as many."""

T = TypeVar("T")
Answered = Callable[[T], bool | None]


class Seat(NamedTuple):
    """What a request takes room of. ``queue`` is None if it is about none, ``store`` is whatever is going to be asked.

    All three only say what is the same as for another request.
    """

    project: str
    queue: Hashable | None
    store: Hashable


class _Store:
    """The calls of one store that are under way, and whether it may be trusted to answer more."""

    def __init__(self, silent_seconds: float) -> None:
        self._silent_seconds = silent_seconds
        self.began: dict[object, float] = {}
        """When each call began; the oldest is the first."""
        self.taken = 0
        """Threads that it has: calls that are under way or about to be."""
        self.last_sign = float("-inf")
        self.is_suspect = False

    def seems_silent(self, now: float) -> bool:
        if self.is_suspect or not self.began:
            return self.is_suspect
        return now - max(self.last_sign, next(iter(self.began.values()))) > self._silent_seconds

    def note_end(self, call: object, now: float, *, answered: bool | None) -> None:
        """A call that failed late is how a silent store shows; one that failed at once cost nothing."""
        took = now - self.began.pop(call)
        if answered or took <= self._silent_seconds:
            self.last_sign, self.is_suspect = now, False
        elif answered is not None:
            self.is_suspect = True


_Waiter = asyncio.Future[None]
_Lane = OrderedDict[_Waiter, Seat]
_Project = OrderedDict[Hashable, _Lane]


class Admission:
    """Threads for requests, shared out so that none of a project, a queue or a store can have them all.

    A project has at most a quarter of the threads, a queue an eighth, a store three quarters, and a store that seems
    silent a sixteenth, which are enough to notice that it is back. A request that finds no room waits; the free thread
    goes to stores in turn, among the requests of a store to projects in turn, and among those of a project to queues in
    turn. A request that has waited for PATIENCE_SECONDS, or that would be one too many to wait, gets TooBusy; so does
    at once a request to a store that seems silent.
    """

    def __init__(
        self,
        threads: int,
        *,
        patience: float = PATIENCE_SECONDS,
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
        self._patience = patience
        self._monotonic = monotonic
        self._projects: Counter[str] = Counter()
        self._queues: Counter[Hashable] = Counter()
        self._stores: dict[Hashable, _Store] = {}
        self._waiting: OrderedDict[Hashable, OrderedDict[str, _Project]] = OrderedDict()
        self._waiting_of: Counter[str] = Counter()
        self._count = 0
        """How many wait."""
        self._is_closed = False
        self.under_way = 0
        """Threads that are busy or about to be."""

    async def run(self, seat: Seat, call: Callable[[], T], *, answered: Answered[T] = lambda _: True) -> T:
        """What the call returns or raises, made in a thread.

        ``answered`` says of a result whether the store has answered; None if it does not tell. If the caller is
        cancelled, a call that has begun is made all the same and keeps its room until it ends. Raises TooBusy if the
        call was not made.
        """
        await self._enter(seat)
        if self._is_closed:
            self._release(seat)
            raise TooBusy
        this = object()
        self._stores[seat.store].began[this] = self._monotonic()
        making = asyncio.get_running_loop().run_in_executor(self._threads, call)
        making.add_done_callback(partial(self._leave, seat, this, answered))
        return await asyncio.shield(making)

    def close(self) -> None:
        """Begin no more calls, which get TooBusy; those under way end by themselves."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _enter(self, seat: Seat) -> None:
        store = self._stores.setdefault(seat.store, _Store(self._silent_seconds))
        if self._has_room(seat, store):
            # Nobody waits for the same room: whoever did would have got it when it became free.
            self._take(seat)
            return
        silent = store.seems_silent(self._monotonic())
        if silent or self._waiting_of[seat.project] >= self._most_waiting // 2 or self._count >= self._most_waiting:
            self._forget_idle(seat.store)
            raise TooBusy
        await self._wait(seat)

    async def _wait(self, seat: Seat) -> None:
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        lane = self._waiting.setdefault(seat.store, OrderedDict()).setdefault(seat.project, OrderedDict())
        lane.setdefault(seat.queue, OrderedDict())[waiter] = seat
        self._waiting_of[seat.project] += 1
        self._count += 1
        try:
            async with asyncio.timeout(self._patience):
                await waiter
        except TimeoutError:
            if not waiter.cancelled():
                return  # it was admitted at the last moment
            self._give_up(seat, waiter)
            raise TooBusy from None
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._give_up(seat, waiter)
            else:
                self._release(seat)
            raise

    def _has_room(self, seat: Seat, store: _Store) -> bool:
        return (
            self.under_way < self._most
            and self._projects[seat.project] < self._per_project
            and (seat.queue is None or self._queues[seat.queue] < self._per_queue)
            and self._store_has_room(store)
        )

    def _store_has_room(self, store: _Store) -> bool:
        silent = store.seems_silent(self._monotonic())
        return store.taken < (self._per_silent_store if silent else self._per_store)

    def _take(self, seat: Seat) -> None:
        self.under_way += 1
        self._stores[seat.store].taken += 1
        self._projects[seat.project] += 1
        if seat.queue is not None:
            self._queues[seat.queue] += 1

    def _release(self, seat: Seat) -> None:
        self.under_way -= 1
        self._stores[seat.store].taken -= 1
        _decrease(self._projects, seat.project)
        if seat.queue is not None:
            _decrease(self._queues, seat.queue)
        self._admit_waiting()
        self._forget_idle(seat.store)

    def _leave(self, seat: Seat, this: object, answered: Answered[T], made: asyncio.Future[T]) -> None:
        store = self._stores[seat.store]
        returned = not made.cancelled() and made.exception() is None
        store.note_end(this, self._monotonic(), answered=answered(made.result()) if returned else None)
        self._release(seat)

    def _admit_waiting(self) -> None:
        """Give what has become free to those who wait, as long as somebody finds room."""
        while self.under_way < self._most and (found := self._next()) is not None:
            seat, waiter = found
            self._remove(seat, waiter)
            self._take(seat)
            waiter.set_result(None)

    def _next(self) -> tuple[Seat, _Waiter] | None:
        """The first in turn for whom there is room; its store, project and queue are the last in turn from now on.

        It looks past few that find none: at most three projects or eight queues can have all they may have.
        """
        for store_key, projects in self._waiting.items():
            if not self._store_has_room(self._stores[store_key]):
                continue
            for project, queues in projects.items():
                if self._projects[project] >= self._per_project:
                    continue
                for queue, lane in queues.items():
                    if queue is not None and self._queues[queue] >= self._per_queue:
                        continue
                    waiter, seat = next(iter(lane.items()))
                    queues.move_to_end(queue)
                    projects.move_to_end(project)
                    self._waiting.move_to_end(store_key)
                    return seat, waiter
        return None

    def _give_up(self, seat: Seat, waiter: _Waiter) -> None:
        self._remove(seat, waiter)
        self._forget_idle(seat.store)

    def _forget_idle(self, key: Hashable) -> None:
        # A store that is suspect is remembered, so that the next requests to it are few.
        store = self._stores[key]
        if not store.taken and not store.is_suspect and key not in self._waiting:
            del self._stores[key]

    def _remove(self, seat: Seat, waiter: _Waiter) -> None:
        projects = self._waiting[seat.store]
        queues = projects[seat.project]
        lane = queues[seat.queue]
        del lane[waiter]
        if not lane:
            del queues[seat.queue]
        if not queues:
            del projects[seat.project]
        if not projects:
            del self._waiting[seat.store]
        _decrease(self._waiting_of, seat.project)
        self._count -= 1


def _decrease(counts: Counter[T], key: T) -> None:
    # Names of projects and queues come and go; those without requests are not kept.
    if counts[key] <= 1:
        del counts[key]
    else:
        counts[key] -= 1
