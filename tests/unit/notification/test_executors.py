# SPDX-License-Identifier: Apache-2.0
"""StoreExecutor of stores that hang, fail and come back."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from zaqar.errors import InvalidInput, StoreUnavailable
from zaqar.notification import executors as module
from zaqar.notification.executors import GuardedExecutor


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Set at the end, so that no thread stays behind."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(module, "MOST_PAUSE_SECONDS", 0.4)


def fail() -> None:
    raise StoreUnavailable


async def seconds_of(calls: GuardedExecutor, call: Callable[[], object]) -> float:
    """How long a caller waits to be told that the store is away."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(StoreUnavailable):
        await calls.run(call)
    return loop.time() - began


def test_the_result_or_the_error_comes_back() -> None:
    def refuse() -> None:
        raise InvalidInput("x", "is wrong")

    async def play() -> None:
        calls = GuardedExecutor("The store", 2)
        for _ in range(3):
            with pytest.raises(InvalidInput):
                await calls.run(refuse)
        assert await asyncio.gather(*(calls.run(lambda n=n: n) for n in range(50))) == list(range(50))
        calls.close()

    asyncio.run(play())


def test_few_callers_wait_for_a_store_that_hangs(release: threading.Event) -> None:
    """As many as there are threads, and others for a moment; a caller that is cancelled leaves its thread busy."""

    async def play() -> None:
        silent, other = GuardedExecutor("Silent", 2), GuardedExecutor("Other", 2)
        hanging = [asyncio.create_task(silent.run(lambda: release.wait(30))) for _ in range(2)]
        await asyncio.sleep(0)
        waited = await asyncio.gather(*(seconds_of(silent, lambda: None) for _ in range(20)))
        assert max(waited) < 2
        hanging[0].cancel()
        waited = [await seconds_of(silent, lambda: None) for _ in range(20)]
        assert sum(waited) < 20 * module.SLOW_SECONDS / 2, "they are not waited for any more"
        assert await other.run(lambda: 1) == 1
        release.set()
        assert await hanging[1] is True
        while silent._under_way:
            await asyncio.sleep(0.01)
        assert await silent.run(lambda: 1) == 1
        assert await asyncio.gather(*(silent.run(lambda n=n: n) for n in range(9))) == list(range(9))
        for calls in (silent, other):
            calls.close()

    asyncio.run(play())


def test_a_store_that_failed_is_asked_by_one_call_after_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    made: list[float] = []

    async def play() -> None:
        loop = asyncio.get_running_loop()
        calls = GuardedExecutor("The store", 2)
        end = loop.time() + 1.0

        def count() -> None:
            made.append(loop.time())
            raise StoreUnavailable

        while loop.time() < end:
            await asyncio.gather(*(seconds_of(calls, count) for _ in range(10)))
            await asyncio.sleep(0.01)
        # The two that were under way when it failed first, and then one after each pause.
        assert 3 <= len(made) <= 9, made
        assert all(later - earlier >= 0.1 for earlier, later in itertools.pairwise(made[1:]))
        await asyncio.sleep(0.45)
        assert await asyncio.gather(calls.run(lambda: 1)) == [1]
        assert await asyncio.gather(*(calls.run(lambda n=n: n) for n in range(9))) == list(range(9))
        calls.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(play())
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "The store is away",
        "The store is back.",
    ]


def test_while_one_call_probes_the_store_others_fail_at_once(release: threading.Event) -> None:
    async def play() -> None:
        calls = GuardedExecutor("The store", 2)
        await seconds_of(calls, fail)
        await asyncio.sleep(0.11)
        probe = asyncio.create_task(calls.run(lambda: release.wait(30)))
        await asyncio.sleep(0)
        waited = [await seconds_of(calls, fail) for _ in range(20)]
        assert sum(waited) < 20 * module.SLOW_SECONDS / 2
        release.set()
        assert await probe is True
        assert await calls.run(lambda: 1) == 1
        calls.close()

    asyncio.run(play())
