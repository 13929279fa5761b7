# SPDX-License-Identifier: Apache-2.0
"""The notifier as a whole, on memory stores: which messages arrive at which subscriber, and how often."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.unit.notification import harness as harnesses
from tests.unit.notification.harness import (
    BROKEN,
    FINE,
    GONE,
    SILENT,
    UID,
    Harness,
    ScriptedSender,
    StoreConnection,
    handed_back,
    hang,
    until,
)
from zaqar.clock import MAX_CLOCK_SKEW
from zaqar.errors import InvalidInput, StoreUnavailable
from zaqar.ipc.wakeup_socket import WakeupSender
from zaqar.model import (
    DONE,
    PENDING,
    REFUSED,
    SUBSCRIPTION_CONFIRMATION,
    Delivery,
    Queue,
    Subscription,
)
from zaqar.notification import notifier as notifiers
from zaqar.notification.bounds import Bounds
from zaqar.notification.failed_deliveries import CLIENT_ID
from zaqar.notification.senders.base import Outcome
from zaqar.storage.base import DROPPED_LIFETIME
from zaqar.storage.memory import MemoryMessageStore

NO_RETRIES = {
    "retries_with_no_delay": 0,
    "minimum_delay_retries": 0,
    "maximum_delay_retries": 0,
}
"""Only the retries of the backoff phase are left."""


@pytest.fixture
def harness() -> Harness:
    return Harness()


# -- every message reaches every subscriber ------------------------------------------------------------------------


def test_each_message_reaches_each_subscriber_once(harness: Harness) -> None:
    async def play() -> None:
        for id_ in ("s1", "s2", "s3"):
            harness.subscribe(id_)
        async with harness.notifier() as notifier:
            ids = [id_ for _ in range(20) for id_ in harness.post(1, 2, 3)]
            notifier.wake()
            await until(lambda: all(len(harness.deliveries(id_, DONE)) == 60 for id_ in ("s1", "s2", "s3")))
            for id_ in ("s1", "s2", "s3"):
                assert sorted(notifier.messages(id_)) == sorted(ids)

    asyncio.run(play())


def test_the_log_of_a_delivery(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe()
        async with harness.notifier() as notifier:
            (id_,) = harness.post({"n": 1})
            notifier.wake()
            await until(lambda: harness.deliveries(state=DONE))
            (delivery,) = harness.deliveries()
            assert (delivery.id, delivery.tries, delivery.owner) == (id_, 1, None)
            assert delivery.keep_until == harness.clock() + harness.bounds.retention
            assert [attempt.status for attempt in delivery.attempts] == [204]

    asyncio.run(play())


def test_nothing_is_kept_without_retention() -> None:
    harness = Harness(bounds=Bounds(retention=0.0))

    async def play() -> None:
        harness.subscribe()
        async with harness.notifier() as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: notifier.counts["delivered"])
        assert harness.deliveries() == []

    asyncio.run(play())


def test_without_a_wakeup_socket_work_is_found_by_polling(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe()
        async with harness.notifier() as notifier:
            await until(lambda: notifier.connection.calls["deliveries.take"] >= 2)
            harness.post(1)
            await until(lambda: notifier.messages())

    asyncio.run(play())


def test_a_wakeup_wakes_the_notifier(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.pump.LOOK_SECONDS", 600.0)

    async def play() -> None:
        harness.subscribe()
        async with harness.notifier(folder=tmp_path) as notifier:
            await until(lambda: notifier.connection.calls["deliveries.take"])
            await asyncio.sleep(0.02)
            harness.post(1)
            WakeupSender(tmp_path).wake()
            await until(lambda: notifier.messages())
        assert not list(tmp_path.iterdir())

    asyncio.run(play())


def test_a_post_without_subscribers_is_forgotten(harness: Harness) -> None:
    async def play() -> None:
        async with harness.notifier() as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: not harness.store.data.outbox)

    asyncio.run(play())


def test_more_deliveries_than_are_stored_in_one_step(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.pieces.PIECE_DELIVERIES", 7)
    monkeypatch.setattr("zaqar.notification.subscribers.READ", 5)

    async def play() -> None:
        names = [f"s{n:02}" for n in range(20)]
        for id_ in names:
            harness.subscribe(id_)
        async with harness.notifier() as notifier:
            harness.post(1, 2)
            notifier.wake()
            await until(lambda: all(len(harness.deliveries(id_, DONE)) == 2 for id_ in names))
            assert len(notifier.sender.sent) == 40

    asyncio.run(play())


def test_a_delayed_message_is_not_early(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe()
        async with harness.notifier() as notifier:
            harness.post(1, delay=30)
            harness.post(2)
            notifier.wake()
            await until(lambda: harness.deliveries(state=DONE) and harness.waiting())
            for seconds in (10, 19.5):
                harness.clock.advance(seconds)
                notifier.wake()
                await asyncio.sleep(0.05)
                assert len(notifier.sender.sent) == 1
            harness.clock.advance(0.5)
            notifier.wake()
            await until(lambda: len(notifier.sender.sent) == 2)

    asyncio.run(play())


def test_a_filter(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe("s1", options={"filter": {"kind": ["order"]}})
        harness.subscribe("s2")
        async with harness.notifier() as notifier:
            wanted = harness.post({"kind": "order"}, {"kind": "refund"}, "text")[0]
            notifier.wake()
            await until(lambda: len(harness.deliveries("s2", DONE)) == 3)
            assert notifier.messages("s1") == [wanted]
            assert len(harness.deliveries("s1")) == 1

    asyncio.run(play())


# -- which subscribers get messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "required", "gets"),
    [(PENDING, False, True), (PENDING, True, False), (REFUSED, False, False), (REFUSED, True, False)],
)
def test_unconfirmed_subscriptions(state: str, required: bool, gets: bool) -> None:
    harness = Harness(bounds=Bounds(require_confirmation=required))

    async def play() -> None:
        harness.subscribe("s1", state=state)
        harness.subscribe("s2")
        async with harness.notifier() as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: harness.deliveries("s2", DONE))
            assert bool(harness.deliveries("s1")) == gets

    asyncio.run(play())


@pytest.mark.parametrize("how", ["deleted", "expired", "refused"])
def test_a_subscription_that_ends_in_between(harness: Harness, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.subscribers.CACHE_SECONDS", 0.0)

    async def play() -> None:
        subscription = harness.subscribe(expires=harness.clock() + 65)
        harness.post(1, delay=60)
        async with harness.notifier() as notifier:
            notifier.wake()
            await until(lambda: harness.waiting())
            if how == "deleted":
                harness.end(subscription)
            elif how == "refused":
                changed = replace(subscription, state=REFUSED, version=2)
                assert harness.management.subscriptions.replace(subscription=changed, now=harness.clock())
            harness.clock.advance(66)
            notifier.wake()
            await until(lambda: not harness.deliveries())
            assert notifier.sender.sent == []
            assert notifier.counts["discarded"] == 1

    asyncio.run(play())


def test_all_deliveries_of_a_subscription_that_is_gone_are_dropped_in_one_step(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe("s1")
        now = harness.clock()
        for number in range(1, 2001):
            harness.store.deliveries.put(delivery=Delivery(UID, "gone", number, b"1", 300, now - 9, "c", now - 9))
        harness.store.deliveries.put(delivery=Delivery(UID, "s1", 1, b"1", 300, now, "c", now))
        looked_up: list[str] = []
        get = harness.management.subscriptions.get

        def count(**arguments: Any) -> Subscription | None:
            looked_up.append(arguments["subscription_id"])
            return get(**arguments)

        harness.management.subscriptions.get = count  # type: ignore[method-assign]
        async with harness.notifier() as notifier:
            await until(lambda: notifier.messages() and not harness.deliveries("gone"))
            assert looked_up.count("gone") <= 20
            assert notifier.connection.calls["delivery_log.drop"] == 1
            assert notifier.connection.calls["deliveries.take"] <= 20
            # A delivery that a process stores much later, after it stood still.
            harness.clock.advance(DROPPED_LIFETIME)
            while harness.store.sweep(now=harness.clock(), limit=1000).removed:
                pass
            harness.store.deliveries.put(delivery=Delivery(UID, "gone", 1, b"1", 300, now, "c", now))
            notifier.wake()
            await until(lambda: not harness.deliveries("gone"))

    asyncio.run(play())


@pytest.mark.parametrize("how", ["refused", "expired by this clock"])
def test_deliveries_of_a_subscription_that_may_come_back_are_not_dropped(
    harness: Harness, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with a slower clock may just have given it more time; a refused one can be confirmed."""
    monkeypatch.setattr("zaqar.notification.subscribers.CACHE_SECONDS", 0.0)

    async def play() -> None:
        if how == "refused":
            harness.subscribe("s1", state=REFUSED)
        else:
            harness.subscribe("s1", expires=harness.clock() + MAX_CLOCK_SKEW)
            harness.clock.advance(2 * MAX_CLOCK_SKEW - 1)
        now = harness.clock()
        for number in range(1, 31):
            harness.store.deliveries.put(delivery=Delivery(UID, "s1", number, b"1", 300, now, "c", now))
        async with harness.notifier() as notifier:
            await until(lambda: not harness.deliveries("s1"))
            assert notifier.messages() == []
            assert notifier.connection.calls["delivery_log.drop"] == 0
            if how != "refused":
                harness.store.deliveries.put(delivery=Delivery(UID, "s1", 77, b"1", 300, now, "c", now))
                harness.clock.advance(1)
                notifier.wake()
                await until(lambda: notifier.connection.calls["delivery_log.drop"])

    asyncio.run(play())


