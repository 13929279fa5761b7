# SPDX-License-Identifier: Apache-2.0
"""Notifications of encrypted queues: plain for subscribers and filters, ciphertext in the store."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from tests.unit.notification.scene import BROKEN, QUEUE, SILENT, UID, Scene, ScriptedSender, until
from zaqar.encryption.messages import UNREADABLE_SECONDS, MessageKeys
from zaqar.model import DEAD, Delivery, Draft, is_sealed
from zaqar.notification.senders.base import Outcome
from zaqar.notification.sending import NOT_KEPT, UNREADABLE_PAUSE_SECONDS

KEY, OTHER = bytes(32), bytes(range(32))
NO_RETRIES = {
    "retries_with_no_delay": 0,
    "minimum_delay_retries": 0,
    "maximum_delay_retries": 0,
}


@pytest.fixture
def scene() -> Scene:
    return Scene(keys=MessageKeys([KEY]))


def post(scene: Scene, *bodies: Any, key: bytes = KEY) -> None:
    keys, now = MessageKeys([key]), scene.clock()
    drafts = [
        Draft(keys.seal(json.dumps(body).encode(), queue_uid=UID, project=QUEUE.project, now=now), 300)
        for body in bodies
    ]
    scene.store.messages.post(queue=QUEUE, drafts=drafts, client_id="c", now=now)


class Recorder(ScriptedSender):
    """Notes the bodies that subscribers get."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[tuple[str, Any]] = []

    async def send(self, delivery: Delivery, subscription: Any, *, now: float) -> Outcome:
        self.bodies.append((subscription.id, json.loads(delivery.body)))
        return await super().send(delivery, subscription, now=now)


def kept(scene: Scene, id_: str = "s1") -> list[Delivery]:
    return scene.deliveries(id_)


def test_subscribers_get_plain_bodies_and_the_store_keeps_ciphertext(scene: Scene) -> None:
    scene.subscribe("s1")
    scene.subscribe("s2", options={"filter": {"n": [2]}})
    task = Recorder()

    async def play() -> None:
        async with scene.notifier(task) as notifier:
            post(scene, {"n": 1}, {"n": 2})
            notifier.dispatcher.wake()
            await until(lambda: len(task.bodies) == 3 and not scene.waiting() and not scene.waiting("s2"))

    asyncio.run(play())
    assert sorted(task.bodies, key=str) == [("s1", {"n": 1}), ("s1", {"n": 2}), ("s2", {"n": 2})]
    everything = [*kept(scene), *kept(scene, "s2")]
    assert len(everything) == 3
    assert all(is_sealed(each.body) for each in everything)


@pytest.mark.parametrize(("outcome", "told"), [(BROKEN, NOT_KEPT), (SILENT, "no answer")], ids=["answer", "none"])
def test_what_a_subscriber_answers_is_not_kept(scene: Scene, outcome: Outcome, told: str) -> None:
    """It may repeat the message, and attempts are stored as they are."""
    scene.subscribe(options={"_retry_policy": NO_RETRIES})
    task = Recorder()
    task.answers["s1"] = lambda delivery: outcome

    async def play() -> None:
        async with scene.notifier(task) as notifier:
            post(scene, "secret")
            notifier.dispatcher.wake()
            await until(lambda: any(each.attempts for each in kept(scene)))

    asyncio.run(play())
    (delivery,) = kept(scene)
    assert delivery.attempts[-1].answer == told


def test_a_dead_letter_of_an_encrypted_message_is_encrypted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.retry.BACKOFF_RETRIES", 0)
    scene.subscribe(options={"_retry_policy": NO_RETRIES, "dead_letter_queue": "lost"})
    task = Recorder()
    task.answers["s1"] = lambda delivery: BROKEN

    async def play() -> None:
        async with scene.notifier(task) as notifier:
            scene.post("plain")
            post(scene, "secret")
            notifier.dispatcher.wake()
            await until(lambda: len(scene.dead()) == 2)

    asyncio.run(play())
    letters = [raw["messages"][0]["body"] for _, _, raw in scene.dead_letters]
    assert sorted(letter["message"]["body"] for letter in letters) == ["plain", "secret"]
    assert scene.encrypted_letters == 1
    (letter,) = [letter for letter in letters if letter["message"]["body"] == "secret"]
    assert {attempt["answer"] for attempt in letter["attempts"]} == {NOT_KEPT}


