# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.unit.notification.scene import until
from zaqar.errors import StoreUnavailable
from zaqar.model import Delivery
from zaqar.notification import settling
from zaqar.notification.settling import Settler


def delivery(number: int) -> Delivery:
    return Delivery("a" * 24, "s", number, b"1", 60, 0.0, "c", 0.0)


class Store:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.written: list[int] = []
        self.failed: list[int] = []
        self.away = False
        self.slow = asyncio.Event()
        self.slow.set()
        self.settler: Settler[int] = Settler(self.write, written=self.note, failed=self.fail)

    async def write(self, settled: Sequence[Delivery]) -> None:
        await self.slow.wait()
        if self.away:
            raise StoreUnavailable
        self.batches.append([each.number for each in settled])

    def add(self, number: int) -> None:
        self.settler.add(delivery(number), number)

    def note(self, settled: Delivery, of: int) -> None:
        assert settled.number == of
        self.written.append(of)

    def fail(self, of: Sequence[int]) -> None:
        self.failed += of


def test_what_becomes_known_meanwhile_is_written_together() -> None:
    async def play() -> None:
        store = Store()
        store.slow.clear()
        store.add(1)
        await asyncio.sleep(0)
        for number in (2, 3, 4):
            store.add(number)
        assert (store.settler.idle, store.written) == (False, [])
        store.slow.set()
        await store.settler.finish()
        assert store.batches == [[1], [2, 3, 4]]
        assert store.written == [1, 2, 3, 4]
        assert store.settler.idle

    asyncio.run(play())


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "BATCH", 2)

    async def play() -> None:
        store = Store()
        for number in range(5):
            store.add(number)
        await store.settler.finish()
        assert store.batches == [[0, 1], [2, 3], [4]]

    asyncio.run(play())


def test_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "AGAIN_SECONDS", 0.01)

    async def play() -> None:
        store = Store()
        store.away = True
        store.add(1)
        await until(lambda: store.settler.stuck)
        store.add(2)
        await until(lambda: store.failed[-2:] == [1, 2])
        assert store.written == []
        store.away = False
        await store.settler.finish()
        assert (store.written, store.settler.stuck) == ([1, 2], False)

    asyncio.run(play())


def test_what_can_never_be_written_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        store = Store()

        async def fail(settled: Sequence[Delivery]) -> None:
            raise ValueError

        settler: Settler[int] = Settler(fail, written=store.note, failed=store.fail)
        settler.add(delivery(1), 1)
        await settler.finish()
        assert (store.written, store.failed) == ([1], [])
        assert "What became of 1 deliveries cannot be written" in caplog.text

    asyncio.run(play())


def test_close_gives_up() -> None:
    async def play() -> None:
        store = Store()
        store.away = True
        store.add(1)
        await until(lambda: store.settler.stuck)
        store.settler.close()
        with pytest.raises(asyncio.CancelledError):
            await store.settler.finish()
        assert store.written == []

    asyncio.run(play())
