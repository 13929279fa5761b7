# SPDX-License-Identifier: Apache-2.0
"""What a notifier does with a delivery whose lease is nearly over when it gets it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.notification.scene import BROKEN, Scene, ScriptedSender, until
from zaqar.model import DONE


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("slow", ["outbox.expand", "deliveries.take"])
def test_nothing_is_sent_under_a_lease_that_is_nearly_over(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """The store answered so late that another notifier may have the delivery before its subscriber has answered."""
    monkeypatch.setattr("zaqar.notification.jobs.LEASE_SECONDS", 1.0)
    monkeypatch.setattr("zaqar.notification.jobs.EXTEND_SECONDS", 0.3)

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
        scene.subscribe()
        scene.post(1)
        if slow == "deliveries.take":
            # It is expanded, and fails once, so that it is taken from the store later.
            first = ScriptedSender()
            first.answers["s1"] = lambda delivery: BROKEN
            async with scene.notifier(first) as notifier:
                notifier.dispatcher.wake()
                await until(lambda: first.sent and scene.waiting() and scene.waiting()[0].owner is None)
            scene.clock.advance(60)
        answered = threading.Event()
        with pytest.MonkeyPatch.context() as patch:
            name, method = slow.split(".")
            part = getattr(scene.store, name)
            patch.setattr(part, method, answer_late(getattr(part, method), answered))
            async with scene.notifier() as notifier:
                notifier.dispatcher.wake()
                await until(answered.is_set)
                await until(lambda: notifier.dispatcher._capacity._in_hand == 0)
                await asyncio.sleep(0.05)
                assert notifier.task.sent == []
                assert not notifier.dispatcher._capacity._targets
                (left,) = scene.waiting()
                assert left.due == scene.clock() + 6, "it is left to whoever comes after the lease"
        async with scene.notifier() as other:
            other.dispatcher.wake()
            await asyncio.sleep(0.05)
            assert other.task.sent == []
            scene.clock.advance(6)
            other.dispatcher.wake()
            await until(lambda: scene.deliveries(state=DONE))
            assert len(other.task.sent) == 1

    asyncio.run(play())
