# SPDX-License-Identifier: Apache-2.0
"""No attempt rests on a cached subscription that has changed: new subscribers, ends, and confirmations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from tests.unit.notification.harness import FINE, GONE, UID, Harness, RunningNotifier, ScriptedSender, until
from zaqar.model import PENDING, REFUSED, SUBSCRIPTION_CONFIRMATION, Delivery, Subscription
from zaqar.notification.bounds import Bounds
from zaqar.notification.senders.base import Outcome

OLD, NEW = "http://old/x", "http://new/x"


class RecordingSender(ScriptedSender):
    """Records the subscriber of each attempt."""

    def __init__(self) -> None:
        super().__init__()
        self.subscribers: list[str] = []

    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        self.subscribers.append(subscription.subscriber)
        return await super().send(delivery, subscription, now=now)


def change(harness: Harness, **changes: Any) -> None:
    old = harness.management.subscriptions.get(queue_uid=UID, subscription_id="s1", now=harness.clock())
    assert old is not None
    new = replace(old, version=old.version + 1, **changes)
    assert harness.management.subscriptions.replace(subscription=new, now=harness.clock())


def delete(harness: Harness) -> None:
    harness.management.subscriptions.delete(queue_uid=UID, subscription_id="s1")


CHANGES: dict[str, Callable[[Harness], None]] = {
    "another subscriber": lambda harness: change(harness, subscriber=NEW),
    "deleted": delete,
    "refused": lambda harness: change(harness, state=REFUSED),
    "expired": lambda harness: change(harness, expires=harness.clock()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_delivery_that_is_taken_after_a_change_goes_to_the_new_subscriber_only(what: str) -> None:
    """The subscription was read a moment ago, is changed, and the next delivery is taken right after that."""
    harness, sender = Harness(), RecordingSender()
    harness.subscribe(subscriber=OLD)

    async def script() -> None:
        async with harness.notifier(sender) as notifier:
            harness.post("first")
            await until(lambda: sender.subscribers == [OLD] and not harness.waiting())
            for round_ in range(3):
                # Read once more, by a delivery that is taken, and so remembered.
                resend(harness, notifier)
                await until(lambda at=round_: len(sender.subscribers) == 2 + at and not harness.waiting())  # type: ignore[misc]
            assert sender.subscribers == [OLD] * 4
            CHANGES[what](harness)
            resend(harness, notifier)
            await until(lambda: not harness.waiting())
            assert sender.subscribers[4:] == ([NEW] if what == "another subscriber" else [])

    asyncio.run(script())


def resend(harness: Harness, notifier: RunningNotifier) -> None:
    sent = harness.store.delivery_log.resend(
        queue_uid=UID, subscription_id="s1", numbers=[1], now=harness.clock(), limit=1
    )
    assert sent == 1
    notifier.wake()


@pytest.mark.parametrize("what", CHANGES)
def test_a_delivery_that_is_leased_when_it_is_made_goes_to_the_new_subscriber_only(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The subscriptions are listed, the store takes its time to store the deliveries, and meanwhile one is changed."""
    harness, sender = Harness(), RecordingSender()
    harness.subscribe(subscriber=OLD)
    expand, stored = harness.store.outbox.expand, asyncio.Event()

    async def script() -> None:
        loop = asyncio.get_running_loop()

        def expand_slowly(**arguments: Any) -> bool:
            CHANGES[what](harness)
            time.sleep(0.3)
            done = expand(**arguments)
            loop.call_soon_threadsafe(stored.set)
            return done

        monkeypatch.setattr(harness.store.outbox, "expand", expand_slowly)
        async with harness.notifier(sender):
            harness.post("first")
            await stored.wait()
            await until(lambda: not harness.waiting())
            await asyncio.sleep(0.05)
            assert sender.subscribers == ([NEW] if what == "another subscriber" else [])

    asyncio.run(script())


