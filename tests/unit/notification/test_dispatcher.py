# SPDX-License-Identifier: Apache-2.0
"""The notifier as a whole, on memory stores: what arrives where, how often, whatever happens in between."""

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

from tests.unit.notification import scene as scenes
from tests.unit.notification.scene import (
    BROKEN,
    FINE,
    GONE,
    SILENT,
    UID,
    Link,
    Scene,
    ScriptedSender,
    handed_back,
    hang,
    until,
)
from zaqar.clock import CLOCKS_APART
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
from zaqar.notification import dispatcher as dispatchers
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
"""What is left are the retries of the backoff phase."""


@pytest.fixture
def scene() -> Scene:
    return Scene()


# -- every message reaches every subscriber ------------------------------------------------------------------------


def test_each_message_reaches_each_subscriber_once(scene: Scene) -> None:
    async def play() -> None:
        for id_ in ("s1", "s2", "s3"):
            scene.subscribe(id_)
        async with scene.notifier() as notifier:
            ids = [id_ for _ in range(20) for id_ in scene.post(1, 2, 3)]
            notifier.dispatcher.wake()
            await until(lambda: all(len(scene.deliveries(id_, DONE)) == 60 for id_ in ("s1", "s2", "s3")))
            for id_ in ("s1", "s2", "s3"):
                assert sorted(notifier.messages(id_)) == sorted(ids)

    asyncio.run(play())


def test_the_log_of_a_delivery(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe()
        async with scene.notifier() as notifier:
            (id_,) = scene.post({"n": 1})
            notifier.dispatcher.wake()
            await until(lambda: scene.deliveries(state=DONE))
            (delivery,) = scene.deliveries()
            assert (delivery.id, delivery.tries, delivery.owner) == (id_, 1, None)
            assert delivery.keep_until == scene.clock() + scene.bounds.retention
            assert [attempt.status for attempt in delivery.attempts] == [204]

    asyncio.run(play())


def test_nothing_is_kept_without_retention() -> None:
    scene = Scene(bounds=Bounds(retention=0.0))

    async def play() -> None:
        scene.subscribe()
        async with scene.notifier() as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: notifier.dispatcher.counts["delivered"])
        assert scene.deliveries() == []

    asyncio.run(play())


