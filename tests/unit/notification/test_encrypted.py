# SPDX-License-Identifier: Apache-2.0
"""Notifications of encrypted queues: plain for subscribers and filters, ciphertext in the store."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from tests.unit.notification.harness import BROKEN, QUEUE, SILENT, UID, Harness, ScriptedSender, until
from zaqar.encryption.messages import UNREADABLE_SECONDS, MessageKeys
from zaqar.model import DEAD, Delivery, Draft, is_sealed
from zaqar.notification.senders.base import Outcome
from zaqar.notification.verdicts import NOT_KEPT, UNREADABLE_PAUSE_SECONDS

KEY, OTHER = bytes(32), bytes(range(32))
NO_RETRIES = {
    "retries_with_no_delay": 0,
    "minimum_delay_retries": 0,
    "maximum_delay_retries": 0,
}


@pytest.fixture
def harness() -> Harness:
    return Harness(keys=MessageKeys([KEY]))


def post(harness: Harness, *bodies: Any, key: bytes = KEY) -> None:
    keys, now = MessageKeys([key]), harness.clock()
    drafts = [
        Draft(keys.seal(json.dumps(body).encode(), queue_uid=UID, project=QUEUE.project, now=now), 300)
        for body in bodies
    ]
    harness.store.messages.post(queue=QUEUE, drafts=drafts, client_id="c", now=now)


class Recorder(ScriptedSender):
    """Notes the bodies that subscribers get."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[tuple[str, Any]] = []

    async def send(self, delivery: Delivery, subscription: Any, *, now: float) -> Outcome:
        self.bodies.append((subscription.id, json.loads(delivery.body)))
        return await super().send(delivery, subscription, now=now)


def kept(harness: Harness, id_: str = "s1") -> list[Delivery]:
    return harness.deliveries(id_)


def test_subscribers_get_plain_bodies_and_the_store_keeps_ciphertext(harness: Harness) -> None:
    harness.subscribe("s1")
    harness.subscribe("s2", options={"filter": {"n": [2]}})
    sender = Recorder()

    async def play() -> None:
        async with harness.notifier(sender) as notifier:
            post(harness, {"n": 1}, {"n": 2})
            notifier.wake()
            await until(lambda: len(sender.bodies) == 3 and not harness.waiting() and not harness.waiting("s2"))

    asyncio.run(play())
    assert sorted(sender.bodies, key=str) == [("s1", {"n": 1}), ("s1", {"n": 2}), ("s2", {"n": 2})]
    everything = [*kept(harness), *kept(harness, "s2")]
    assert len(everything) == 3
    assert all(is_sealed(each.body) for each in everything)


@pytest.mark.parametrize(("outcome", "told"), [(BROKEN, NOT_KEPT), (SILENT, "no answer")], ids=["answer", "none"])
def test_the_answer_about_an_encrypted_message_is_not_kept(harness: Harness, outcome: Outcome, told: str) -> None:
    """It may repeat the message, and attempts are stored as they are."""
    harness.subscribe(options={"_retry_policy": NO_RETRIES})
    sender = Recorder()
    sender.answers["s1"] = lambda delivery: outcome

    async def play() -> None:
        async with harness.notifier(sender) as notifier:
            post(harness, "secret")
            notifier.wake()
            await until(lambda: any(each.attempts for each in kept(harness)))

    asyncio.run(play())
    (delivery,) = kept(harness)
    assert delivery.attempts[-1].answer == told