def test_a_cached_subscription_discards_no_delivery() -> None:
    """Another notifier has made the delivery after the confirmation that this one has not heard of."""
    harness = Harness(bounds=Bounds(require_confirmation=True))

    async def play() -> None:
        subscription = harness.subscribe(state=PENDING)
        async with harness.notifier() as notifier:
            subscribers = notifier.subscribers
            assert await subscribers.get(UID, "s1") == subscription
            confirmed = replace(subscription, state="confirmed", version=2)
            assert harness.management.subscriptions.replace(subscription=confirmed, now=harness.clock())
            harness.store.deliveries.put(
                delivery=Delivery(UID, "s1", 7, b"7", 300, harness.clock(), "c", harness.clock())
            )
            notifier.wake()
            await until(lambda: harness.deliveries(state=DONE))
            assert len(notifier.messages()) == 1

    asyncio.run(play())


def test_a_confirmation_is_sent_while_it_is_wanted() -> None:
    harness = Harness(bounds=Bounds(require_confirmation=True))

    async def play() -> None:
        harness.subscribe("s1", state=PENDING)
        harness.subscribe("s2")
        async with harness.notifier() as notifier:
            for id_ in ("s1", "s2"):
                asked = Delivery(
                    UID, id_, 0, b"{}", 300, harness.clock(), "", harness.clock(), kind=SUBSCRIPTION_CONFIRMATION
                )
                harness.store.deliveries.put(delivery=asked)
            notifier.wake()
            await until(lambda: harness.deliveries("s1", DONE) and not harness.deliveries("s2"))
            assert [sent.subscription for sent in notifier.sender.sent] == ["s1"]

    asyncio.run(play())


