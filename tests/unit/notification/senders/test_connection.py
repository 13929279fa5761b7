# SPDX-License-Identifier: Apache-2.0
"""Deliveries to WebSocket connections: how an attempt ends, whatever becomes of the process that holds them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.ipc.push_protocol import Push, Status
from zaqar.model import CONFIRMED, UNSUBSCRIBE_CONFIRMATION, Attempt, Delivery, Subscription
from zaqar.notification.senders import connection as module
from zaqar.notification.senders import node_connection
from zaqar.notification.senders.base import Outcome
from zaqar.notification.senders.connection import ConnectionSender
from zaqar.schemas.subscribers import connection_subscriber
from zaqar.storage.base import Node
from zaqar.storage.memory.nodes import MemoryNodes
from zaqar.transport.websocket.listener import Listener

NODE = "a" * 24
UID = "b" * 24
SUBSCRIPTION = Subscription(
    "c" * 24, UID, "shop", "queue", "orders", connection_subscriber(NODE, "f00d"), 60, 0.0, 60.0, state=CONFIRMED
)
DELIVERY = Delivery(UID, SUBSCRIPTION.id, 7, b'{"n": 1}', 60, 0.0, "client", 0.0)


class CountingStore(MemoryNodes):
    reads = 0
    is_away = False

    def get(self, *, node_id: str) -> Node | None:
        self.reads += 1
        if self.is_away:
            raise StoreUnavailable
        return super().get(node_id=node_id)


@dataclass
class Process:
    """A WebSocket process that answers each notification with ``status``."""

    sender: ConnectionSender
    store: CountingStore
    listener: Listener
    status: Status | None = Status.PUSHED
    pushes: list[Push] = field(default_factory=list)

    def receive(self, push: Push, answer: Callable[[Status], None]) -> None:
        self.pushes.append(push)
        if self.status is not None:
            answer(self.status)

    async def send(self, delivery: Delivery = DELIVERY, subscription: Subscription = SUBSCRIPTION) -> Outcome:
        return await self.sender.send(delivery, subscription, now=0.0)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Process]:
    store = CountingStore(threading.Lock())
    listener = Listener(lambda push, answer: process.receive(push, answer))
    process = Process(ConnectionSender(store, machine="m"), store, listener)
    path = await listener.start(folder=folder / "nodes", host="127.0.0.1", port=0)
    listener.serve_as(NODE, b"k" * 32)
    store.add(node=Node(NODE, "m", "127.0.0.1", listener.port, str(path), 1e12, b"k" * 32))
    try:
        yield process
    finally:
        await process.sender.close()
        listener.stop()


def test_a_notification_is_pushed_as_json_with_its_number(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(tmp_path) as process:
            assert (await process.send()).delivered
            attempted = replace(DELIVERY, number=8, attempts=(Attempt(0.0, None, 0.1, ""),) * 2)
            assert (await process.send(attempted)).delivered
            first, second = process.pushes
            assert (first.connection, first.queue_uid, first.subscription_id) == ("f00d", UID, SUBSCRIPTION.id)
            assert [(each.number, each.attempts) for each in (first, second)] == [(7, 0), (8, 2)]
            message = '{"body":{"n": 1},"ttl":60,"queue_name":"orders","Message_Type":"Notification","id":"%s"}'
            assert first.text.decode() == message % DELIVERY.id
            # The node is not looked up for each.
            assert process.store.reads == 1

    asyncio.run(go())


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (Status.PUSHED, Outcome(True, None, "")),
        (Status.GONE, Outcome(False, None, "the connection is closed", gone=True)),
        (Status.WAIT, Outcome(False, None, "waits for its turn", waits=True, reached=False)),
    ],
)
def test_the_answer_of_the_node_is_the_outcome(tmp_path: Path, status: Status, outcome: Outcome) -> None:
    async def go() -> None:
        async with running(tmp_path) as process:
            process.status = status
            assert await process.send() == outcome

    asyncio.run(go())


def test_a_message_that_is_too_large_is_dead_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_connection, "MOST_TEXT_BYTES", 200)

    async def go() -> None:
        async with running(tmp_path) as process:
            outcome = await process.send(replace(DELIVERY, body=b'"%s"' % (b"x" * 200)))
            assert (outcome.final, outcome.delivered, outcome.reached) == (True, False, None)
            assert (await process.send()).delivered

    asyncio.run(go())


def test_a_node_that_is_absent_or_condemned_has_no_connections_any_more(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(tmp_path) as process:
            absent = replace(SUBSCRIPTION, subscriber=connection_subscriber("d" * 24, "f00d"))
            assert (await process.send(subscription=absent)).gone
            assert process.store.condemn(node_id=NODE, now=2e12)
            assert (await process.send()).gone

    asyncio.run(go())


def test_a_node_that_is_condemned_later_is_gone_a_moment_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KNOWN_SECONDS", 0.01)

    async def go() -> None:
        async with running(tmp_path) as process:
            assert (await process.send()).delivered
            process.store.condemn(node_id=NODE, now=2e12)
            await asyncio.sleep(0.02)
            assert (await process.send()).gone

    asyncio.run(go())


def test_a_node_that_lives_and_cannot_be_reached_is_tried_again(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(tmp_path) as process:
            process.listener.stop()
            outcome = await process.send()
            assert (outcome.delivered, outcome.gone, outcome.reached, outcome.waits) == (False, False, False, False)
            assert "cannot be reached" in outcome.answer
            # Neither addresses nor paths are for the tenant.
            assert "127.0.0.1" not in outcome.answer
            assert str(tmp_path) not in outcome.answer
            assert process.sender.delays

    asyncio.run(go())


def test_an_attempt_at_a_node_that_does_not_answer_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEND_SECONDS", 0.1)

    async def go() -> None:
        async with running(tmp_path) as process:
            process.status = None
            assert await process.send() == Outcome(False, None, "no answer in time", reached=False, failure="timeout")

    asyncio.run(go())


def test_a_store_that_is_away_counts_as_no_attempt(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(tmp_path) as process:
            process.store.is_away = True
            outcome = await process.send()
            assert (outcome.waits, outcome.gone, outcome.reached) == (True, False, None)

    asyncio.run(go())


def test_a_connection_is_asked_to_confirm_nothing(tmp_path: Path) -> None:
    async def go() -> None:
        async with running(tmp_path) as process:
            assert (await process.send(replace(DELIVERY, kind=UNSUBSCRIBE_CONFIRMATION))).delivered
            assert process.pushes == []

    asyncio.run(go())


def test_streams_to_nodes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 2)

    async def go() -> None:
        async with running(tmp_path) as process:
            for letter in "def0123":
                process.store.add(node=Node(letter * 24, "other", "127.0.0.1", 0, "", 1e12, b"k" * 32))
                subscriber = connection_subscriber(letter * 24, "f00d")
                outcome = await process.send(subscription=replace(SUBSCRIPTION, subscriber=subscriber))
                assert not outcome.delivered
                assert len(process.sender._streams) <= 3
            assert (await process.send()).delivered

    asyncio.run(go())


def test_no_entry_point_makes_it() -> None:
    with pytest.raises(StartupError):
        ConnectionSender.from_conf(None)  # type: ignore[arg-type]