def test_a_410_of_a_replaced_subscriber_does_not_end_the_subscription() -> None:
    """The subscription has another subscriber when the 410 comes, and that one gets the message."""
    harness, sender = Harness(), RecordingSender()
    harness.subscribe(subscriber=OLD)

    async def answer(delivery: Delivery) -> Outcome:
        if sender.subscribers == [OLD]:
            change(harness, subscriber=NEW)
            return GONE
        return FINE

    sender.answers["s1"] = answer

    async def script() -> None:
        async with harness.notifier(sender):
            harness.post("first")
            await until(lambda: len(sender.subscribers) == 2 and not harness.waiting())

    asyncio.run(script())
    assert sender.subscribers == [OLD, NEW]
    left = harness.management.subscriptions.get(queue_uid=UID, subscription_id="s1", now=harness.clock())
    assert left is not None
    assert left.subscriber == NEW


# -- confirmations ---------------------------------------------------------------------------------------------------

PAUSE = 60


def ask(harness: Harness, id_: str) -> None:
    now = harness.clock()
    harness.store.deliveries.put(
        delivery=Delivery(UID, id_, 0, b"{}", 3600, now, "", due=now, kind=SUBSCRIPTION_CONFIRMATION)
    )


@pytest.fixture
def asking() -> Harness:
    return Harness(bounds=Bounds(require_confirmation=True, confirmation_pause=PAUSE))


async def look(harness: Harness, *notifiers: RunningNotifier) -> None:
    """Return when nothing is due any more."""
    for notifier in notifiers:
        notifier.wake()
    names = [f"s{number}" for number in range(1, 9)]
    await until(
        lambda: all(
            each.due > harness.clock() and each.owner is None for name in names for each in harness.waiting(name)
        )
    )


def test_asking_again_has_a_pause(asking: Harness) -> None:
    """Subscribe and unsubscribe, or change the subscriber, as often as you like: one confirmation in a pause."""
    sender = RecordingSender()
    asking.subscribe(subscriber=OLD, state=PENDING)
    begin = asking.clock()

    async def script() -> None:
        async with asking.notifier(sender) as notifier:
            for turn in range(40):
                change(asking, subscriber=f"http://host{turn}/")
                ask(asking, "s1")
                await look(asking, notifier)
                asking.clock.advance(5)

    asyncio.run(script())
    times = [sent.at - begin for sent in sender.sent]
    assert len(times) == 200 // PAUSE + 1
    assert all(later - earlier >= PAUSE for earlier, later in pairwise(times))


def test_a_target_gets_one_confirmation_in_a_pause_from_all_projects_together(asking: Harness) -> None:
    """Eight subscriptions of eight projects, two notifiers, of which one is started again."""
    sender = RecordingSender()
    for number in range(1, 9):
        asking.subscribe(f"s{number}", subscriber=f"http://target/hook?n={number}", project=f"p{number}", state=PENDING)
        ask(asking, f"s{number}")

    async def script() -> None:
        async with asking.notifier(sender) as one:
            async with asking.notifier(sender) as two:
                await look(asking, one, two)
                assert len(sender.sent) == 1
                asking.clock.advance(PAUSE - 1)
                await look(asking, one, two)
                assert len(sender.sent) == 1
            async with asking.notifier(sender) as two:
                await look(asking, one, two)
                assert len(sender.sent) == 1
                # Nobody waits for ever: each is asked in the end.
                for turn in range(2, 9):
                    await until_sent(asking, sender, turn, one, two)

    asyncio.run(script())
    assert len({sent.subscription for sent in sender.sent}) == 8
    times = sorted(sent.at for sent in sender.sent)
    assert all(later - earlier >= PAUSE for earlier, later in pairwise(times))


async def until_sent(harness: Harness, sender: RecordingSender, count: int, *notifiers: RunningNotifier) -> None:
    for _ in range(200):
        harness.clock.advance(PAUSE)
        await look(harness, *notifiers)
        if len(sender.sent) >= count:
            return
    raise AssertionError(f"{len(sender.sent)} were sent, not {count}")


