# SPDX-License-Identifier: Apache-2.0
"""The round trips of each operation, and transactions that conflict with transactions of other processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from bson import ObjectId
from pymongo import monitoring

from tests import servers
from tests.conformance.mongodb.conftest import DATABASE
from tests.conformance.queue_client import QueueClient, at_once, bodies
from zaqar.errors import StoreUnavailable
from zaqar.model import Draft, Queue
from zaqar.storage.mongodb.client import transactions
from zaqar.storage.mongodb.client.statements import statement
from zaqar.storage.mongodb.client.transactions import Attempt, TransactionConflict, retry_on_conflict, split_by_size
from zaqar.storage.mongodb.documents import fence_id
from zaqar.storage.mongodb.housekeeping import MAX_SKIPPED
from zaqar.storage.mongodb.store import MongoMessageStore


class Commands(monitoring.CommandListener):
    """Records the names of the commands that were sent, and the last command of each name."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.last: dict[str, Mapping[str, Any]] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.names.append(event.command_name)
        self.last[event.command_name] = event.command

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        return

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        return

    def of(self, operation: Callable[[], object]) -> list[str]:
        self.names.clear()
        operation()
        return list(self.names)


@contextmanager
def recorded() -> Iterator[Commands]:
    """The commands of stores that are opened inside the block."""
    commands = Commands()
    monitoring.register(commands)
    try:
        yield commands
    finally:
        monitoring._LISTENERS.command_listeners.remove(commands)


@contextmanager
def recorded_queue(members: servers.MongoSet) -> Iterator[tuple[QueueClient, Commands]]:
    """An open queue on a store whose commands are recorded."""
    with recorded() as commands:
        store = MongoMessageStore.from_settings({"uri": members.uri, "database": DATABASE})
    yield QueueClient(store), commands
    store.close()


LIMITS: dict[str, tuple[int, Callable[[QueueClient], object]]] = {
    "post": (2, lambda orders: orders.post("x")),
    "post ten": (2, lambda orders: orders.post(*"0123456789")),
    "list": (1, lambda orders: orders.listing(limit=10)),
    "get": (1, lambda orders: orders.get(5, 6)),
    "stats": (1, lambda orders: orders.stats()),
    "delete a free one": (2, lambda orders: orders.delete(9)),
    # A read of free messages, a change of several documents, a commit: before MongoDB 8.0 no one command does all.
    "claim": (3, lambda orders: orders.claim(2)),
    "pop": (3, lambda orders: orders.pop(1)),
}


def test_round_trips_of_a_claim_that_finds_nothing(members: servers.MongoSet) -> None:
    with recorded_queue(members) as (orders, commands):
        orders.listing()
        commands.names.clear()
        assert orders.claim()[1] == []
        assert commands.names == ["aggregate"]


@pytest.mark.parametrize("name", LIMITS)
def test_round_trips_of_a_warm_operation(members: servers.MongoSet, name: str) -> None:
    most, operation = LIMITS[name]
    with recorded_queue(members) as (orders, commands):
        orders.post(*"0123456789abcdef")
        orders.post("warm")
        orders.listing(limit=1)
        commands.names.clear()
        operation(orders)
        assert len(commands.names) <= most, commands.names


@pytest.mark.parametrize("many", [1, 5])
def test_round_trips_of_a_delete_under_a_claim(members: servers.MongoSet, many: int) -> None:
    with recorded_queue(members) as (orders, commands):
        orders.post(*"0123456789abcdef")
        claim_id, taken = orders.claim(many)
        commands.names.clear()
        if many == 1:
            orders.delete(taken[0].sequence, claim_id)
        else:
            orders.delete_many(*(message.sequence for message in taken), claim_ids=[claim_id])
        assert commands.names == ["update", "commitTransaction"]


def test_numbers_are_not_guessed_for_a_while_after_other_processes_have_posted(
    members: servers.MongoSet, store: MongoMessageStore
) -> None:
    with recorded_queue(members) as (orders, commands):
        other = QueueClient(store, queue=orders.queue)
        orders.post("a")
        for n in range(20):
            other.post(f"other {n}")
            orders.post(f"mine {n}")
        guesses = commands.names.count("abortTransaction")
        assert guesses <= 5
        assert len(orders.listing()) == 41