# -- failures --------------------------------------------------------------------------------------------------------


def test_retries(harness: Harness) -> None:
    """Three at once, then after the minimum delay. The time of the next one is stored."""

    async def play() -> None:
        harness.subscribe()
        sender = ScriptedSender()
        sender.answers["s1"] = lambda delivery: BROKEN if delivery.tries < 5 else FINE
        async with harness.notifier(sender) as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: harness.waiting() and harness.waiting()[0].tries == 4)
            (delivery,) = harness.waiting()
            assert delivery.owner is None
            assert harness.clock() + 5 <= delivery.due <= harness.clock() + 5.5
            notifier.wake()
            await asyncio.sleep(0.05)
            assert len(sender.sent) == 4
            for tries in (5, 6):
                harness.clock.advance(6)
                notifier.wake()
                await until(lambda tries=tries: harness.deliveries()[0].tries == tries)
            (delivery,) = harness.deliveries(state=DONE)
            assert [attempt.status for attempt in delivery.attempts] == [500] * 5 + [204]
            assert len(set(notifier.messages())) == 1

    asyncio.run(play())


def test_retry_after_delays_the_next_attempt(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe()
        sender = ScriptedSender()
        sender.answers["s1"] = lambda delivery: Outcome(False, 503, "", retry_after=120.0)
        async with harness.notifier(sender) as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: harness.waiting() and harness.waiting()[0].tries == 1)
            assert harness.waiting()[0].due == harness.clock() + 120

    asyncio.run(play())


@pytest.mark.parametrize("policy", [{}, {"retries_with_no_delay": 1000}])
def test_delays_of_a_sender_replace_the_retry_policy(harness: Harness, policy: dict[str, int]) -> None:
    async def play() -> None:
        harness.subscribe(expires=1e12, options={"_retry_policy": policy})
        sender = ScriptedSender()
        sender.delays = (300.0, 7200.0)
        sender.answers["s1"] = lambda delivery: Outcome(False, None, "450 not now")
        async with harness.notifier(sender) as notifier:
            harness.post(1)
            for tries, delay in enumerate((300.0, 7200.0), 1):
                notifier.wake()
                await until(lambda tries=tries: harness.waiting() and harness.waiting()[0].tries == tries)
                assert harness.waiting()[0].due == pytest.approx(harness.clock() + delay, abs=delay * 0.1)
                harness.clock.advance(delay * 1.11)
            notifier.wake()
            await until(lambda: harness.dead())
            assert harness.dead()[0].tries == 3

    asyncio.run(play())


def test_a_final_failure_makes_a_delivery_dead_at_once(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe(options={"dead_letter_queue": "lost"})
        sender = ScriptedSender()
        sender.answers["s1"] = lambda delivery: Outcome(False, None, "550 no such user", final=True)
        async with harness.notifier(sender) as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: harness.dead())
            assert [attempt.answer for attempt in harness.dead()[0].attempts] == ["550 no such user"]
        assert len(harness.dead_letters) == 1

    asyncio.run(play())


async def let_time_pass(harness: Harness, notifier: harnesses.RunningNotifier) -> None:
    """Advance the clock by a minute, unless a delivery is leased: it would be sent twice if its lease ended."""
    if all(delivery.owner is None for delivery in harness.waiting()):
        harness.clock.advance(60)
    notifier.wake()
    await asyncio.sleep(0.01)


