# SPDX-License-Identifier: Apache-2.0
"""Runs a blocking call of unbounded length, such as a look-up by a name server, for code of an event loop.

Each call has a thread of its own, because calls that hang in a pool of threads would keep the others waiting. It is a
daemon thread, so that it does not keep the process from ending. The callers bound the number of threads. The senders of
notifications and ``zaqar-websocket`` use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run(function: Callable[[], T], *, name: str) -> T:
    """Return what the function returns, or raise what it raises. A cancelled caller leaves the thread alone."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        # The caller may be cancelled by now, or the whole loop closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if outcome.done() else settle())

    def work() -> None:
        try:
            result = function()
        except Exception as exc:  # noqa: BLE001, it is raised where the call is awaited
            error = exc
            tell(lambda: outcome.set_exception(error))
        else:
            tell(lambda: outcome.set_result(result))

    threading.Thread(target=work, name=name, daemon=True).start()
    return await outcome