def test_a_transaction_of_a_dead_process_is_aborted(
    store: MongoMessageStore, orders: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it were not ended, all operations on the queue would wait for it for a minute."""
    connection = store.core.replica_set.connection
    session = connection.client.start_session()
    session.start_transaction()
    connection.main.majority.update_one({"_id": fence_id(orders.queue.uid)}, {"$inc": {"ready": 1}}, session=session)
    begun = time.monotonic()
    assert orders.post("a") == [1]
    assert time.monotonic() - begun < 4
    assert bodies(orders.listing()) == ["a"]
    session.abort_transaction()


def test_a_live_transaction_of_others_is_left_alone(
    members: servers.MongoSet, store: MongoMessageStore, orders: QueueClient
) -> None:
    import pymongo

    with pymongo.MongoClient(members.uri, appname="somebody else") as client, client.start_session() as session:
        session.start_transaction()
        collection = client[DATABASE]["message_store"]
        collection.update_one({"_id": fence_id(orders.queue.uid)}, {"$inc": {"ready": 1}}, session=session)
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            orders.post("a")
        assert 2.5 < time.monotonic() - begun < 5
        session.abort_transaction()
    assert orders.post("a") == [1]


def test_a_transaction_with_a_conflict_changes_nothing(store: MongoMessageStore) -> None:
    key = f"x{ObjectId()}"
    statements = [statement({"_id": key}, {"$set": {"a": 1}}, upsert=True), statement({"_id": "absent"}, {"$set": {}})]
    attempt = Attempt(store.core.replica_set)
    with pytest.raises(TransactionConflict):
        attempt.update(statements, expect=2)
    attempt.update(statements, expect=1)

    def break_off() -> None:
        with attempt.transaction() as transaction:
            transaction.update([statement({"_id": key}, {"$set": {"a": 2}})], expect=1)
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert attempt.read_latest([{"$match": {"_id": key}}], expect=2) == [{"_id": key, "a": 1}]
    store.core.replica_set.connection.main.majority.delete_one({"_id": key})


def test_a_step_that_always_conflicts_fails_in_the_end(
    store: MongoMessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "STEP_TIMEOUT", 0.3)
    begun = time.monotonic()
    attempts = 0

    def conflict(_: Attempt) -> None:
        nonlocal attempts
        attempts += 1
        raise TransactionConflict

    with pytest.raises(StoreUnavailable):
        retry_on_conflict(store.core.replica_set, conflict)
    assert time.monotonic() - begun < 1
    assert attempts > 3


def test_documents_too_large_for_one_command_are_sent_in_several() -> None:
    documents = [{"_id": n, "b": b"x" * 3_000_000} for n in range(7)]
    assert [[each["_id"] for each in batch] for batch in split_by_size(documents)] == [[0, 1], [2, 3], [4, 5], [6]]
    assert list(split_by_size([])) == []


def test_a_post_larger_than_a_command_is_stored(orders: QueueClient) -> None:
    drafts = [Draft(bytes([65 + n]) * 4_000_000, 60) for n in range(6)]
    numbers = orders.store.messages.post(queue=orders.queue, drafts=drafts, client_id="c", now=orders.now)
    assert numbers == range(1, 7)
    assert [len(message.body) for message in orders.listing()] == [4_000_000] * 6


def test_a_process_remembers_a_bounded_number_of_queues(
    store: MongoMessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zaqar.storage.mongodb import core

    monkeypatch.setattr(core, "MAX_QUEUES", 3)
    queue_clients = [QueueClient(store) for _ in range(5)]
    for orders in queue_clients:
        orders.post("a")
    assert len(store.core._fences) <= 3
    assert isinstance(queue_clients[0].queue, Queue)
    assert all(bodies(orders.listing()) == ["a"] for orders in queue_clients)


def test_claims_and_pops_of_many_threads_take_each_message_once_and_in_order(
    store: MongoMessageStore, orders: QueueClient
) -> None:
    """There are more requests than messages. Some attempts get messages and then conflict, and must not keep them."""
    orders.post(*(f"{n:03}" for n in range(60)))
    others = [
        QueueClient(store, queue=orders.queue),
        QueueClient(MongoMessageStore(store.core.replica_set), queue=orders.queue),
    ]
    taken: list[list[str]] = []

    def take(number: int) -> None:
        own = others[number % 2]
        for round_ in range(6):
            got = own.pop(2) if (number + round_) % 3 == 0 else own.claim(2)[1]
            assert bodies(got) == sorted(bodies(got))
            taken.append(bodies(got))

    at_once(*(partial(take, number) for number in range(12)))
    assert sorted(text for texts in taken for text in texts) == [f"{n:03}" for n in range(60)]
    assert orders.stats().free == 0
    assert orders.claim()[1] == []


def test_a_release_and_the_end_of_a_claim_do_not_wait_for_posts(members: servers.MongoSet, orders: QueueClient) -> None:
    """In a queue with many posts they would conflict with each post."""
    import pymongo

    orders.post(*"abc")
    claim_id, _ = orders.claim(1, ttl=600)
    orders.claim(1, ttl=60)
    with pymongo.MongoClient(members.uri, appname="somebody who posts") as client, client.start_session() as session:
        session.start_transaction()
        collection = client[DATABASE]["message_store"]
        collection.update_one({"_id": fence_id(orders.queue.uid)}, {"$inc": {"next": 1}}, session=session)
        orders.renew(claim_id, ttl=600)
        orders.release(claim_id)
        orders.clock.advance(60)
        assert bodies(orders.listing()) == ["a", "b", "c"]
        session.abort_transaction()


def test_messages_that_become_free_again_are_found_before_ready_from(
    store: MongoMessageStore, orders: QueueClient
) -> None:
    many = 2 * MAX_SKIPPED
    orders.post(*(f"{n:04}" for n in range(many + 2)))
    first, _ = orders.claim(3, ttl=600)
    orders.claim(3, ttl=60)
    orders.claim(many - 6, ttl=600)
    assert bodies(orders.claim(1, ttl=600)[1]) == [f"{many:04}"]
    fence = store.core.replica_set.connection.main.majority.find_one({"_id": fence_id(orders.queue.uid)})
    assert fence is not None
    assert fence["ready_from"] == many + 2
    orders.release(first)
    assert bodies(orders.listing()) == ["0000", "0001", "0002", f"{many + 1:04}"]
    orders.clock.advance(60)
    assert bodies(orders.listing(limit=6)) == [f"{n:04}" for n in range(6)]
