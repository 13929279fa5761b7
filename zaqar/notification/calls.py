# SPDX-License-Identifier: Apache-2.0
"""Calls of a store, which block, made from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
