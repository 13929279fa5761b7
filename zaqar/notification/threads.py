# SPDX-License-Identifier: Apache-2.0
"""Calls that block for as long as somebody else likes, such as a name server.

Each has a thread of its own: in a pool those that hang would keep the others waiting. It is a daemon, so that it does
not keep the process from ending. How many there are is bounded by whoever awaits them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def call(function: Callable[[], T], *, name: str) -> T:
    """What the function returns or raises. Whoever is cancelled here leaves it to itself."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        # Whoever asked may have given up, and so may the whole loop: then it is closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if outcome.done() else settle())

    def run() -> None:
        try:
            result = function()
        except Exception as exc:  # noqa: BLE001, it is raised where the call is awaited
            error = exc
            tell(lambda: outcome.set_exception(error))
        else:
            tell(lambda: outcome.set_result(result))

    threading.Thread(target=run, name=name, daemon=True).start()
    return await outcome
