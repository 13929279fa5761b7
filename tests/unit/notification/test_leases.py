# SPDX-License-Identifier: Apache-2.0
"""Deliveries whose lease is nearly over when the store answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.notification.harness import BROKEN, Harness, ScriptedSender, until
from zaqar.model import DONE


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.mark.parametrize("slow", ["outbox.expand", "deliveries.take"])
def test_nothing_is_sent_under_a_lease_that_is_nearly_over(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """The store answered so late that another notifier may have the delivery before its subscriber has answered."""
    monkeypatch.setattr("zaqar.notification.attempts.LEASE_SECONDS", 1.0)
    monkeypatch.setattr("zaqar.notification.attempts.EXTEND_SECONDS", 0.3)

    def answer_late(operation: Callable[..., Any], answered: threading.Event) -> Callable[..., Any]:
        def late(**arguments: Any) -> Any:
            result = operation(**arguments)
            if slow == "outbox.expand" or result:
                time.sleep(
                    0.85
                )  # in a thread of the store; the lease is not over yet, but would be before it is extended
                answered.set()
            return result

        return late

    async def play() -> None:
        harness.subscribe()
        harness.post(1)
        if slow == "deliveries.take":
            # It is expanded, and fails once, so that it is taken from the store later.
            first = ScriptedSender()
            first.answers["s1"] = lambda delivery: BROKEN
            async with harness.notifier(first) as notifier:
                notifier.wake()
                await until(lambda: first.sent and harness.waiting() and harness.waiting()[0].owner is None)
            harness.clock.advance(60)
        answered = threading.Event()
        with pytest.MonkeyPatch.context() as patch:
            name, method = slow.split(".")
            part = getattr(harness.store, name)
            patch.setattr(part, method, answer_late(getattr(part, method), answered))
            async with harness.notifier() as notifier:
                notifier.wake()
                await until(answered.is_set)
                await until(lambda: notifier.capacity.reserved == 0)
                await asyncio.sleep(0.05)
                assert notifier.sender.sent == []
                assert not notifier.capacity._targets
                (left,) = harness.waiting()
                assert left.due == harness.clock() + 6, "another notifier takes it after the lease"
        async with harness.notifier() as other:
            other.wake()
            await asyncio.sleep(0.05)
            assert other.sender.sent == []
            harness.clock.advance(6)
            other.wake()
            await until(lambda: harness.deliveries(state=DONE))
            assert len(other.sender.sent) == 1

    asyncio.run(play())