def test_what_cannot_be_decrypted_waits_while_others_go_on(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.subscribe("s1")
    scene.subscribe("s2")
    task = Recorder()

    async def play() -> None:
        async with scene.notifier(task) as notifier:
            post(scene, "lost", key=OTHER)
            post(scene, "kept")
            notifier.dispatcher.wake()
            await until(lambda: len(task.bodies) == 2 and len(scene.waiting()) == len(scene.waiting("s2")) == 1)
            await until(lambda: all(each.attempts for each in scene.waiting()))
            (waiting,) = scene.waiting()
            assert waiting.owner is None
            assert waiting.due == pytest.approx(scene.clock() + UNREADABLE_PAUSE_SECONDS)
            assert waiting.tries == 0
            assert "does not have" in waiting.attempts[-1].answer
            # It is tried again, and again is one entry in the log of the delivery.
            for _ in range(3):
                scene.clock.advance(UNREADABLE_PAUSE_SECONDS)
                notifier.dispatcher.wake()
                await until(lambda: all(each.due > scene.clock() for each in scene.waiting()))
            (waiting,) = scene.waiting()
            assert len(waiting.attempts) == 1
        # A notifier that has the key.
        scene.keys = MessageKeys([KEY, OTHER])
        async with scene.notifier(task) as notifier:
            scene.clock.advance(UNREADABLE_PAUSE_SECONDS)
            notifier.dispatcher.wake()
            await until(lambda: len(task.bodies) == 4)

    with caplog.at_level(logging.ERROR):
        asyncio.run(play())
    assert sorted(body for _, body in task.bodies) == ["kept", "kept", "lost", "lost"]
    assert "cannot be decrypted" in caplog.text


def test_it_does_not_wait_for_ever(scene: Scene) -> None:
    scene.subscribe(expires=scene.clock() + 10**8)
    task = Recorder()

    async def play() -> None:
        async with scene.notifier(task) as notifier:
            post(scene, "lost", key=OTHER)
            notifier.dispatcher.wake()
            await until(lambda: any(each.attempts for each in scene.waiting()))
            scene.clock.advance(UNREADABLE_SECONDS)
            notifier.dispatcher.wake()
            await until(lambda: len(scene.dead()) == 1)

    asyncio.run(play())
    assert task.bodies == []
    # It can be sent again, as others can.
    assert scene.dead()[0].state == DEAD
    assert (
        scene.store.delivery_log.resend(queue_uid=UID, subscription_id="s1", numbers=None, now=scene.clock(), limit=10)
        == 1
    )


def test_a_post_to_filter_waits_for_its_key(scene: Scene) -> None:
    scene.subscribe("s1", options={"filter": {"n": [1]}}, expires=scene.clock() + 10**8)
    task = Recorder()

    async def play() -> None:
        async with scene.notifier(task) as notifier:
            post(scene, {"n": 1}, {"n": 2}, key=OTHER)
            post(scene, {"n": 1})
            notifier.dispatcher.wake()
            await until(lambda: len(task.bodies) == 1)
            await until(lambda: notifier.link.calls["outbox.expand"] >= 2 and not scene.waiting())
            assert [each.number for each in kept(scene)] == [3]
        scene.keys = MessageKeys([KEY, OTHER])
        async with scene.notifier(task) as notifier:
            scene.clock.advance(60)
            notifier.dispatcher.wake()
            await until(lambda: len(task.bodies) == 2)
            await until(lambda: not scene.waiting())

    asyncio.run(play())
    assert [body for _, body in task.bodies] == [{"n": 1}, {"n": 1}]


def test_a_post_to_filter_does_not_wait_for_ever(scene: Scene) -> None:
    """A filter that cannot look lets the message pass: one too many is better than one that never comes."""
    scene.subscribe("s1", options={"filter": {"n": [1]}}, expires=scene.clock() + 10**8)

    async def play() -> None:
        async with scene.notifier(Recorder()) as notifier:
            post(scene, {"n": 2}, key=OTHER)
            scene.clock.advance(UNREADABLE_SECONDS)
            notifier.dispatcher.wake()
            await until(lambda: len(scene.dead()) == 1)

    asyncio.run(play())


def test_a_body_of_another_project_is_not_sent(scene: Scene) -> None:
    scene.subscribe()
    task = Recorder()
    refusal = "the message cannot be decrypted: it belongs to another project"
    foreign = MessageKeys([KEY]).seal(b"1", queue_uid=UID, project="other", now=scene.clock())

    async def play() -> None:
        async with scene.notifier(task) as notifier:
            scene.store.messages.post(queue=QUEUE, drafts=[Draft(foreign, 300)], client_id="c", now=scene.clock())
            notifier.dispatcher.wake()
            await until(lambda: [each.attempts[-1].answer for each in scene.waiting() if each.attempts] == [refusal])

    asyncio.run(play())
    assert task.bodies == []
