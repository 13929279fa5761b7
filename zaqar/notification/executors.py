# SPDX-License-Identifier: Apache-2.0
"""Threads for the blocking calls of stores, so that the event loop of the notifier never waits for a store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from zaqar.errors import StoreUnavailable
from zaqar.storage.pools import StoreRef

_log = logging.getLogger(__name__)

SLOW_SECONDS = 1.0
"""If a call of a store has been under way for this long, further callers do not wait for the store."""

FIRST_PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 10.0
"""How long no call is made after a failure: at first, doubled with each further failure, and at most."""

_GUARDED_THREADS = 2
"""Maximum number of guarded calls of one store at a time: posts of dead letters, and ends of subscriptions."""

T = TypeVar("T")


def label_of(store_ref: StoreRef) -> str:
    """The name of a store in the log."""
    return "The message store" if store_ref.name is None else f"The store of pool '{store_ref.name}'"


class StoreExecutor:
    """Runs the calls of one store in a few threads, so that a store that does not answer delays no other store."""

    def __init__(self, name: str, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        """Return what the call returns, or raise what it raises. If the caller is cancelled, the call goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Begin no more calls. A call that is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class GuardedExecutor:
    """Runs calls of one store that can be made later instead, behind a circuit breaker.

    A caller holds slots that other deliveries need, so it must not wait for a store that is known not to answer.
    ``run`` raises StoreUnavailable at once in two cases: after a call that raised it, until a pause is over and one
    further call has succeeded; and while a call has been under way for SLOW_SECONDS. No caller waits longer than
    SLOW_SECONDS for a free thread. So if a store goes silent, one caller for each thread finds out by its time-out,
    and later one caller after each pause.
    """

    def __init__(self, label: str, threads: int) -> None:
        self._label = label
        self._executor = StoreExecutor("guarded", threads)
        self._free = asyncio.Semaphore(threads)
        self._under_way: dict[object, float] = {}
        """When each call that has not ended began, in the event loop's time. The oldest call is the first."""
        self._pause = 0.0
        """The present pause in seconds; 0 while the store answers."""
        self._try_after = float("-inf")

    async def run(self, call: Callable[[], T]) -> T:
        """Return what the call returns, or raise what it raises. If the caller is cancelled, the call goes on."""
        self._check()
        try:
            async with asyncio.timeout(SLOW_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise StoreUnavailable from None
        try:
            # The store may have failed while this caller waited for a thread.
            self._check()
        except StoreUnavailable:
            self._free.release()
            raise
        this = object()
        self._under_way[this] = asyncio.get_running_loop().time()
        making = asyncio.ensure_future(self._executor.run(call))
        # The thread is busy until the call ends, whether or not the caller still waits for it.
        making.add_done_callback(lambda made: self._note_end(this, made))
        return await asyncio.shield(making)

    def _check(self) -> None:
        now = asyncio.get_running_loop().time()
        oldest = next(iter(self._under_way.values()), now)
        probing = self._pause and self._under_way
        if now < self._try_after or probing or now - oldest >= SLOW_SECONDS:
            raise StoreUnavailable

    def _note_end(self, this: object, made: asyncio.Future[T]) -> None:
        del self._under_way[this]
        self._free.release()
        if made.cancelled():
            return
        if isinstance(made.exception(), StoreUnavailable):
            if not self._pause:
                _log.warning("%s is away; dead letters for it and ends of subscriptions wait.", self._label)
            self._pause = min(max(FIRST_PAUSE_SECONDS, 2 * self._pause), MOST_PAUSE_SECONDS)
            self._try_after = asyncio.get_running_loop().time() + self._pause
        elif self._pause:
            self._pause, self._try_after = 0.0, float("-inf")
            _log.warning("%s is back.", self._label)

    def close(self) -> None:
        """Begin no more calls. A call that is under way ends by itself."""
        self._executor.close()


class GuardedExecutors:
    """One ``GuardedExecutor`` for each store, so that a call waits for the store that it concerns and for no other."""

    def __init__(self) -> None:
        self._executors: dict[StoreRef | None, GuardedExecutor] = {}

    def of(self, store_ref: StoreRef | None) -> GuardedExecutor:
        """The executor of a store. None stands for all stores of queues that do not exist yet."""
        executor = self._executors.get(store_ref)
        if executor is None:
            label = "A store for a new dead letter queue" if store_ref is None else label_of(store_ref)
            executor = self._executors[store_ref] = GuardedExecutor(label, _GUARDED_THREADS)
        return executor

    def forget(self, store_ref: StoreRef) -> None:
        """Close the executor of a store that was removed."""
        if store_ref in self._executors:
            self._executors.pop(store_ref).close()

    def close(self) -> None:
        for executor in self._executors.values():
            executor.close()
