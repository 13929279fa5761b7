# SPDX-License-Identifier: Apache-2.0
"""Positions of many queues in one command, and beside messages that have expired and were not removed yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import servers
from tests.conformance.mongodb.conftest import DATABASE
from tests.conformance.mongodb.test_transactions import Commands, recorded, recorded_queue
from tests.conformance.queue_client import QueueClient, new_queue
from zaqar.model import QueueName, QueuePosition
from zaqar.storage.mongodb.housekeeping import BATCH, MAX_SKIPPED
from zaqar.storage.mongodb.management import MongoManagementStore


@pytest.fixture
def recording(members: servers.MongoSet) -> Iterator[tuple[QueueClient, Commands]]:
    with recorded_queue(members) as recording:
        yield recording


def position_of(orders: QueueClient) -> QueuePosition:
    return orders.store.queues.positions(uids=[orders.queue.uid], now=orders.now)[orders.queue.uid]


def test_positions_of_many_queues_take_one_command(recording: tuple[QueueClient, Commands]) -> None:
    orders, commands = recording
    queue_clients = [orders.beside(str(number)) for number in range(20)]
    for number, orders in enumerate(queue_clients):
        orders.post(*["x"] * number, delay=10 * (number % 2)) if number else None
    uids = [*(orders.queue.uid for orders in queue_clients), *(new_queue().uid for _ in range(480))]
    found: dict[str, QueuePosition] = {}
    assert commands.of(lambda: found.update(orders.store.queues.positions(uids=uids, now=orders.now))) == ["aggregate"]
    assert found == {
        orders.queue.uid: QueuePosition(number, number > 0 and number % 2 == 0, orders.now + 10 if number % 2 else None)
        for number, orders in enumerate(queue_clients)
    }


def test_positions_of_no_queues_take_no_command(recording: tuple[QueueClient, Commands]) -> None:
    orders, commands = recording
    assert commands.of(lambda: orders.store.queues.positions(uids=[], now=orders.now)) == []


def test_messages_that_expired_under_a_claim_hide_no_free_message(recording: tuple[QueueClient, Commands]) -> None:
    dead, commands = recording
    alive = dead.beside("alive")
    for orders in (dead, alive):
        orders.post("a", "b", ttl=60)
        orders.claim(2, ttl=60, grace=0)
        orders.clock.advance(1)
    alive.post("c", ttl=600)
    alive.claim(1, ttl=60, grace=0)
    now = dead.clock.advance(100)
    uids = [dead.queue.uid, alive.queue.uid]

    def look() -> list[bool]:
        found = dead.store.queues.positions(uids=uids, now=now)
        return [found[uid].free for uid in uids]

    assert commands.of(look) != ["aggregate"]
    assert look() == [False, True]
    assert commands.of(look) == ["aggregate"]


def test_more_expired_messages_than_one_call_removes_count_as_free_until_the_next_one(orders: QueueClient) -> None:
    orders.post(*["x"] * (BATCH + 1), ttl=60)
    orders.claim(BATCH + 1, ttl=60, grace=0)
    orders.clock.advance(60)
    assert [position_of(orders).free for _ in range(3)] == [True, False, False]


def test_positions_move_ready_from_past_expired_messages(recording: tuple[QueueClient, Commands]) -> None:
    orders, commands = recording
    orders.post(*["x"] * (MAX_SKIPPED + 1), ttl=60)
    orders.clock.advance(60)
    assert commands.of(lambda: position_of(orders)) != ["aggregate"]
    assert commands.of(lambda: position_of(orders)) == ["aggregate"]
    orders.post("y")
    assert position_of(orders) == QueuePosition(MAX_SKIPPED + 2, True, None)
    assert len(orders.claim(1)[1]) == 1


def test_a_search_for_many_names_takes_one_command(members: servers.MongoSet) -> None:
    with recorded() as commands:
        management = MongoManagementStore.from_settings({"uri": members.uri, "database": DATABASE})
    projects = [new_queue().uid for _ in range(2)]
    queues = [
        management.queue_records.create(queue=new_queue(f"q{number}", project=project))
        for project in projects
        for number in range(3)
    ]
    asked = [QueueName(project, "queue", f"q{number}") for project in projects for number in range(2, 252)]
    found: dict[QueueName, Any] = {}
    assert commands.of(lambda: found.update(management.queue_records.find(names=asked))) == ["find"]
    assert found == {QueueName(each.project, each.kind, each.name): each for each in queues if each.name == "q2"}
    assert commands.of(lambda: management.queue_records.find(names=[])) == []
    management.close()
