# SPDX-License-Identifier: Apache-2.0
"""Subscribers that take their deliveries in order: later ones wait, and the earlier ones are found."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.unit.notification.harness import FINE, UID, Harness, until
from zaqar.model import Delivery
from zaqar.notification import capacity as capacities
from zaqar.notification.capacity import Capacity, Slot, SubscriptionBacklog
from zaqar.notification.senders.base import Outcome

WAITS = Outcome(False, None, "waits for its turn", reached=False, waits=True)
COUNT = 60


def put(harness: Harness, number: int, *, owner: str | None = None, due: float = 0.0) -> None:
    """A delivery as it is stored, on lease to a notifier that was killed if ``owner`` is given."""
    now = harness.clock()
    delivery = Delivery(UID, "s1", number, b"{}", 60, now, "c", now + due, owner=owner)
    harness.store.deliveries.put(delivery=delivery)


class InOrder:
    """A subscriber that takes nothing but the next number."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.refused = 0

    def __call__(self, delivery: Delivery) -> Outcome:
        if delivery.number == len(self.taken) + 1:
            self.taken.append(delivery.number)
            return FINE
        self.refused += 1
        return WAITS


@pytest.mark.parametrize("displaced", [(1,), (1, 2, 3), (20,), (5, 30, 31)])
def test_deliveries_of_a_killed_notifier_come_before_their_successors_when_the_lease_is_over(
    displaced: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacities, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(capacities, "MOST_PAUSE_SECONDS", 0.2)
    harness = Harness()
    harness.subscribe()
    for number in range(1, COUNT + 1):
        put(harness, number)
    for number in displaced:
        put(harness, number, owner="killed", due=6.0)
    subscriber = InOrder()

    async def run() -> None:
        async with harness.notifier() as notifier:
            notifier.sender.answers["s1"] = subscriber
            await until(lambda: len(subscriber.taken) == min(displaced) - 1 and subscriber.refused)
            harness.clock.advance(7)
            notifier.wake()
            await until(lambda: len(subscriber.taken) == COUNT)
            await until(lambda: not harness.waiting())

    asyncio.run(run())
    assert subscriber.taken == list(range(1, COUNT + 1))
    # Few are tried in vain, not the whole backlog; and that counts as no attempt.
    assert subscriber.refused < COUNT
    assert {(each.tries, len(each.attempts)) for each in harness.deliveries()} == {(1, 1)}


def test_messages_of_hosts_whose_clocks_differ_are_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacities, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(capacities, "MOST_PAUSE_SECONDS", 0.05)
    harness = Harness()
    harness.subscribe()
    for number in range(1, COUNT + 1):
        put(harness, number)
        if number % 2:
            continue
        stored = next(each for each in harness.deliveries() if each.number == number)
        earlier = stored.created - 5
        harness.store.deliveries.put(delivery=replace(stored, created=earlier, due=earlier))
    subscriber = InOrder()

    async def run() -> None:
        async with harness.notifier() as notifier:
            notifier.sender.answers["s1"] = subscriber
            await until(lambda: len(subscriber.taken) == COUNT)

    asyncio.run(run())


def test_a_subscription_is_paused_until_it_resumes() -> None:
    async def run() -> list[float | None]:
        found = SubscriptionBacklog(Capacity(overall=10, per_project=10, per_target=2))
        found.note_saturated("full", Slot("p", "t"))
        pauses = [found.pause("lane")]
        assert "lane" in found.saturated()
        assert found.pause("lane") is None
        found.resume("lane")
        assert "lane" not in found.saturated()
        return [*pauses, found.pause("lane")]

    assert asyncio.run(run()) == [capacities.FIRST_PAUSE_SECONDS] * 2
