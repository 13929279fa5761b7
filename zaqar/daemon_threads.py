# SPDX-License-Identifier: Apache-2.0
"""Runs a blocking call of unbounded length, such as a DNS look-up, for code in an event loop.

Each call has its own thread, because calls that hang in a thread pool would keep the other calls waiting. It is a
daemon thread, so it does not keep the process from ending. The callers bound the number of threads. The senders of
notifications and ``zaqar-websocket`` use this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run(function: Callable[[], T], *, name: str) -> T:
    """Return the result of the function, or raise its exception. If the caller is cancelled, the thread runs on."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def report(set_outcome: Callable[[], None]) -> None:
        # By now the caller may be cancelled, or the whole loop may be closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if outcome.done() else set_outcome())

    def work() -> None:
        try:
            result = function()
        except Exception as exc:  # noqa: BLE001, the caller of run() gets it
            error = exc
            report(lambda: outcome.set_exception(error))
        else:
            report(lambda: outcome.set_result(result))

    threading.Thread(target=work, name=name, daemon=True).start()
    return await outcome
