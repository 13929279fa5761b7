# SPDX-License-Identifier: Apache-2.0
"""Long work is done in turns, project by project."""

from __future__ import annotations

import asyncio
import time

import pytest

from zaqar.transport.websocket import loop_time
from zaqar.transport.websocket.loop_time import LoopTime


def work(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_little_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_time, "TURN_SECONDS", 60.0)

    async def script() -> None:
        shared = LoopTime()
        for _ in range(10):
            assert shared.is_left()
            await shared.wait("p")

    asyncio.run(script())


def test_a_greedy_project_does_not_delay_a_modest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_time, "TURN_SECONDS", 0.001)

    async def script() -> None:
        shared, done = LoopTime(), []

        def piece(name: str) -> None:
            work(0.002)
            done.append(name)

        for _ in range(50):
            shared.call("greedy", lambda: piece("greedy"))
        shared.call("modest", lambda: piece("modest"))
        # Other tasks run in between.
        ticks = 0
        while len(done) < 51:
            await asyncio.sleep(0)
            ticks += 1
        assert done.index("modest") == 1
        assert ticks >= 40
        await asyncio.sleep(0.01)
        assert shared.is_left()

    asyncio.run(script())


def test_tasks_wait_for_their_turn_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_time, "TURN_SECONDS", 0.05)

    async def script() -> None:
        shared, done = LoopTime(), []

        async def request(name: str) -> None:
            await shared.wait(name)
            done.append(name)
            work(0.002)

        await asyncio.gather(*(request(name) for name in ["greedy"] * 100 + ["modest"]))
        assert done.index("modest") < 80

        cancelled = [asyncio.create_task(request("cancelled")) for _ in range(5)]
        await asyncio.sleep(0)
        for task in cancelled[1:]:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        await request("last")
        assert done[-1] == "last"

    asyncio.run(script())


def test_nothing_runs_while_there_is_nothing_to_do() -> None:
    """The loop sleeps. Otherwise it would use a whole CPU."""

    async def script() -> None:
        shared = LoopTime()
        assert shared.is_left()
        await asyncio.sleep(0.01)
        began = time.process_time()
        await asyncio.sleep(0.2)
        assert time.process_time() - began < 0.1

    asyncio.run(script())
