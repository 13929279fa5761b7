# SPDX-License-Identifier: Apache-2.0
"""Blocking calls in daemon threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from zaqar import daemon_threads


def test_run_returns_the_result_or_raises_the_error() -> None:
    def fail() -> None:
        raise LookupError("x")

    async def run() -> str:
        with pytest.raises(LookupError, match="x"):
            await daemon_threads.run(fail, name="t")
        return await daemon_threads.run(lambda: threading.current_thread().name, name="t")

    assert asyncio.run(run()) == "t"


def test_hanging_calls_delay_neither_other_calls_nor_the_end_of_the_loop() -> None:
    release = threading.Event()

    async def run() -> None:
        # Far more calls than a thread pool would have threads.
        hanging = [
            asyncio.create_task(daemon_threads.run(lambda: release.wait(60), name="hanging")) for _ in range(100)
        ]
        assert await daemon_threads.run(lambda: 1, name="t") == 1
        for task in hanging:
            task.cancel()
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*hanging, return_exceptions=True)
        )

    # The loop is closed while the calls hang. They end without an error.
    asyncio.run(run())
    left = [thread for thread in threading.enumerate() if thread.name == "hanging"]
    assert len(left) == 100
    assert all(thread.daemon for thread in left)
    release.set()
    for thread in left:
        thread.join()