async def fail_to_the_end(harness: Harness, notifier: harnesses.RunningNotifier, settled: str = "dead") -> None:
    while not notifier.counts[settled]:
        await let_time_pass(harness, notifier)


@pytest.mark.parametrize("whose", ["queue", "subscription"])
def test_dead_after_the_last_attempt(harness: Harness, whose: str, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        policy = {"_retry_policy": NO_RETRIES}
        if whose == "queue":
            harness.management.queue_records.replace(queue=replace(harnesses.QUEUE, metadata=policy, generation=2))
        harness.subscribe(options=policy if whose == "subscription" else {})
        sender = ScriptedSender()
        sender.answers["s1"] = lambda delivery: BROKEN
        async with harness.notifier(sender) as notifier:
            (id_,) = harness.post(1)
            await fail_to_the_end(harness, notifier)
            await until(lambda: harness.dead())
            (dead,) = harness.dead()
            assert dead.tries == len(dead.attempts) == 11
            assert dead.keep_until == pytest.approx(harness.clock() + harness.bounds.retention, abs=120)
            assert f"Delivery {id_} to subscription s1 of 'orders' is dead after 11 attempts" in caplog.text

    with caplog.at_level(logging.INFO):
        asyncio.run(play())


def test_only_the_latest_attempts_are_kept(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe(options={"_retry_policy": {"retries_with_no_delay": 30}})
        sender = ScriptedSender()
        sender.answers["s1"] = lambda delivery: Outcome(False, 500, str(delivery.tries + 1))
        async with harness.notifier(sender) as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: harness.waiting() and harness.waiting()[0].tries == 31)
            assert [attempt.answer for attempt in harness.waiting()[0].attempts] == [str(n) for n in range(12, 32)]

    asyncio.run(play())


def test_gone_ends_the_subscription(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe()
        sender = ScriptedSender()
        sender.answers["s1"] = lambda delivery: GONE
        async with harness.notifier(sender) as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: notifier.counts["discarded"])
            harness.post(2)
            notifier.wake()
            await until(lambda: not harness.store.data.outbox and not harness.deliveries())
            assert len(sender.sent) == 1
        assert harness.management.subscriptions.get(queue_uid=UID, subscription_id="s1", now=harness.clock()) is None

    asyncio.run(play())


def test_a_plug_in_with_a_bug_is_a_failed_attempt(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    def answer(delivery: Delivery) -> Outcome:
        raise KeyError("secret")

    async def play() -> None:
        harness.subscribe("s1", subscriber="http://s1/")
        harness.subscribe("s2", subscriber="http:s2")  # has no host
        harness.subscribe("s3", subscriber="gopher://s3/")
        harness.subscribe("s4")
        sender = ScriptedSender()
        sender.answers["s1"] = answer
        async with harness.notifier(sender) as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: harness.deliveries("s4", DONE))
            await until(lambda: all(harness.deliveries(id_)[0].tries == 4 for id_ in ("s1", "s2", "s3")))
            answers = {harness.waiting(id_)[0].attempts[-1].answer for id_ in ("s1", "s2", "s3")}
            assert answers == {
                "error of the notifier: KeyError",
                "error of the notifier: IndexError",
                "this notifier cannot send to 'gopher:'",
            }

    asyncio.run(play())


# -- dead letters ----------------------------------------------------------------------------------------------------


def subscribe_with_dead_letters(harness: Harness) -> ScriptedSender:
    harness.subscribe(options={"_retry_policy": NO_RETRIES, "dead_letter_queue": "lost"})
    sender = ScriptedSender()
    sender.answers["s1"] = lambda delivery: BROKEN
    return sender


def test_dead_letters(harness: Harness) -> None:
    async def play() -> None:
        async with harness.notifier(subscribe_with_dead_letters(harness)) as notifier:
            (id_,) = harness.post({"n": 1})
            await fail_to_the_end(harness, notifier)
            await until(lambda: harness.dead())
        ((project, queue, document),) = harness.dead_letters
        assert (project, queue) == ("shop", "lost")
        (message,) = document["messages"]
        letter = message["body"]
        assert (letter["subscription_id"], letter["queue_name"]) == ("s1", "orders")
        assert letter["subscriber"] == "http://s1/s1"
        assert (letter["message"]["id"], letter["message"]["body"]) == (id_, {"n": 1})
        assert [attempt["status"] for attempt in letter["attempts"]] == [500] * 5

    asyncio.run(play())


def test_a_dead_letter_makes_no_other(harness: Harness) -> None:
    async def play() -> None:
        async with harness.notifier(subscribe_with_dead_letters(harness)) as notifier:
            harness.post(1, client_id=CLIENT_ID)
            await fail_to_the_end(harness, notifier)
        assert len(harness.dead()) == 1
        assert harness.dead_letters == []

    asyncio.run(play())


def test_a_dead_letter_queue_that_refuses(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    harness.refusal = InvalidInput("messages", "too large")

    async def play() -> None:
        async with harness.notifier(subscribe_with_dead_letters(harness)) as notifier:
            harness.post(1)
            await fail_to_the_end(harness, notifier)
        assert len(harness.dead()) == 1
        assert "The dead letter queue 'lost' of subscription s1 refused: messages: too large" in caplog.text

    asyncio.run(play())


def test_a_dead_letter_queue_that_is_away(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The letter waits, and the subscriber is left alone: it has had all its attempts."""
    monkeypatch.setattr("zaqar.notification.executors.FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("zaqar.notification.executors.MOST_PAUSE_SECONDS", 0.02)
    harness.refusal = StoreUnavailable()

    async def play() -> None:
        async with harness.notifier(subscribe_with_dead_letters(harness)) as notifier:
            harness.post(1)
            while notifier.counts["put off"] < 20:
                await let_time_pass(harness, notifier)
            assert len(notifier.sender.sent) == 11
            assert harness.dead_letters == []
            harness.refusal = None
            await fail_to_the_end(harness, notifier)
            await until(lambda: harness.dead())
            assert len(notifier.sender.sent) == 11
        assert len(harness.dead()) == len(harness.dead_letters) == 1
        ((_, _, document),) = harness.dead_letters
        assert len(document["messages"][0]["body"]["attempts"]) == 5

    asyncio.run(play())


def test_the_pause_of_a_dead_letter_that_waits_grows(harness: Harness) -> None:
    """The pause grows with the time since the last attempt, up to a bound."""
    harness.refusal = StoreUnavailable()

    async def play() -> None:
        async with harness.notifier(subscribe_with_dead_letters(harness)) as notifier:
            harness.post(1)
            while len(notifier.sender.sent) < 11:
                await let_time_pass(harness, notifier)
            pauses = []
            for _ in range(6):
                pauses.append((await handed_back(harness)).due - harness.clock())
                harness.clock.advance(pauses[-1])
                put_off = notifier.counts["put off"]
                notifier.wake()
                await until(lambda put_off=put_off: notifier.counts["put off"] > put_off)
            assert pauses == [5, 5, 10, 20, 40, 60]
            assert len(notifier.sender.sent) == 11

    asyncio.run(play())


@pytest.mark.parametrize("what", ["dead letters", "ends"])
@pytest.mark.parametrize("place", ["of the deliveries", "of others", "none yet"])
def test_a_silent_store_of_dead_letters_does_not_delay_others(
    harness: Harness, what: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do ends of subscriptions, which change the queue in its store. They hold neither threads nor slots."""
    silent = threading.Event()
    monkeypatch.setattr("zaqar.notification.executors.SLOW_SECONDS", 0.1)
    monkeypatch.setattr("zaqar.notification.executors.FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("zaqar.notification.executors.MOST_PAUSE_SECONDS", 0.05)
    # Calls of the management store for each delivery must not wait for the silent store.
    monkeypatch.setattr("zaqar.notification.subscribers.CACHE_SECONDS", 0.0)
    ended: list[str] = []
    hanging: list[str] = []
    end, post_letter = harness.end, harness.post_dead_letter

    def hang_then_end(subscription: Subscription) -> None:
        hanging.append(subscription.id)
        silent.wait(30)
        end(subscription)
        ended.append(subscription.id)

    def hang_then_post(project: str, queue: str, raw: bytes, *, encrypt: bool, trace: str | None) -> None:
        hanging.append(queue)
        silent.wait(30)
        post_letter(project, queue, raw, encrypt=encrypt, trace=trace)

    harness.end, harness.post_dead_letter = hang_then_end, hang_then_post  # type: ignore[method-assign]
    names = [f"d{n}" for n in range(12)]

    async def play() -> None:
        options: dict[str, Any] = {"_retry_policy": NO_RETRIES, "dead_letter_queue": "lost"}
        sender = ScriptedSender()
        outcome = GONE if what == "ends" else BROKEN
        if what == "ends":
            del options["dead_letter_queue"]
        for id_ in names:
            harness.subscribe(id_, options=options, expires=harness.clock() + 10**6)
            sender.answers[id_] = lambda delivery: outcome
        harness.subscribe("s1", project="other", expires=harness.clock() + 10**6)
        connection = StoreConnection(MemoryMessageStore())
        async with harness.notifier(sender, connection) as notifier:
            harness.store_of_letters = {
                "of the deliveries": notifier.connection,
                "of others": connection,
                "none yet": None,
            }[place]
            # All that is tried once is exhausted.
            monkeypatch.setattr("zaqar.notification.retry.BACKOFF_RETRIES", 0)
            harness.post(1)
            notifier.wake()
            await until(lambda: len(hanging) == 2)
            slowest = 0.0
            for n in range(10):
                began = asyncio.get_running_loop().time()
                harness.post(n)
                notifier.wake()
                await until(lambda n=n: len(notifier.messages("s1")) == n + 2)
                slowest = max(slowest, asyncio.get_running_loop().time() - began)
            assert slowest < 1.0
            await until(lambda: notifier.capacity.reserved <= 2)
            assert len(hanging) == 2
            assert (ended, harness.dead_letters) == ([], [])
            silent.set()
            if what == "ends":
                await advance_until(harness, notifier, lambda: len(set(ended)) == 12)
            else:
                await advance_until(harness, notifier, lambda: sum(len(harness.dead(id_)) for id_ in names) == 12 * 11)
                # At least once: a lease that was over meanwhile, by a clock that jumps, makes a second one.
                letters = [document["messages"][0]["body"] for _, _, document in harness.dead_letters]
                posted = {(letter["subscription_id"], letter["message"]["id"]) for letter in letters}
                assert len(posted) == 12 * 11

    try:
        asyncio.run(play())
    finally:
        silent.set()


async def advance_until(harness: Harness, notifier: harnesses.RunningNotifier, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            harness.clock.advance(20)
            notifier.wake()
            await asyncio.sleep(0.02)


# -- no subscriber delays another --------------------------------------------------------------------------------------


def test_subscribers_that_hang_do_not_delay_others() -> None:
    harness = Harness(bounds=Bounds(most=40, most_per_project=30, most_per_target=10))

    async def play() -> None:
        sender = ScriptedSender()
        for n in range(5):
            harness.subscribe(f"h{n}")
            sender.answers[f"h{n}"] = hang
        harness.subscribe("s1")
        async with harness.notifier(sender) as notifier:
            for _ in range(40):
                harness.post(1)
                notifier.wake()
                await asyncio.sleep(0)
            await until(lambda: len(harness.deliveries("s1", DONE)) == 40)
            assert all(sender.under_way[f"h{n}"] for n in range(5))
            assert len(notifier.messages("s1")) == 40
            assert len(notifier.pumps) == 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notifiers, "FINISH_SECONDS", 0.1)
        asyncio.run(play())
    # Deliveries whose attempt was cancelled are free for the next notifier at once.
    for n in range(5):
        assert [(each.owner, each.due <= harness.clock()) for each in harness.waiting(f"h{n}")] == [(None, True)] * 40


@pytest.mark.parametrize(("projects", "receivers", "seconds"), [(3, 100, 600.0), (80, 3, 2.5)], ids=str)
def test_projects_whose_receivers_hang_do_not_delay_others(projects: int, receivers: int, seconds: float) -> None:
    """Neither the take nor the slots are delayed, also for projects that have just begun to subscribe."""
    harness = Harness()

    async def hang_for_a_while(delivery: Delivery) -> Outcome:
        await asyncio.sleep(seconds)
        return SILENT

    async def play() -> None:
        sender = ScriptedSender()
        harness.subscribe("known", project="known")
        async with harness.notifier(sender) as notifier:
            await deliver_in_time(harness, notifier, "known", [])
            for n in range(projects):
                for m in range(receivers):
                    harness.subscribe(f"h{n:03}.{m}", project=f"hostile-{n}")
                    sender.answers[f"h{n:03}.{m}"] = hang_for_a_while
            waited: list[float] = []
            for _ in range(8):
                await deliver_in_time(harness, notifier, "known", waited)
            assert (median(waited) < 1.0, max(waited) < 2.5) == (True, True), waited
            if seconds < 600:
                # Each project has brought one that did not answer.
                await until(lambda: len({sent.subscription[:4] for sent in sender.sent}) > projects, 20)
                await asyncio.sleep(seconds)
            waited.clear()
            for n in range(5):
                harness.subscribe(f"new-{n}", project=f"new-{n}", expires=harness.clock() + 3600)
                await deliver_in_time(harness, notifier, f"new-{n}", waited)
            assert (median(waited) < 1.0, max(waited) < 2.5) == (True, True), waited
            hanging = sender.under_way.total()
            assert hanging >= 20, "the others went on meanwhile"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notifiers, "FINISH_SECONDS", 0.1)
        asyncio.run(play())


async def deliver_in_time(harness: Harness, notifier: harnesses.RunningNotifier, id_: str, waited: list[float]) -> None:
    """Post a message, and note how long it takes to one of the subscribers."""
    before = len(notifier.messages(id_))
    began = asyncio.get_running_loop().time()
    harness.post(1)
    notifier.wake()
    await until(lambda: len(notifier.messages(id_)) > before, 20)
    waited.append(asyncio.get_running_loop().time() - began)


def test_a_target_that_does_not_answer_gets_one_attempt_at_a_time() -> None:
    harness = Harness()

    async def play() -> None:
        sender = ScriptedSender()
        healthy = asyncio.Event()

        async def answer(delivery: Delivery) -> Outcome:
            await asyncio.sleep(0.002)
            return FINE if healthy.is_set() else SILENT

        for id_ in ("s1", "s2"):
            harness.subscribe(id_, host="shared", options={"_retry_policy": {"retries_with_no_delay": 1000}})
            sender.answers[id_] = answer
        async with harness.notifier(sender) as notifier:
            harness.post(*range(30))
            notifier.wake()
            await until(lambda: len(sender.sent) > 5)
            sender.most.clear()
            await until(lambda: len(sender.sent) > 20)
            assert sender.most["shared"] == 1
            healthy.set()
            await until(lambda: len(harness.deliveries("s1", DONE)) == len(harness.deliveries("s2", DONE)) == 30)
            assert 2 < sender.most["shared"] <= 10

    asyncio.run(play())


def test_attempts_at_a_time_are_limited_by_target_and_by_project() -> None:
    harness = Harness(bounds=Bounds(most=12, most_per_project=8, most_per_target=4))

    async def play() -> None:
        sender = ScriptedSender()

        async def answer(delivery: Delivery) -> Outcome:
            await asyncio.sleep(0.002)
            most = max(most_seen[0], sender.under_way.total())
            most_seen[0] = most
            return FINE

        most_seen = [0]
        for n in range(6):
            harness.subscribe(f"s{n}")
            sender.answers[f"s{n}"] = answer
        async with harness.notifier(sender) as notifier:
            harness.post(*range(30))
            notifier.wake()
            await until(lambda: all(len(harness.deliveries(f"s{n}", DONE)) == 30 for n in range(6)))
            assert max(sender.most.values()) <= 4
            assert 4 < most_seen[0] <= 8
            assert len(sender.sent) == 180

    asyncio.run(play())


# -- several notifiers -------------------------------------------------------------------------------------------------


def test_two_notifiers_never_send_the_same_at_a_time(harness: Harness) -> None:
    async def play() -> None:
        sender = ScriptedSender()
        now: set[tuple[str, str]] = set()

        async def answer(delivery: Delivery) -> Outcome:
            key = delivery.subscription_id, delivery.id
            assert key not in now
            now.add(key)
            await asyncio.sleep(0.001)
            now.remove(key)
            return FINE if delivery.tries else BROKEN

        for id_ in ("s1", "s2"):
            harness.subscribe(id_)
            sender.answers[id_] = answer
        async with harness.notifier(sender) as one, harness.notifier(sender) as other:
            for _ in range(50):
                harness.post(1, 2)
                one.wake()
                other.wake()
                await asyncio.sleep(0.001)
            await until(lambda: all(len(harness.deliveries(id_, DONE)) == 100 for id_ in ("s1", "s2")))
            assert len(sender.sent) == 400
            assert one.counts["delivered"] + other.counts["delivered"] == 200

    asyncio.run(play())


def test_the_work_of_a_killed_notifier_is_taken_over(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe()
        dying = ScriptedSender()
        dying.answers["s1"] = hang
        async with harness.notifier(dying) as killed:
            ids = harness.post(1, 2)
            killed.wake()
            await until(lambda: killed.messages())
            killed.connection.cut = True
            async with harness.notifier() as heir:
                await until(lambda: heir.connection.calls["deliveries.take"] >= 2)
                assert not set(killed.messages()) & set(heir.messages())
                harness.clock.advance(6)
                heir.wake()
                await until(lambda: len(harness.deliveries(state=DONE)) == 2)
                assert sorted(heir.messages()) == sorted(ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notifiers, "FINISH_SECONDS", 0.1)
        patch.setattr(notifiers, "HAND_BACK_SECONDS", 0.1)
        asyncio.run(play())


def test_leases_are_extended_during_long_attempts(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.attempts.EXTEND_SECONDS", 0.01)

    async def play() -> None:
        harness.subscribe()
        sender, finish = ScriptedSender(), asyncio.Event()

        async def answer(delivery: Delivery) -> Outcome:
            await finish.wait()
            return FINE

        sender.answers["s1"] = answer
        async with harness.notifier(sender) as notifier, harness.notifier() as other:
            harness.post(1)
            notifier.wake()
            await until(lambda: sender.sent)
            for _ in range(4):
                harness.clock.advance(3)
                await until(lambda: harness.waiting()[0].due == harness.clock() + 6)
                other.wake()
                await asyncio.sleep(0.02)
            assert other.sender.sent == []
            finish.set()
            await until(lambda: harness.deliveries(state=DONE))

    asyncio.run(play())


def test_a_lease_that_was_over_makes_no_second_attempt_in_one_notifier(harness: Harness) -> None:
    """As when the process, or its store, stood still for longer than the lease."""

    async def play() -> None:
        harness.subscribe()
        sender, finish = ScriptedSender(), asyncio.Event()

        async def answer(delivery: Delivery) -> Outcome:
            await finish.wait()
            return FINE

        sender.answers["s1"] = answer
        async with harness.notifier(sender) as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: sender.sent)
            before = harness.waiting()[0].due
            harness.clock.advance(60)
            notifier.wake()
            await until(lambda: harness.waiting()[0].due > before)
            finish.set()
            await until(lambda: harness.deliveries(state=DONE))
            assert len(sender.sent) == 1
            await until(lambda: notifier.capacity.reserved == 0)
            assert not notifier.capacity._targets

    asyncio.run(play())


# -- stores that are away ----------------------------------------------------------------------------------------------


def test_a_store_that_is_away_for_a_while(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    other = MemoryMessageStore()
    queue = Queue("b" * 24, "shop", "other", notify=True)

    async def play() -> None:
        harness.subscribe()
        subscription = replace(harness.subscribe("s2"), id="s3", queue_uid=queue.uid, source=queue.name)
        harness.management.queue_records.create(queue=queue)
        harness.management.subscriptions.create(subscription=subscription, now=harness.clock())
        other.queues.open(queue=queue, now=harness.clock())
        broken = StoreConnection(other)
        async with harness.notifier(None, broken) as notifier:
            broken.cut = True
            notifier.wake()
            await until(lambda: "is away" in caplog.text)
            harness.post(1)
            notifier.wake()
            await until(lambda: harness.deliveries(state=DONE))
            other.messages.post(queue=queue, drafts=[harnesses.Draft(b"1", 60)], client_id="c", now=harness.clock())
            broken.cut = False
            await until(lambda: notifier.messages("s3"))

    asyncio.run(play())
    assert caplog.text.count("is away") == 1
    assert caplog.text.count("is back") == 1


def test_an_outcome_that_cannot_be_written_is_written_later(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe()
        sender, finish = ScriptedSender(), asyncio.Event()

        async def answer(delivery: Delivery) -> Outcome:
            await finish.wait()
            return FINE

        sender.answers["s1"] = answer
        async with harness.notifier(sender) as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: sender.sent)
            notifier.connection.cut = True
            finish.set()
            (pump,) = notifier.pumps
            await until(lambda: pump._attempts.stuck)
            assert notifier.capacity.reserved == 0
            notifier.connection.cut = False
            await until(lambda: harness.deliveries(state=DONE))
            assert len(sender.sent) == 1
            assert notifier.capacity.reserved == 0

    asyncio.run(play())


def test_the_management_store_is_away(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        harness.subscribe()
        harness.post(1, delay=5)
        async with harness.notifier() as notifier:
            notifier.wake()
            await until(lambda: harness.waiting())

            def fail(**_: object) -> Subscription:
                raise StoreUnavailable

            monkeypatch.setattr("zaqar.notification.subscribers.CACHE_SECONDS", 0.0)
            monkeypatch.setattr(harness.management.subscriptions, "get", fail)
            harness.clock.advance(6)
            notifier.wake()
            await until(lambda: notifier.counts["handed back"])
            monkeypatch.undo()
            harness.clock.advance(2)
            notifier.wake()
            await until(lambda: notifier.messages())

    asyncio.run(play())


# -- at rest and at the end --------------------------------------------------------------------------------------------


def test_an_idle_notifier_looks_at_its_interval(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.pump.LOOK_SECONDS", 0.2)

    async def play() -> None:
        harness.subscribe()
        async with harness.notifier() as notifier:
            harness.post(1)
            notifier.wake()
            await until(lambda: harness.deliveries(state=DONE))
            await asyncio.sleep(0.1)
            notifier.connection.calls.clear()
            await asyncio.sleep(0.4)
            assert notifier.connection.calls.total() <= 6
            await until(lambda: set(notifier.connection.calls) == {"outbox.take", "deliveries.take"})

    asyncio.run(play())


def test_a_stop_lets_attempts_end(harness: Harness) -> None:
    async def play() -> None:
        harness.subscribe()
        sender = ScriptedSender()

        async def answer(delivery: Delivery) -> Outcome:
            await asyncio.sleep(0.1)
            return FINE

        sender.answers["s1"] = answer
        async with harness.notifier(sender) as notifier:
            harness.post(*range(20))
            notifier.wake()
            await until(lambda: sender.sent)
        assert sender.closed
        done = len(harness.deliveries(state=DONE))
        assert done == len(sender.sent) > 0
        assert all(each.owner is None for each in harness.waiting())
        assert done + len(harness.waiting()) == 20

    asyncio.run(play())


def test_non_ascii_text_in_a_dead_letter(harness: Harness) -> None:
    async def play() -> None:
        async with harness.notifier(subscribe_with_dead_letters(harness)) as notifier:
            harness.post("žaqar \U0001f4e8")
            await fail_to_the_end(harness, notifier)
        (letter,) = harness.dead_letters
        assert json.dumps(letter).count("\\u017e") == 1

    asyncio.run(play())
