# SPDX-License-Identifier: Apache-2.0
"""How verdicts on deliveries are written: in batches, and later if the store is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.notification.harness import until
from zaqar.errors import StoreUnavailable
from zaqar.model import Delivery
from zaqar.notification import attempts as module
from zaqar.notification.attempts import Attempts, LeasedDelivery
from zaqar.notification.bounds import Bounds
from zaqar.notification.capacity import Capacity, SubscriptionBacklog
from zaqar.notification.leased_store import StoreState
from zaqar.notification.verdicts import Verdicts


class Store:
    """Stands for a LeasedStore."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.is_away = False
        self.fault: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def settle(self, settled: Sequence[Delivery]) -> None:
        await self.answers.wait()
        if self.is_away:
            raise StoreUnavailable
        if self.fault is not None:
            raise self.fault
        self.batches.append([each.number for each in settled])


class Settling:
    """Attempts of which each delivery is handed back at once."""

    def __init__(self) -> None:
        nothing: Any = None
        self.store = Store()
        self.state = StoreState("The message store")
        self.capacity = Capacity(overall=20, per_project=8, per_target=4)
        self.attempts = Attempts(
            self.store,  # type: ignore[arg-type]
            self.state,
            SubscriptionBacklog(self.capacity),
            clock=time.time,
            capacity=self.capacity,
            subscribers=nothing,
            senders=nothing,
            verdicts=Verdicts(clock=time.time, retention=0.0),
            failures=nothing,
            keys=nothing,
            bounds=Bounds(),
            recorder=None,
        )

    def settle(self, number: int) -> None:
        self.capacity.reserve(1)
        delivery = Delivery("a" * 24, "s", number, b"1", 60, 0.0, "c", 0.0)
        self.attempts.hand_back(LeasedDelivery(delivery, asyncio.get_running_loop().time()))


def test_verdicts_that_come_during_a_write_are_written_together() -> None:
    async def play() -> None:
        settling = Settling()
        settling.store.answers.clear()
        settling.settle(1)
        await asyncio.sleep(0)
        for number in (2, 3, 4):
            settling.settle(number)
        assert (settling.store.batches, len(settling.attempts), settling.capacity.reserved) == ([], 4, 4)
        settling.store.answers.set()
        await settling.attempts.drain()
        assert settling.store.batches == [[1], [2, 3, 4]]
        assert (len(settling.attempts), settling.capacity.reserved) == (0, 0)

    asyncio.run(play())


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)

    async def play() -> None:
        settling = Settling()
        for number in range(5):
            settling.settle(number)
        await settling.attempts.drain()
        assert settling.store.batches == [[0, 1], [2, 3], [4]]

    asyncio.run(play())


def test_verdicts_wait_for_a_store_that_is_away_and_give_their_room_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)

    async def play() -> None:
        settling = Settling()
        settling.store.is_away = True
        settling.settle(1)
        await until(lambda: settling.attempts.stuck)
        assert settling.state.is_away
        settling.settle(2)
        await until(lambda: settling.capacity.reserved == 0)
        assert (settling.store.batches, len(settling.attempts)) == ([], 2)
        settling.store.is_away = False
        await settling.attempts.drain()
        assert settling.store.batches == [[1, 2]]
        assert (len(settling.attempts), settling.attempts.stuck, settling.capacity.reserved) == (0, False, 0)

    asyncio.run(play())


def test_a_verdict_that_can_never_be_written_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        settling = Settling()
        settling.store.fault = ValueError()
        settling.settle(1)
        await settling.attempts.drain()
        assert (len(settling.attempts), settling.attempts.stuck, settling.state.is_away) == (0, False, False)
        assert "The outcome of 1 deliveries cannot be written" in caplog.text

    asyncio.run(play())


def test_close_gives_up() -> None:
    async def play() -> None:
        settling = Settling()
        settling.store.is_away = True
        settling.settle(1)
        await until(lambda: settling.attempts.stuck)
        settling.attempts.close()
        with pytest.raises(asyncio.CancelledError):
            await settling.attempts.drain()
        assert (settling.store.batches, len(settling.attempts)) == ([], 1)

    asyncio.run(play())
