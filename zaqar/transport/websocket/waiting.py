# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for messages. A waiting request holds no thread, only an entry in the registry of the hub."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from zaqar.errors import StoreUnavailable
from zaqar.transport.websocket.action import Pending
from zaqar.transport.websocket.interface import Reply
from zaqar.transport.websocket.loop_time import LoopTime
from zaqar.waiting.hub import Hub
from zaqar.waiting.registry import Kind, Waiter

Attempt = Callable[[int | None], Awaitable[Reply | None]]
"""Tries a request with the version of the queue. None if the connection has ended, so that nothing was taken."""


class RequestWait:
    """Lets the requests of one connection wait, one at a time. For the event loop only."""

    def __init__(self, *, is_over: Callable[[], bool]) -> None:
        """``is_over``: whether the connection ends, so that its request is to be answered now."""
        self._is_over = is_over
        self._changed = asyncio.Event()
        self._left = asyncio.Event()
        self._left.set()

    @property
    def is_waiting(self) -> bool:
        return not self._left.is_set()

    def look(self) -> None:
        """Look again whether there is something to do, because the connection may end."""
        self._changed.set()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Have :meth:`end` wait: a request waits, until its reply is sent."""
        self._left.clear()
        try:
            yield
        finally:
            self._left.set()

    async def end(self) -> None:
        """Return when the request that waits, if there is one, is answered. Call it once ``is_over`` is true."""
        self._changed.set()
        await self._left.wait()

    async def serve(
        self, pending: Pending[Any], attempt: Attempt, *, seconds: float, hub: Hub, loop_time: LoopTime
    ) -> Reply | None:
        """The reply as soon as there are messages, or an error; None if the request is to be answered without them.

        Raises TooManyWaiting.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        awaited = pending.awaited
        wake = partial(loop_time.call_from_thread, awaited.queue_name.project, self._changed.set)
        waiter = hub.join(awaited.queue_name, awaited.kind, wake=wake)
        try:
            return await self._wait(waiter, pending, attempt, deadline)
        finally:
            waiter.leave()

    async def _wait(self, waiter: Waiter, pending: Pending[Any], attempt: Attempt, deadline: float) -> Reply | None:
        while not waiter.is_over and not self._is_over():
            self._changed.clear()
            if waiter.is_ready:
                reply = await attempt(waiter.begin())
                found = pending.last
                if reply is None:
                    return None
                if reply.pending is None and reply.status >= 400:
                    if reply.status == StoreUnavailable.status:
                        # While the store is away the attempts of all takers would fail, so do not pass the turn on.
                        # Pollers wake the takers when the store answers again.
                        waiter.finish(is_full=False, is_served=False)
                    return reply
                assert found is not None
                waiter.finish(is_full=found.is_full, is_served=found.is_served)
                if found.is_served:
                    return reply
                if waiter.is_ready:
                    continue
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return await self._try_last(waiter, pending, attempt)
        return None

    async def _try_last(self, waiter: Waiter, pending: Pending[Any], attempt: Attempt) -> Reply | None:
        """Make one more attempt at the end of the time if an answer without messages could be wrong.

        It could be if the request has made no attempt, or while another taker has the turn because messages are free.
        """
        if pending.last is not None and (waiter.kind is not Kind.TAKER or waiter.queue.turn is None):
            return None
        reply = await attempt(None)
        return None if reply is None or reply.pending is not None else reply


def has_hung_up(file: int) -> bool:
    """Whether the peer of a TCP socket will send no more, also if earlier data was not read. Any thread may ask."""
    if file < 0:
        return True
    poll = select.poll()
    poll.register(file, select.POLLRDHUP)
    return bool(poll.poll(0))
