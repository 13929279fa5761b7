# SPDX-License-Identifier: Apache-2.0
"""Notifications from links of notifiers to connections: their statuses, and the questions to the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from zaqar.errors import StoreUnavailable
from zaqar.ipc.push_protocol import Push, Status
from zaqar.service.store_guard import StoreBusy
from zaqar.transport.websocket import pushes as module
from zaqar.transport.websocket.pushes import Gone, Pushes, TooSlow


@dataclass
class FakeConnection:
    """A connection that takes frames at once, raises ``fault``, or waits until ``ready`` is set."""

    frames: list[str] = field(default_factory=list)
    fault: type[Exception] | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ready.set()

    def encode(self, notification: bytes) -> str:
        return notification.decode()

    async def push(self, frames: Sequence[str | bytes]) -> None:
        await self.ready.wait()
        if self.fault is not None:
            raise self.fault
        self.frames += map(str, frames)


class Harness:
    """The connections of a process, and a store with the ``undelivered`` numbers."""

    def __init__(self) -> None:
        self.connections = {"c": FakeConnection(), "d": FakeConnection()}
        self.ended: set[str] = set()
        self.undelivered: set[int] = set()
        self.questions: list[int] = []
        self.is_away = False
        self.is_busy = False
        self.answers: list[tuple[int, Status]] = []
        self.pushes = Pushes(self, find=self.connections.get, call=self.call)

    def is_subscribed(self, connection: str, queue_uid: str, subscription_id: str) -> bool:
        return subscription_id not in self.ended

    def has_undelivered_before(self, connection: str, queue_uid: str, number: int) -> bool:
        self.questions.append(number)
        if self.is_away:
            raise StoreUnavailable
        if self.is_busy:
            raise StoreBusy
        return any(each < number for each in self.undelivered)

    def call(self, call: Callable[[], bool]) -> asyncio.Future[bool]:
        return asyncio.get_running_loop().run_in_executor(None, call)

    def receive(self, *numbers: int, connection: str = "c", subscription: str = "s", attempts: int = 0) -> None:
        for number in numbers:
            push = Push(number, connection, "q", subscription, number, attempts, b"%d" % number)
            self.pushes.receive(push, lambda status, number=number: self.answers.append((number, status)))  # type: ignore[misc]

    async def until(self, count: int) -> list[tuple[int, Status]]:
        """The answers, as soon as there are ``count``."""
        async with asyncio.timeout(5):
            while len(self.answers) < count:
                await asyncio.sleep(0.005)
        return self.answers


def play(go: Callable[[Harness], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        harness = Harness()
        await go(harness)
        harness.pushes.stop()

    asyncio.run(run())


def test_the_store_is_asked_once_and_then_no_more_while_they_come_in_order() -> None:
    async def go(harness: Harness) -> None:
        harness.receive(5)
        await harness.until(1)
        for number in range(6, 50):
            harness.receive(number)
        assert await harness.until(45) == [(number, Status.PUSHED) for number in range(5, 50)]
        assert harness.questions == [5]
        assert harness.connections["c"].frames == [str(number) for number in range(5, 50)]

    play(go)


def test_a_notification_before_its_turn_is_sent_after_the_earlier_one() -> None:
    async def go(harness: Harness) -> None:
        harness.undelivered = {5, 6, 7}
        harness.receive(7, 6)
        await asyncio.sleep(0.05)
        assert harness.connections["c"].frames == []
        harness.receive(5)
        await harness.until(3)
        assert harness.connections["c"].frames == ["5", "6", "7"]

    play(go)


def test_a_gap_without_deliveries_is_passed_over() -> None:
    async def go(harness: Harness) -> None:
        harness.receive(5)
        await harness.until(1)
        harness.receive(9, 12)
        await harness.until(3)
        assert harness.connections["c"].frames == ["5", "9", "12"]

    play(go)


def test_a_notification_held_too_long_has_to_arrive_again() -> None:
    async def go(harness: Harness) -> None:
        harness.undelivered = {5}
        harness.receive(6, 7)
        assert await harness.until(2) == [(6, Status.WAIT), (7, Status.WAIT)]
        harness.receive(6)
        harness.receive(5)
        await harness.until(4)
        harness.receive(7)
        await harness.until(5)
        assert harness.connections["c"].frames == ["5", "6", "7"]

    play(go)


def test_a_store_outage_does_not_close_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AWAY_SECONDS", 0.05)

    async def go(harness: Harness) -> None:
        harness.is_away = True
        harness.receive(5)
        await asyncio.sleep(0.15)
        assert harness.connections["c"].frames == []
        assert len(harness.questions) > 1
        harness.is_away = False
        assert await harness.until(1) == [(5, Status.PUSHED)]

    play(go)


def test_a_store_with_enough_questions_is_asked_again_soon() -> None:
    async def go(harness: Harness) -> None:
        harness.is_busy = True
        harness.receive(5)
        await asyncio.sleep(0.1)
        assert harness.connections["c"].frames == []
        assert len(harness.questions) > 2
        harness.is_busy = False
        assert await harness.until(1) == [(5, Status.PUSHED)]

    play(go)


def test_a_connection_that_takes_nothing_does_not_delay_others() -> None:
    async def go(harness: Harness) -> None:
        harness.connections["c"].ready.clear()
        harness.receive(1)
        harness.receive(2, connection="d", subscription="t")
        assert await harness.until(1) == [(2, Status.PUSHED)]
        # The notifier gets its answer in time. The notification may arrive again while its frame is being sent.
        assert await harness.until(2) == [(2, Status.PUSHED), (1, Status.WAIT)]
        harness.receive(1)
        harness.connections["c"].ready.set()
        assert await harness.until(3) == [(2, Status.PUSHED), (1, Status.WAIT), (1, Status.PUSHED)]
        assert harness.connections["c"].frames == ["1"]

    play(go)


def test_a_connection_that_is_too_slow_gets_all_notifications_later_in_order() -> None:
    async def go(harness: Harness) -> None:
        harness.receive(1)
        await harness.until(1)
        harness.connections["c"].fault = TooSlow
        harness.receive(2, 3)
        assert await harness.until(3) == [(1, Status.PUSHED), (2, Status.WAIT), (3, Status.WAIT)]
        harness.connections["c"].fault = None
        harness.undelivered = {2, 3}
        harness.receive(3, 2)
        await harness.until(5)
        assert harness.connections["c"].frames == ["1", "2", "3"]

    play(go)


@pytest.mark.parametrize("fault", [Gone, RuntimeError])
def test_notifications_of_a_failed_push_get_the_status_of_its_fault(fault: type[Exception]) -> None:
    async def go(harness: Harness) -> None:
        harness.connections["c"].fault = fault
        harness.receive(1, 2)
        status = Status.GONE if fault is Gone else Status.WAIT
        assert await harness.until(2) == [(1, status), (2, status)]

    play(go)


def test_a_push_to_an_unknown_connection_or_subscription_is_gone() -> None:
    async def go(harness: Harness) -> None:
        harness.receive(1, connection="absent")
        harness.ended.add("s")
        harness.receive(2)
        assert harness.answers == [(1, Status.GONE), (2, Status.GONE)]

    play(go)


def test_waiting_notifications_are_gone_when_the_connection_closes() -> None:
    async def go(harness: Harness) -> None:
        harness.undelivered = {1}
        harness.connections["d"].ready.clear()
        harness.receive(2)
        harness.receive(3, connection="d", subscription="t")
        await asyncio.sleep(0.02)
        harness.pushes.close("c")
        harness.pushes.close("d")
        assert sorted(harness.answers) == [(2, Status.GONE), (3, Status.GONE)]
        harness.connections["d"].ready.set()
        await asyncio.sleep(0.02)
        assert harness.connections["d"].frames == []

    play(go)


def test_nothing_is_pushed_any_more_for_a_subscription_that_has_ended() -> None:
    async def go(harness: Harness) -> None:
        harness.undelivered = {1}
        harness.receive(2)
        harness.ended.add("s")
        harness.receive(3)
        assert sorted(harness.answers) == [(2, Status.GONE), (3, Status.GONE)]

    play(go)


def test_what_is_held_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 3)

    async def go(harness: Harness) -> None:
        harness.connections["c"].ready.clear()
        harness.undelivered = {1}
        harness.receive(12, 13, 14)
        assert harness.answers == [(14, Status.WAIT)]
        harness.pushes.close("c")
        harness.receive(15, connection="d")
        await harness.until(4)
        assert harness.pushes._size == 0

    play(go)
