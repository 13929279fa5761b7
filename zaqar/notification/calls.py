# SPDX-License-Identifier: Apache-2.0
"""Calls of a store, which block, made from an event loop: by threads of their own for each store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from zaqar.errors import StoreUnavailable

_log = logging.getLogger(__name__)

SLOW_SECONDS = 1.0
"""A store whose call has been under way for this long is not waited for by further callers."""

FIRST_PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 10.0
"""After a failure the store is left alone for the first of these, and for twice as long after each further one."""

T = TypeVar("T")


class Calls:
    """A few threads for the calls of one store, so that one which does not answer holds up no other's."""

    def __init__(self, name: str, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        """Whoever waits for it may be cancelled; the call is then made all the same."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Make no more calls; one that is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class GuardedCalls:
    """Calls of one store that may be made later, behind a circuit breaker.

    A caller holds what others need too, so none waits for a store that is known not to answer: StoreUnavailable is
    raised at once after a call that raised it, until a pause is over and one further call has succeeded; and while a
    call has been under way for SLOW_SECONDS. No caller waits longer than that for a free thread. So of a store that
    has just gone silent, as many callers learn by its time-out as there are threads, and later one for each pause.
    """

    def __init__(self, label: str, threads: int) -> None:
        self._label = label
        self._calls = Calls("aside", threads)
        self._free = asyncio.Semaphore(threads)
        self._under_way: dict[object, float] = {}
        """When each call began that has not ended, in the time of the event loop; the oldest is the first."""
        self._pause = 0.0
        """Since the last failure; 0 while the store answers."""
        self._try_after = float("-inf")

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns or raises. If the caller is cancelled, the call is made all the same."""
        self._check()
        try:
            async with asyncio.timeout(SLOW_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise StoreUnavailable from None
        try:
            # It may have failed meanwhile.
            self._check()
        except StoreUnavailable:
            self._free.release()
            raise
        this = object()
        self._under_way[this] = asyncio.get_running_loop().time()
        making = asyncio.ensure_future(self._calls.run(call))
        # The thread is busy until the call ends, whether or not somebody still waits for it.
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
        """Make no more calls; one that is under way ends by itself."""
        self._calls.close()