def test_a_failed_attempt_counts_as_well(asking: Harness) -> None:
    sender = RecordingSender()
    sender.answers["s1"] = lambda delivery: Outcome(False, 500, "no")
    asking.subscribe(subscriber=OLD, state=PENDING)
    ask(asking, "s1")

    async def script() -> None:
        async with asking.notifier(sender) as notifier:
            for _ in range(PAUSE):
                await look(asking, notifier)
                assert len(sender.sent) == 1
                asking.clock.advance(1)
            await look(asking, notifier)
            assert len(sender.sent) == 2

    asyncio.run(script())


def test_without_a_pause_all_are_asked_at_once() -> None:
    harness, sender = Harness(bounds=Bounds(require_confirmation=True, confirmation_pause=0)), RecordingSender()
    for number in range(1, 9):
        harness.subscribe(f"s{number}", subscriber=f"http://target/hook?n={number}", state=PENDING)
        ask(harness, f"s{number}")

    async def script() -> None:
        async with harness.notifier(sender) as notifier:
            notifier.wake()
            await until(lambda: len(sender.sent) == 8)

    asyncio.run(script())


def test_a_replaced_subscriber_gets_no_more_confirmations() -> None:
    """Each subscriber is replaced right after it was asked; the next confirmation goes to the one there is then."""
    harness, sender = Harness(bounds=Bounds(require_confirmation=True, confirmation_pause=0)), RecordingSender()
    subscribers = [f"http://host{number}/" for number in range(6)]
    harness.subscribe(subscriber=subscribers[0], state=PENDING)

    async def script() -> None:
        async with harness.notifier(sender) as notifier:
            for number, subscriber in enumerate(subscribers):
                if number:
                    change(harness, subscriber=subscriber)
                ask(harness, "s1")
                notifier.wake()
                await until(lambda at=number: len(sender.subscribers) == at + 1 and not harness.waiting())  # type: ignore[misc]

    asyncio.run(script())
    assert sender.subscribers == subscribers


def test_a_subscriber_that_is_replaced_while_a_pause_is_taken_gets_no_confirmation(
    asking: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = RecordingSender()
    asking.subscribe(subscriber=OLD, state=PENDING)
    take_pauses = asking.management.subscriptions.take_pauses

    def take_slowly(**arguments: Any) -> float | None:
        taken = take_pauses(**arguments)
        monkeypatch.setattr(asking.management.subscriptions, "take_pauses", take_pauses)
        change(asking, subscriber=NEW, challenge=1)
        ask(asking, "s1")
        return taken

    monkeypatch.setattr(asking.management.subscriptions, "take_pauses", take_slowly)
    ask(asking, "s1")

    async def script() -> None:
        async with asking.notifier(sender) as notifier:
            await look(asking, notifier)
            asking.clock.advance(PAUSE)
            await look(asking, notifier)
            await until(lambda: sender.subscribers)

    asyncio.run(script())
    assert sender.subscribers == [NEW]


def test_the_answer_to_a_confirmation_is_not_shown(asking: Harness) -> None:
    """It may repeat the signature of the confirmation, which only the subscriber may know."""
    sender = RecordingSender()
    sender.answers["s1"] = lambda delivery: Outcome(delivery.tries > 0, 200 if delivery.tries else 500, "the signature")
    asking.subscribe(subscriber=OLD, state=PENDING)
    ask(asking, "s1")

    async def script() -> None:
        async with asking.notifier(sender) as notifier:
            await look(asking, notifier)
            asking.clock.advance(PAUSE)
            await look(asking, notifier)
            await until(lambda: len(asking.deliveries()[0].attempts) == 2)

    asyncio.run(script())
    (settled,) = asking.deliveries()
    assert [(attempt.status, attempt.answer) for attempt in settled.attempts] == [(500, ""), (200, "")]
