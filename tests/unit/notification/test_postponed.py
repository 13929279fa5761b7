# SPDX-License-Identifier: Apache-2.0
"""Deliveries that something of the operator's holds up, and subscriptions that nothing can reach any more."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.notification.scene import FINE, Scene, handed_back, until
from zaqar.model import Delivery
from zaqar.notification.retry import MOST_JITTER
from zaqar.notification.senders.base import Outcome
from zaqar.notification.sending import MOST_LATER_SECONDS, POSTPONED_PART, POSTPONED_SECONDS

POSTPONED = Outcome(False, None, "Keystone is not available", reached=None, postponed=True)


def test_what_is_postponed_is_no_attempt_and_waits_longer_with_time() -> None:
    scene = Scene()
    scene.subscribe()
    scene.post("m")
    back = False

    def answer(delivery: Delivery) -> Outcome:
        return FINE if back else POSTPONED

    async def run() -> None:
        nonlocal back
        async with scene.notifier() as notifier:
            notifier.task.answers["s1"] = answer
            began = scene.clock()
            for number in range(1, 40):
                delivery = await handed_back(scene, lambda: len(notifier.messages()) == number)  # noqa: B023
                assert (delivery.tries, delivery.attempts) == (0, ())
                pause, lasted = delivery.due - scene.clock(), scene.clock() - began
                least = min(max(POSTPONED_SECONDS, lasted * POSTPONED_PART), MOST_LATER_SECONDS)
                assert least <= pause <= least * (1 + MOST_JITTER)
                scene.clock.advance(pause)
                notifier.dispatcher.wake()
            back = True
            await until(lambda: scene.deliveries()[0].state == "done")
        (delivery,) = scene.deliveries()
        assert delivery.tries == 1

    asyncio.run(run())


@pytest.mark.parametrize("reached", [True, False, None])
def test_only_a_target_that_was_tried_is_judged(reached: bool | None) -> None:
    """A target that was not tried stays as well known, or as unknown, as it was."""
    scene = Scene()
    scene.subscribe()
    scene.post("m")

    async def run() -> None:
        async with scene.notifier() as notifier:
            notifier.task.answers["s1"] = lambda delivery: Outcome(False, None, "no", reached=reached, final=True)
            await until(lambda: scene.dead())
            answered = notifier.dispatcher._capacity._answers
            assert answered.get("s1") is reached

    asyncio.run(run())


def test_a_subscription_whose_trust_is_gone_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "zaqar.notification")
    scene = Scene()
    scene.subscribe(options={"dead_letter_queue": "dead"})
    scene.post("m")

    async def run() -> None:
        async with scene.notifier() as notifier:
            notifier.task.answers["s1"] = lambda delivery: Outcome(
                False, None, "the trust of the subscription is gone in Keystone", gone=True, reached=None
            )
            await until(lambda: notifier.dispatcher.counts["discarded"] == 1)

    asyncio.run(run())
    assert scene.deliveries() == []
    assert "Subscription s1 has ended: the trust of the subscription is gone in Keystone." in caplog.messages