def test_without_a_wakeup_socket_work_is_found_by_polling(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe()
        async with scene.notifier() as notifier:
            await until(lambda: notifier.link.calls["deliveries.take"] >= 2)
            scene.post(1)
            await until(lambda: notifier.messages())

    asyncio.run(play())


def test_a_wakeup_wakes_the_notifier(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.pump.LOOK_SECONDS", 600.0)

    async def play() -> None:
        scene.subscribe()
        async with scene.notifier(folder=tmp_path) as notifier:
            await until(lambda: notifier.link.calls["deliveries.take"])
            await asyncio.sleep(0.02)
            scene.post(1)
            WakeupSender(tmp_path).wake()
            await until(lambda: notifier.messages())
        assert not list(tmp_path.iterdir())

    asyncio.run(play())


def test_a_post_without_subscribers_is_forgotten(scene: Scene) -> None:
    async def play() -> None:
        async with scene.notifier() as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: not scene.store.data.outbox)

    asyncio.run(play())


def test_more_deliveries_than_are_stored_in_one_step(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.expansion.PIECE_DELIVERIES", 7)
    monkeypatch.setattr("zaqar.notification.subscribers.READ", 5)

    async def play() -> None:
        names = [f"s{n:02}" for n in range(20)]
        for id_ in names:
            scene.subscribe(id_)
        async with scene.notifier() as notifier:
            scene.post(1, 2)
            notifier.dispatcher.wake()
            await until(lambda: all(len(scene.deliveries(id_, DONE)) == 2 for id_ in names))
            assert len(notifier.task.sent) == 40

    asyncio.run(play())


def test_a_delayed_message_is_not_early(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe()
        async with scene.notifier() as notifier:
            scene.post(1, delay=30)
            scene.post(2)
            notifier.dispatcher.wake()
            await until(lambda: scene.deliveries(state=DONE) and scene.waiting())
            for seconds in (10, 19.5):
                scene.clock.advance(seconds)
                notifier.dispatcher.wake()
                await asyncio.sleep(0.05)
                assert len(notifier.task.sent) == 1
            scene.clock.advance(0.5)
            notifier.dispatcher.wake()
            await until(lambda: len(notifier.task.sent) == 2)

    asyncio.run(play())


def test_a_filter(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe("s1", options={"filter": {"kind": ["order"]}})
        scene.subscribe("s2")
        async with scene.notifier() as notifier:
            wanted = scene.post({"kind": "order"}, {"kind": "refund"}, "text")[0]
            notifier.dispatcher.wake()
            await until(lambda: len(scene.deliveries("s2", DONE)) == 3)
            assert notifier.messages("s1") == [wanted]
            assert len(scene.deliveries("s1")) == 1

    asyncio.run(play())


# -- who is to get messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "required", "gets"),
    [(PENDING, False, True), (PENDING, True, False), (REFUSED, False, False), (REFUSED, True, False)],
)
def test_unconfirmed_subscriptions(state: str, required: bool, gets: bool) -> None:
    scene = Scene(bounds=Bounds(require_confirmation=required))

    async def play() -> None:
        scene.subscribe("s1", state=state)
        scene.subscribe("s2")
        async with scene.notifier() as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: scene.deliveries("s2", DONE))
            assert bool(scene.deliveries("s1")) == gets

    asyncio.run(play())


@pytest.mark.parametrize("how", ["deleted", "expired", "refused"])
def test_a_subscription_that_ends_in_between(scene: Scene, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.subscribers.REMEMBER_SECONDS", 0.0)

    async def play() -> None:
        subscription = scene.subscribe(expires=scene.clock() + 65)
        scene.post(1, delay=60)
        async with scene.notifier() as notifier:
            notifier.dispatcher.wake()
            await until(lambda: scene.waiting())
            if how == "deleted":
                scene.end(subscription)
            elif how == "refused":
                changed = replace(subscription, state=REFUSED, version=2)
                assert scene.management.subscriptions.replace(subscription=changed, now=scene.clock())
            scene.clock.advance(66)
            notifier.dispatcher.wake()
            await until(lambda: not scene.deliveries())
            assert notifier.task.sent == []
            assert notifier.dispatcher.counts["discarded"] == 1

    asyncio.run(play())


def test_deliveries_of_a_subscription_that_is_gone_are_not_looked_at_one_by_one(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe("s1")
        now = scene.clock()
        for number in range(1, 2001):
            scene.store.deliveries.put(delivery=Delivery(UID, "gone", number, b"1", 300, now - 9, "c", now - 9))
        scene.store.deliveries.put(delivery=Delivery(UID, "s1", 1, b"1", 300, now, "c", now))
        looked_up: list[str] = []
        get = scene.management.subscriptions.get

        def count(**arguments: Any) -> Subscription | None:
            looked_up.append(arguments["subscription_id"])
            return get(**arguments)

        scene.management.subscriptions.get = count  # type: ignore[method-assign]
        async with scene.notifier() as notifier:
            await until(lambda: notifier.messages() and not scene.deliveries("gone"))
            assert looked_up.count("gone") <= 20
            assert notifier.link.calls["delivery_log.drop"] == 1
            assert notifier.link.calls["deliveries.take"] <= 20
            # One that is stored much later, by whoever was asleep for so long.
            scene.clock.advance(DROPPED_LIFETIME)
            while scene.store.sweep(now=scene.clock(), limit=1000):
                pass
            scene.store.deliveries.put(delivery=Delivery(UID, "gone", 1, b"1", 300, now, "c", now))
            notifier.dispatcher.wake()
            await until(lambda: not scene.deliveries("gone"))

    asyncio.run(play())


@pytest.mark.parametrize("how", ["refused", "expired by this clock"])
def test_one_that_may_come_back_is_not_dropped(scene: Scene, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with a slower clock may just have given it more time; a refused one can be confirmed."""
    monkeypatch.setattr("zaqar.notification.subscribers.REMEMBER_SECONDS", 0.0)

    async def play() -> None:
        if how == "refused":
            scene.subscribe("s1", state=REFUSED)
        else:
            scene.subscribe("s1", expires=scene.clock() + CLOCKS_APART)
            scene.clock.advance(2 * CLOCKS_APART - 1)
        now = scene.clock()
        for number in range(1, 31):
            scene.store.deliveries.put(delivery=Delivery(UID, "s1", number, b"1", 300, now, "c", now))
        async with scene.notifier() as notifier:
            await until(lambda: not scene.deliveries("s1"))
            assert notifier.messages() == []
            assert notifier.link.calls["delivery_log.drop"] == 0
            if how != "refused":
                scene.store.deliveries.put(delivery=Delivery(UID, "s1", 77, b"1", 300, now, "c", now))
                scene.clock.advance(1)
                notifier.dispatcher.wake()
                await until(lambda: notifier.link.calls["delivery_log.drop"])

    asyncio.run(play())


def test_what_is_remembered_discards_nothing() -> None:
    """Another notifier has made the delivery after the confirmation that this one has not heard of."""
    scene = Scene(bounds=Bounds(require_confirmation=True))

    async def play() -> None:
        subscription = scene.subscribe(state=PENDING)
        async with scene.notifier() as notifier:
            subscribers = notifier.dispatcher._subscribers
            assert await subscribers.get(UID, "s1") == subscription
            confirmed = replace(subscription, state="confirmed", version=2)
            assert scene.management.subscriptions.replace(subscription=confirmed, now=scene.clock())
            scene.store.deliveries.put(delivery=Delivery(UID, "s1", 7, b"7", 300, scene.clock(), "c", scene.clock()))
            notifier.dispatcher.wake()
            await until(lambda: scene.deliveries(state=DONE))
            assert len(notifier.messages()) == 1

    asyncio.run(play())


def test_a_confirmation_is_sent_while_it_is_wanted() -> None:
    scene = Scene(bounds=Bounds(require_confirmation=True))

    async def play() -> None:
        scene.subscribe("s1", state=PENDING)
        scene.subscribe("s2")
        async with scene.notifier() as notifier:
            for id_ in ("s1", "s2"):
                asked = Delivery(
                    UID, id_, 0, b"{}", 300, scene.clock(), "", scene.clock(), kind=SUBSCRIPTION_CONFIRMATION
                )
                scene.store.deliveries.put(delivery=asked)
            notifier.dispatcher.wake()
            await until(lambda: scene.deliveries("s1", DONE) and not scene.deliveries("s2"))
            assert [sent.subscription for sent in notifier.task.sent] == ["s1"]

    asyncio.run(play())


# -- failures --------------------------------------------------------------------------------------------------------


def test_retries(scene: Scene) -> None:
    """Three at once, then after the minimum delay; what is waited for is stored."""

    async def play() -> None:
        scene.subscribe()
        task = ScriptedSender()
        task.answers["s1"] = lambda delivery: BROKEN if delivery.tries < 5 else FINE
        async with scene.notifier(task) as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: scene.waiting() and scene.waiting()[0].tries == 4)
            (delivery,) = scene.waiting()
            assert delivery.owner is None
            assert scene.clock() + 5 <= delivery.due <= scene.clock() + 5.5
            notifier.dispatcher.wake()
            await asyncio.sleep(0.05)
            assert len(task.sent) == 4
            for tries in (5, 6):
                scene.clock.advance(6)
                notifier.dispatcher.wake()
                await until(lambda tries=tries: scene.deliveries()[0].tries == tries)
            (delivery,) = scene.deliveries(state=DONE)
            assert [attempt.status for attempt in delivery.attempts] == [500] * 5 + [204]
            assert len(set(notifier.messages())) == 1

    asyncio.run(play())


def test_a_subscriber_that_asks_for_patience(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe()
        task = ScriptedSender()
        task.answers["s1"] = lambda delivery: Outcome(False, 503, "", retry_after=120.0)
        async with scene.notifier(task) as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: scene.waiting() and scene.waiting()[0].tries == 1)
            assert scene.waiting()[0].due == scene.clock() + 120

    asyncio.run(play())


@pytest.mark.parametrize("policy", [{}, {"retries_with_no_delay": 1000}])
def test_delays_of_a_task_come_in_place_of_the_policy(scene: Scene, policy: dict[str, int]) -> None:
    async def play() -> None:
        scene.subscribe(expires=1e12, options={"_retry_policy": policy})
        task = ScriptedSender()
        task.delays = (300.0, 7200.0)
        task.answers["s1"] = lambda delivery: Outcome(False, None, "450 not now")
        async with scene.notifier(task) as notifier:
            scene.post(1)
            for tries, delay in enumerate((300.0, 7200.0), 1):
                notifier.dispatcher.wake()
                await until(lambda tries=tries: scene.waiting() and scene.waiting()[0].tries == tries)
                assert scene.waiting()[0].due == pytest.approx(scene.clock() + delay, abs=delay * 0.1)
                scene.clock.advance(delay * 1.11)
            notifier.dispatcher.wake()
            await until(lambda: scene.dead())
            assert scene.dead()[0].tries == 3

    asyncio.run(play())


def test_what_is_refused_for_good_is_dead_at_once(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe(options={"dead_letter_queue": "lost"})
        task = ScriptedSender()
        task.answers["s1"] = lambda delivery: Outcome(False, None, "550 no such user", final=True)
        async with scene.notifier(task) as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: scene.dead())
            assert [attempt.answer for attempt in scene.dead()[0].attempts] == ["550 no such user"]
        assert len(scene.dead_letters) == 1

    asyncio.run(play())


async def let_time_pass(scene: Scene, notifier: scenes.Notifier) -> None:
    """A minute, unless a delivery is leased: it would be free by this clock, and be sent twice."""
    if all(delivery.owner is None for delivery in scene.waiting()):
        scene.clock.advance(60)
    notifier.dispatcher.wake()
    await asyncio.sleep(0.01)


async def fail_to_the_end(scene: Scene, notifier: scenes.Notifier, settled: str = "dead") -> None:
    while not notifier.dispatcher.counts[settled]:
        await let_time_pass(scene, notifier)


@pytest.mark.parametrize("whose", ["queue", "subscription"])
def test_dead_after_the_last_attempt(scene: Scene, whose: str, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        policy = {"_retry_policy": NO_RETRIES}
        if whose == "queue":
            scene.management.queue_records.replace(queue=replace(scenes.QUEUE, metadata=policy, generation=2))
        scene.subscribe(options=policy if whose == "subscription" else {})
        task = ScriptedSender()
        task.answers["s1"] = lambda delivery: BROKEN
        async with scene.notifier(task) as notifier:
            (id_,) = scene.post(1)
            await fail_to_the_end(scene, notifier)
            await until(lambda: scene.dead())
            (dead,) = scene.dead()
            assert dead.tries == len(dead.attempts) == 11
            assert dead.keep_until == pytest.approx(scene.clock() + scene.bounds.retention, abs=120)
            assert f"Delivery {id_} to subscription s1 of 'orders' is dead after 11 attempts" in caplog.text

    with caplog.at_level(logging.INFO):
        asyncio.run(play())


def test_only_the_latest_attempts_are_kept(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe(options={"_retry_policy": {"retries_with_no_delay": 30}})
        task = ScriptedSender()
        task.answers["s1"] = lambda delivery: Outcome(False, 500, str(delivery.tries + 1))
        async with scene.notifier(task) as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: scene.waiting() and scene.waiting()[0].tries == 31)
            assert [attempt.answer for attempt in scene.waiting()[0].attempts] == [str(n) for n in range(12, 32)]

    asyncio.run(play())


def test_gone_ends_the_subscription(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe()
        task = ScriptedSender()
        task.answers["s1"] = lambda delivery: GONE
        async with scene.notifier(task) as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: notifier.dispatcher.counts["discarded"])
            scene.post(2)
            notifier.dispatcher.wake()
            await until(lambda: not scene.store.data.outbox and not scene.deliveries())
            assert len(task.sent) == 1
        assert scene.management.subscriptions.get(queue_uid=UID, subscription_id="s1", now=scene.clock()) is None

    asyncio.run(play())


def test_a_plug_in_with_a_bug_is_a_failed_attempt(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    def answer(delivery: Delivery) -> Outcome:
        raise KeyError("secret")

    async def play() -> None:
        scene.subscribe("s1", subscriber="http://s1/")
        scene.subscribe("s2", subscriber="http:s2")  # has no host
        scene.subscribe("s3", subscriber="gopher://s3/")
        scene.subscribe("s4")
        task = ScriptedSender()
        task.answers["s1"] = answer
        async with scene.notifier(task) as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: scene.deliveries("s4", DONE))
            await until(lambda: all(scene.deliveries(id_)[0].tries == 4 for id_ in ("s1", "s2", "s3")))
            answers = {scene.waiting(id_)[0].attempts[-1].answer for id_ in ("s1", "s2", "s3")}
            assert answers == {
                "error of the notifier: KeyError",
                "error of the notifier: IndexError",
                "this notifier cannot send to 'gopher:'",
            }

    asyncio.run(play())


# -- dead letters ----------------------------------------------------------------------------------------------------


def subscribe_with_dead_letters(scene: Scene) -> ScriptedSender:
    scene.subscribe(options={"_retry_policy": NO_RETRIES, "dead_letter_queue": "lost"})
    task = ScriptedSender()
    task.answers["s1"] = lambda delivery: BROKEN
    return task


def test_dead_letters(scene: Scene) -> None:
    async def play() -> None:
        async with scene.notifier(subscribe_with_dead_letters(scene)) as notifier:
            (id_,) = scene.post({"n": 1})
            await fail_to_the_end(scene, notifier)
            await until(lambda: scene.dead())
        ((project, queue, document),) = scene.dead_letters
        assert (project, queue) == ("shop", "lost")
        (message,) = document["messages"]
        letter = message["body"]
        assert (letter["subscription_id"], letter["queue_name"]) == ("s1", "orders")
        assert letter["subscriber"] == "http://s1/s1"
        assert (letter["message"]["id"], letter["message"]["body"]) == (id_, {"n": 1})
        assert [attempt["status"] for attempt in letter["attempts"]] == [500] * 5

    asyncio.run(play())


def test_a_dead_letter_makes_no_other(scene: Scene) -> None:
    async def play() -> None:
        async with scene.notifier(subscribe_with_dead_letters(scene)) as notifier:
            scene.post(1, client_id=CLIENT_ID)
            await fail_to_the_end(scene, notifier)
        assert len(scene.dead()) == 1
        assert scene.dead_letters == []

    asyncio.run(play())


def test_a_dead_letter_queue_that_refuses(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.refusal = InvalidInput("messages", "too large")

    async def play() -> None:
        async with scene.notifier(subscribe_with_dead_letters(scene)) as notifier:
            scene.post(1)
            await fail_to_the_end(scene, notifier)
        assert len(scene.dead()) == 1
        assert "The dead letter queue 'lost' of subscription s1 refused: messages: too large" in caplog.text

    asyncio.run(play())


def test_a_dead_letter_queue_that_is_away(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The letter waits, and the subscriber is left alone: it has had all its attempts."""
    monkeypatch.setattr("zaqar.notification.calls.FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("zaqar.notification.calls.MOST_PAUSE_SECONDS", 0.02)
    scene.refusal = StoreUnavailable()

    async def play() -> None:
        async with scene.notifier(subscribe_with_dead_letters(scene)) as notifier:
            scene.post(1)
            while notifier.dispatcher.counts["put off"] < 20:
                scene.clock.advance(60)
                notifier.dispatcher.wake()
                await asyncio.sleep(0.01)
            assert len(notifier.task.sent) == 11
            assert scene.dead_letters == []
            scene.refusal = None
            await fail_to_the_end(scene, notifier)
            await until(lambda: scene.dead())
            assert len(notifier.task.sent) == 11
        assert len(scene.dead()) == len(scene.dead_letters) == 1
        ((_, _, document),) = scene.dead_letters
        assert len(document["messages"][0]["body"]["attempts"]) == 5

    asyncio.run(play())


def test_many_dead_letters_that_wait_are_little_work(scene: Scene) -> None:
    """The pause grows with the time since the last attempt, up to a bound."""
    scene.refusal = StoreUnavailable()

    async def play() -> None:
        async with scene.notifier(subscribe_with_dead_letters(scene)) as notifier:
            scene.post(1)
            while len(notifier.task.sent) < 11:
                await let_time_pass(scene, notifier)
            pauses = []
            for _ in range(6):
                pauses.append((await handed_back(scene)).due - scene.clock())
                scene.clock.advance(pauses[-1])
                put_off = notifier.dispatcher.counts["put off"]
                notifier.dispatcher.wake()
                await until(lambda put_off=put_off: notifier.dispatcher.counts["put off"] > put_off)
            assert pauses == [5, 5, 10, 20, 40, 60]
            assert len(notifier.task.sent) == 11

    asyncio.run(play())


@pytest.mark.parametrize("what", ["dead letters", "ends"])
@pytest.mark.parametrize("place", ["of the deliveries", "of others", "none yet"])
def test_a_silent_store_that_takes_dead_letters_holds_up_nobody(
    scene: Scene, what: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do ends of subscriptions, which change the queue on its store: neither threads nor slots are taken."""
    silent = threading.Event()
    monkeypatch.setattr("zaqar.notification.calls.SLOW_SECONDS", 0.1)
    monkeypatch.setattr("zaqar.notification.calls.FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("zaqar.notification.calls.MOST_PAUSE_SECONDS", 0.05)
    # What each delivery asks of the management store must not wait behind it.
    monkeypatch.setattr("zaqar.notification.subscribers.REMEMBER_SECONDS", 0.0)
    ended: list[str] = []
    hanging: list[str] = []
    end, post_letter = scene.end, scene.post_dead_letter

    def hang_then_end(subscription: Subscription) -> None:
        hanging.append(subscription.id)
        silent.wait(30)
        end(subscription)
        ended.append(subscription.id)

    def hang_then_post(project: str, queue: str, raw: bytes, *, encrypt: bool) -> None:
        hanging.append(queue)
        silent.wait(30)
        post_letter(project, queue, raw, encrypt=encrypt)

    scene.end, scene.post_dead_letter = hang_then_end, hang_then_post  # type: ignore[method-assign]
    names = [f"d{n}" for n in range(12)]

    async def play() -> None:
        options: dict[str, Any] = {"_retry_policy": NO_RETRIES, "dead_letter_queue": "lost"}
        task = ScriptedSender()
        outcome = GONE if what == "ends" else BROKEN
        if what == "ends":
            del options["dead_letter_queue"]
        for id_ in names:
            scene.subscribe(id_, options=options, expires=scene.clock() + 10**6)
            task.answers[id_] = lambda delivery: outcome
        scene.subscribe("s1", project="other", expires=scene.clock() + 10**6)
        link = Link(MemoryMessageStore())
        async with scene.notifier(task, link) as notifier:
            scene.store_of_letters = {"of the deliveries": notifier.link, "of others": link, "none yet": None}[place]
            # All that is tried once is exhausted.
            monkeypatch.setattr("zaqar.notification.retry.BACKOFF_RETRIES", 0)
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: len(hanging) == 2)
            slowest = 0.0
            for n in range(10):
                began = asyncio.get_running_loop().time()
                scene.post(n)
                notifier.dispatcher.wake()
                await until(lambda n=n: len(notifier.messages("s1")) == n + 2)
                slowest = max(slowest, asyncio.get_running_loop().time() - began)
            assert slowest < 1.0
            await until(lambda: notifier.dispatcher._capacity.in_hand <= 2)
            assert len(hanging) == 2
            assert (ended, scene.dead_letters) == ([], [])
            silent.set()
            if what == "ends":
                await advance_until(scene, notifier, lambda: len(set(ended)) == 12)
            else:
                await advance_until(scene, notifier, lambda: sum(len(scene.dead(id_)) for id_ in names) == 12 * 11)
                # At least once: a lease that was over meanwhile, by a clock that jumps, makes a second one.
                letters = [document["messages"][0]["body"] for _, _, document in scene.dead_letters]
                posted = {(letter["subscription_id"], letter["message"]["id"]) for letter in letters}
                assert len(posted) == 12 * 11

    try:
        asyncio.run(play())
    finally:
        silent.set()


async def advance_until(scene: Scene, notifier: scenes.Notifier, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            scene.clock.advance(20)
            notifier.dispatcher.wake()
            await asyncio.sleep(0.02)


# -- no subscriber delays another --------------------------------------------------------------------------------------


def test_subscribers_that_hang_hold_up_nobody() -> None:
    scene = Scene(bounds=Bounds(most=40, most_per_project=30, most_per_target=10))

    async def play() -> None:
        task = ScriptedSender()
        for n in range(5):
            scene.subscribe(f"h{n}")
            task.answers[f"h{n}"] = hang
        scene.subscribe("s1")
        async with scene.notifier(task) as notifier:
            for _ in range(40):
                scene.post(1)
                notifier.dispatcher.wake()
                await asyncio.sleep(0)
            await until(lambda: len(scene.deliveries("s1", DONE)) == 40)
            assert all(task.under_way[f"h{n}"] for n in range(5))
            assert len(notifier.messages("s1")) == 40
            assert len(notifier.dispatcher._pumps) == 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatchers, "FINISH_SECONDS", 0.1)
        asyncio.run(play())
    # What was broken off is free for the next notifier at once.
    for n in range(5):
        assert [(each.owner, each.due <= scene.clock()) for each in scene.waiting(f"h{n}")] == [(None, True)] * 40


@pytest.mark.parametrize(("projects", "receivers", "seconds"), [(3, 100, 600.0), (80, 3, 2.5)], ids=str)
def test_projects_whose_receivers_hang_hold_up_no_other(projects: int, receivers: int, seconds: float) -> None:
    """Neither at the taking of deliveries nor at the slots; also those that have just begun to subscribe."""
    scene = Scene()

    async def hang_for_a_while(delivery: Delivery) -> Outcome:
        await asyncio.sleep(seconds)
        return SILENT

    async def play() -> None:
        task = ScriptedSender()
        scene.subscribe("known", project="known")
        async with scene.notifier(task) as notifier:
            await deliver_in_time(scene, notifier, "known", [])
            for n in range(projects):
                for m in range(receivers):
                    scene.subscribe(f"h{n:03}.{m}", project=f"hostile-{n}")
                    task.answers[f"h{n:03}.{m}"] = hang_for_a_while
            waited: list[float] = []
            for _ in range(8):
                await deliver_in_time(scene, notifier, "known", waited)
            assert (median(waited) < 1.0, max(waited) < 2.5) == (True, True), waited
            if seconds < 600:
                # Each project has brought one that did not answer.
                await until(lambda: len({sent.subscription[:4] for sent in task.sent}) > projects, 20)
                await asyncio.sleep(seconds)
            waited.clear()
            for n in range(5):
                scene.subscribe(f"new-{n}", project=f"new-{n}", expires=scene.clock() + 3600)
                await deliver_in_time(scene, notifier, f"new-{n}", waited)
            assert (median(waited) < 1.0, max(waited) < 2.5) == (True, True), waited
            hanging = task.under_way.total()
            assert hanging >= 20, "the others went on meanwhile"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatchers, "FINISH_SECONDS", 0.1)
        asyncio.run(play())


async def deliver_in_time(scene: Scene, notifier: scenes.Notifier, id_: str, waited: list[float]) -> None:
    """Post a message, and note how long it takes to one of the subscribers."""
    before = len(notifier.messages(id_))
    began = asyncio.get_running_loop().time()
    scene.post(1)
    notifier.dispatcher.wake()
    await until(lambda: len(notifier.messages(id_)) > before, 20)
    waited.append(asyncio.get_running_loop().time() - began)


def test_a_target_that_does_not_answer_gets_one_attempt_at_a_time() -> None:
    scene = Scene()

    async def play() -> None:
        task = ScriptedSender()
        healthy = asyncio.Event()

        async def answer(delivery: Delivery) -> Outcome:
            await asyncio.sleep(0.002)
            return FINE if healthy.is_set() else SILENT

        for id_ in ("s1", "s2"):
            scene.subscribe(id_, host="shared", options={"_retry_policy": {"retries_with_no_delay": 1000}})
            task.answers[id_] = answer
        async with scene.notifier(task) as notifier:
            scene.post(*range(30))
            notifier.dispatcher.wake()
            await until(lambda: len(task.sent) > 5)
            task.most.clear()
            await until(lambda: len(task.sent) > 20)
            assert task.most["shared"] == 1
            healthy.set()
            await until(lambda: len(scene.deliveries("s1", DONE)) == len(scene.deliveries("s2", DONE)) == 30)
            assert 2 < task.most["shared"] <= 10

    asyncio.run(play())


def test_bounds() -> None:
    scene = Scene(bounds=Bounds(most=12, most_per_project=8, most_per_target=4))

    async def play() -> None:
        task = ScriptedSender()

        async def answer(delivery: Delivery) -> Outcome:
            await asyncio.sleep(0.002)
            most = max(most_seen[0], task.under_way.total())
            most_seen[0] = most
            return FINE

        most_seen = [0]
        for n in range(6):
            scene.subscribe(f"s{n}")
            task.answers[f"s{n}"] = answer
        async with scene.notifier(task) as notifier:
            scene.post(*range(30))
            notifier.dispatcher.wake()
            await until(lambda: all(len(scene.deliveries(f"s{n}", DONE)) == 30 for n in range(6)))
            assert max(task.most.values()) <= 4
            assert 4 < most_seen[0] <= 8
            assert len(task.sent) == 180

    asyncio.run(play())


# -- several notifiers -------------------------------------------------------------------------------------------------


def test_two_notifiers_never_send_the_same_at_a_time(scene: Scene) -> None:
    async def play() -> None:
        task = ScriptedSender()
        now: set[tuple[str, str]] = set()

        async def answer(delivery: Delivery) -> Outcome:
            key = delivery.subscription_id, delivery.id
            assert key not in now
            now.add(key)
            await asyncio.sleep(0.001)
            now.remove(key)
            return FINE if delivery.tries else BROKEN

        for id_ in ("s1", "s2"):
            scene.subscribe(id_)
            task.answers[id_] = answer
        async with scene.notifier(task) as one, scene.notifier(task) as other:
            for _ in range(50):
                scene.post(1, 2)
                one.dispatcher.wake()
                other.dispatcher.wake()
                await asyncio.sleep(0.001)
            await until(lambda: all(len(scene.deliveries(id_, DONE)) == 100 for id_ in ("s1", "s2")))
            assert len(task.sent) == 400
            assert one.dispatcher.counts["delivered"] + other.dispatcher.counts["delivered"] == 200

    asyncio.run(play())


def test_the_work_of_a_killed_notifier_is_taken_over(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe()
        dying = ScriptedSender()
        dying.answers["s1"] = hang
        async with scene.notifier(dying) as killed:
            ids = scene.post(1, 2)
            killed.dispatcher.wake()
            await until(lambda: killed.messages())
            killed.link.cut = True
            async with scene.notifier() as heir:
                await until(lambda: heir.link.calls["deliveries.take"] >= 2)
                assert not set(killed.messages()) & set(heir.messages())
                scene.clock.advance(6)
                heir.dispatcher.wake()
                await until(lambda: len(scene.deliveries(state=DONE)) == 2)
                assert sorted(heir.messages()) == sorted(ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatchers, "FINISH_SECONDS", 0.1)
        patch.setattr(dispatchers, "HAND_BACK_SECONDS", 0.1)
        asyncio.run(play())


def test_leases_of_what_takes_long_are_extended(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.jobs.EXTEND_SECONDS", 0.01)

    async def play() -> None:
        scene.subscribe()
        task, finish = ScriptedSender(), asyncio.Event()

        async def answer(delivery: Delivery) -> Outcome:
            await finish.wait()
            return FINE

        task.answers["s1"] = answer
        async with scene.notifier(task) as notifier, scene.notifier() as other:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: task.sent)
            for _ in range(4):
                scene.clock.advance(3)
                await until(lambda: scene.waiting()[0].due == scene.clock() + 6)
                other.dispatcher.wake()
                await asyncio.sleep(0.02)
            assert other.task.sent == []
            finish.set()
            await until(lambda: scene.deliveries(state=DONE))

    asyncio.run(play())


def test_a_lease_that_was_over_makes_no_second_attempt_in_one_notifier(scene: Scene) -> None:
    """As when the process, or its store, stood still for longer than the lease."""

    async def play() -> None:
        scene.subscribe()
        task, finish = ScriptedSender(), asyncio.Event()

        async def answer(delivery: Delivery) -> Outcome:
            await finish.wait()
            return FINE

        task.answers["s1"] = answer
        async with scene.notifier(task) as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: task.sent)
            before = scene.waiting()[0].due
            scene.clock.advance(60)
            notifier.dispatcher.wake()
            await until(lambda: scene.waiting()[0].due > before)
            finish.set()
            await until(lambda: scene.deliveries(state=DONE))
            assert len(task.sent) == 1
            await until(lambda: notifier.dispatcher._capacity._in_hand == 0)
            assert not notifier.dispatcher._capacity._targets

    asyncio.run(play())


# -- stores that are away ----------------------------------------------------------------------------------------------


def test_a_store_that_is_away_for_a_while(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    other = MemoryMessageStore()
    queue = Queue("b" * 24, "shop", "other", notify=True)

    async def play() -> None:
        scene.subscribe()
        subscription = replace(scene.subscribe("s2"), id="s3", queue_uid=queue.uid, source=queue.name)
        scene.management.queue_records.create(queue=queue)
        scene.management.subscriptions.create(subscription=subscription, now=scene.clock())
        other.queues.open(queue=queue, now=scene.clock())
        broken = Link(other)
        async with scene.notifier(None, broken) as notifier:
            broken.cut = True
            notifier.dispatcher.wake()
            await until(lambda: "is away" in caplog.text)
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: scene.deliveries(state=DONE))
            other.messages.post(queue=queue, drafts=[scenes.Draft(b"1", 60)], client_id="c", now=scene.clock())
            broken.cut = False
            await until(lambda: notifier.messages("s3"))

    asyncio.run(play())
    assert caplog.text.count("is away") == 1
    assert caplog.text.count("is back") == 1


def test_an_outcome_that_cannot_be_written_is_written_later(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe()
        task, finish = ScriptedSender(), asyncio.Event()

        async def answer(delivery: Delivery) -> Outcome:
            await finish.wait()
            return FINE

        task.answers["s1"] = answer
        async with scene.notifier(task) as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: task.sent)
            notifier.link.cut = True
            finish.set()
            (pump,) = [pump for pump, _ in notifier.dispatcher._pumps.values()]
            await until(lambda: pump._jobs.stuck)
            assert notifier.dispatcher._capacity._in_hand == 0
            notifier.link.cut = False
            await until(lambda: scene.deliveries(state=DONE))
            assert len(task.sent) == 1
            assert notifier.dispatcher._capacity._in_hand == 0

    asyncio.run(play())


def test_the_management_store_is_away(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        scene.subscribe()
        scene.post(1, delay=5)
        async with scene.notifier() as notifier:
            notifier.dispatcher.wake()
            await until(lambda: scene.waiting())

            def fail(**_: object) -> Subscription:
                raise StoreUnavailable

            monkeypatch.setattr("zaqar.notification.subscribers.REMEMBER_SECONDS", 0.0)
            monkeypatch.setattr(scene.management.subscriptions, "get", fail)
            scene.clock.advance(6)
            notifier.dispatcher.wake()
            await until(lambda: notifier.dispatcher.counts["handed back"])
            monkeypatch.undo()
            scene.clock.advance(2)
            notifier.dispatcher.wake()
            await until(lambda: notifier.messages())

    asyncio.run(play())


# -- at rest and at the end --------------------------------------------------------------------------------------------


def test_an_idle_notifier_looks_at_its_interval(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.pump.LOOK_SECONDS", 0.2)

    async def play() -> None:
        scene.subscribe()
        async with scene.notifier() as notifier:
            scene.post(1)
            notifier.dispatcher.wake()
            await until(lambda: scene.deliveries(state=DONE))
            await asyncio.sleep(0.1)
            notifier.link.calls.clear()
            await asyncio.sleep(0.4)
            assert notifier.link.calls.total() <= 6
            await until(lambda: set(notifier.link.calls) == {"outbox.take", "deliveries.take"})

    asyncio.run(play())


def test_stop_lets_what_is_under_way_end(scene: Scene) -> None:
    async def play() -> None:
        scene.subscribe()
        task = ScriptedSender()

        async def answer(delivery: Delivery) -> Outcome:
            await asyncio.sleep(0.1)
            return FINE

        task.answers["s1"] = answer
        async with scene.notifier(task) as notifier:
            scene.post(*range(20))
            notifier.dispatcher.wake()
            await until(lambda: task.sent)
        assert task.closed
        done = len(scene.deliveries(state=DONE))
        assert done == len(task.sent) > 0
        assert all(each.owner is None for each in scene.waiting())
        assert done + len(scene.waiting()) == 20

    asyncio.run(play())


def test_a_message_of_text_that_is_no_ascii_in_a_dead_letter(scene: Scene) -> None:
    async def play() -> None:
        async with scene.notifier(subscribe_with_dead_letters(scene)) as notifier:
            scene.post("žaqar \U0001f4e8")
            await fail_to_the_end(scene, notifier)
        (letter,) = scene.dead_letters
        assert json.dumps(letter).count("\\u017e") == 1

    asyncio.run(play())
