# SPDX-License-Identifier: Apache-2.0
"""An event loop in a thread of its own, for servers and clients of tests that are asyncio code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

SECONDS = 60.0
"""How long a call, and the end of the started coroutines, may take."""

T = TypeVar("T")


class EventLoopThread:
    """Runs an event loop in a thread during a context. Its end cancels the running tasks and waits for them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._begun: list[asyncio.Task[None]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS)

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine beside the caller. If it fails, its error is raised at the end of the context."""
        begun = self.call(self._create_task(coroutine))
        self._begun.append(begun)
        return begun

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = [each for each in self._begun if each.done()]
        self.call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if error is None:
            for each in ended:
                each.result()

    async def _create_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(coroutine)

    async def _end(self) -> None:
        # Cancel first the coroutines that were begun: they end their own tasks. A task that is cancelled twice does
        # not close its connection.
        await _cancel(self._begun)
        await _cancel([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
