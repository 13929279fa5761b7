# SPDX-License-Identifier: Apache-2.0
"""Deliveries that something of the operator's holds up, and subscriptions that nothing can reach any more."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.notification.harness import FINE, Harness, handed_back, until
from zaqar.model import Delivery
from zaqar.notification.retry import MOST_JITTER
from zaqar.notification.senders.base import Outcome
from zaqar.notification.verdicts import MOST_LATER_SECONDS, POSTPONED_PART, POSTPONED_SECONDS

POSTPONED = Outcome(False, None, "Keystone is not available", reached=None, postponed=True)


def test_a_postponed_delivery_has_no_attempt_and_its_pause_grows() -> None:
    harness = Harness()
    harness.subscribe()
    harness.post("m")
    back = False

    def answer(delivery: Delivery) -> Outcome:
        return FINE if back else POSTPONED

    async def run() -> None:
        nonlocal back
        async with harness.notifier() as notifier:
            notifier.sender.answers["s1"] = answer
            began = harness.clock()
            for number in range(1, 40):
                delivery = await handed_back(harness, lambda: len(notifier.messages()) == number)  # noqa: B023
                assert (delivery.tries, delivery.attempts) == (0, ())
                pause, lasted = delivery.due - harness.clock(), harness.clock() - began
                least = min(max(POSTPONED_SECONDS, lasted * POSTPONED_PART), MOST_LATER_SECONDS)
                assert least <= pause <= least * (1 + MOST_JITTER)
                harness.clock.advance(pause)
                notifier.wake()
            back = True
            await until(lambda: harness.deliveries()[0].state == "done")
        (delivery,) = harness.deliveries()
        assert delivery.tries == 1

    asyncio.run(run())


@pytest.mark.parametrize("reached", [True, False, None])
def test_only_a_target_that_was_tried_is_judged(reached: bool | None) -> None:
    """A target that was not tried stays as well known, or as unknown, as it was."""
    harness = Harness()
    harness.subscribe()
    harness.post("m")

    async def run() -> None:
        async with harness.notifier() as notifier:
            notifier.sender.answers["s1"] = lambda delivery: Outcome(False, None, "no", reached=reached, final=True)
            await until(lambda: harness.dead())
            answered = notifier.capacity._answers
            assert answered.get("s1") is reached

    asyncio.run(run())


def test_a_subscription_whose_trust_is_gone_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "zaqar.notification")
    harness = Harness()
    harness.subscribe(options={"dead_letter_queue": "dead"})
    harness.post("m")

    async def run() -> None:
        async with harness.notifier() as notifier:
            notifier.sender.answers["s1"] = lambda delivery: Outcome(
                False, None, "the trust of the subscription is gone in Keystone", gone=True, reached=None
            )
            await until(lambda: notifier.counts["discarded"] == 1)

    asyncio.run(run())
    assert harness.deliveries() == []
    assert "Subscription s1 has ended: the trust of the subscription is gone in Keystone." in caplog.messages
