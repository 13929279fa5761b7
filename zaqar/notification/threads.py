# SPDX-License-Identifier: Apache-2.0
"""Calls that block for as long as somebody else likes, such as a name server.

Each has a thread of its own: in a pool those that hang would keep the others waiting. It is a daemon, so that it does
not keep the process from ending. How many there are is bounded by whoever awaits them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def call(function: Callable[[], T], *, errors: tuple[type[Exception], ...], name: str) -> T:
    """What the function returns, or one of ``errors`` that it raises. When cancelled, it is left to itself."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if outcome.done():
            # Whoever asked has given up.
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except errors as exc:
            error = exc
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await outcome