def test_a_dead_letter_of_an_encrypted_message_is_encrypted(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.retry.BACKOFF_RETRIES", 0)
    harness.subscribe(options={"_retry_policy": NO_RETRIES, "dead_letter_queue": "lost"})
    sender = Recorder()
    sender.answers["s1"] = lambda delivery: BROKEN

    async def play() -> None:
        async with harness.notifier(sender) as notifier:
            harness.post("plain")
            post(harness, "secret")
            notifier.wake()
            await until(lambda: len(harness.dead()) == 2)

    asyncio.run(play())
    letters = [raw["messages"][0]["body"] for _, _, raw in harness.dead_letters]
    assert sorted(letter["message"]["body"] for letter in letters) == ["plain", "secret"]
    assert harness.encrypted_letters == 1
    (letter,) = [letter for letter in letters if letter["message"]["body"] == "secret"]
    assert {attempt["answer"] for attempt in letter["attempts"]} == {NOT_KEPT}


def test_a_message_that_cannot_be_decrypted_waits_while_others_go_on(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.subscribe("s1")
    harness.subscribe("s2")
    sender = Recorder()

    async def play() -> None:
        async with harness.notifier(sender) as notifier:
            post(harness, "lost", key=OTHER)
            post(harness, "kept")
            notifier.wake()
            await until(lambda: len(sender.bodies) == 2 and len(harness.waiting()) == len(harness.waiting("s2")) == 1)
            await until(lambda: all(each.attempts for each in harness.waiting()))
            (waiting,) = harness.waiting()
            assert waiting.owner is None
            assert waiting.due == pytest.approx(harness.clock() + UNREADABLE_PAUSE_SECONDS)
            assert waiting.tries == 0
            assert "does not have" in waiting.attempts[-1].answer
            # It is tried again, and again is one entry in the log of the delivery.
            for _ in range(3):
                harness.clock.advance(UNREADABLE_PAUSE_SECONDS)
                notifier.wake()
                await until(lambda: all(each.due > harness.clock() for each in harness.waiting()))
            (waiting,) = harness.waiting()
            assert len(waiting.attempts) == 1
        # A notifier that has the key.
        harness.keys = MessageKeys([KEY, OTHER])
        async with harness.notifier(sender) as notifier:
            harness.clock.advance(UNREADABLE_PAUSE_SECONDS)
            notifier.wake()
            await until(lambda: len(sender.bodies) == 4)

    with caplog.at_level(logging.ERROR):
        asyncio.run(play())
    assert sorted(body for _, body in sender.bodies) == ["kept", "kept", "lost", "lost"]
    assert "cannot be decrypted" in caplog.text


def test_a_message_that_cannot_be_decrypted_is_dead_in_the_end(harness: Harness) -> None:
    harness.subscribe(expires=harness.clock() + 10**8)
    sender = Recorder()

    async def play() -> None:
        async with harness.notifier(sender) as notifier:
            post(harness, "lost", key=OTHER)
            notifier.wake()
            await until(lambda: any(each.attempts for each in harness.waiting()))
            harness.clock.advance(UNREADABLE_SECONDS)
            notifier.wake()
            await until(lambda: len(harness.dead()) == 1)

    asyncio.run(play())
    assert sender.bodies == []
    # It can be sent again, as others can.
    assert harness.dead()[0].state == DEAD
    assert (
        harness.store.delivery_log.resend(
            queue_uid=UID, subscription_id="s1", numbers=None, now=harness.clock(), limit=10
        )
        == 1
    )


def test_a_post_to_filter_waits_for_its_key(harness: Harness) -> None:
    harness.subscribe("s1", options={"filter": {"n": [1]}}, expires=harness.clock() + 10**8)
    sender = Recorder()

    async def play() -> None:
        async with harness.notifier(sender) as notifier:
            post(harness, {"n": 1}, {"n": 2}, key=OTHER)
            post(harness, {"n": 1})
            notifier.wake()
            await until(lambda: len(sender.bodies) == 1)
            await until(lambda: notifier.connection.calls["outbox.expand"] >= 2 and not harness.waiting())
            assert [each.number for each in kept(harness)] == [3]
        harness.keys = MessageKeys([KEY, OTHER])
        async with harness.notifier(sender) as notifier:
            harness.clock.advance(60)
            notifier.wake()
            await until(lambda: len(sender.bodies) == 2)
            await until(lambda: not harness.waiting())

    asyncio.run(play())
    assert [body for _, body in sender.bodies] == [{"n": 1}, {"n": 1}]


def test_a_post_to_filter_does_not_wait_for_ever(harness: Harness) -> None:
    """A filter that cannot look lets the message pass: one too many is better than one that never comes."""
    harness.subscribe("s1", options={"filter": {"n": [1]}}, expires=harness.clock() + 10**8)

    async def play() -> None:
        async with harness.notifier(Recorder()) as notifier:
            post(harness, {"n": 2}, key=OTHER)
            harness.clock.advance(UNREADABLE_SECONDS)
            notifier.wake()
            await until(lambda: len(harness.dead()) == 1)

    asyncio.run(play())


def test_a_body_of_another_project_is_not_sent(harness: Harness) -> None:
    harness.subscribe()
    sender = Recorder()
    refusal = "the message cannot be decrypted: it belongs to another project"
    foreign = MessageKeys([KEY]).seal(b"1", queue_uid=UID, project="other", now=harness.clock())

    async def play() -> None:
        async with harness.notifier(sender) as notifier:
            harness.store.messages.post(queue=QUEUE, drafts=[Draft(foreign, 300)], client_id="c", now=harness.clock())
            notifier.wake()
            await until(lambda: [each.attempts[-1].answer for each in harness.waiting() if each.attempts] == [refusal])

    asyncio.run(play())
    assert sender.bodies == []
