# SPDX-License-Identifier: Apache-2.0
"""Part ``queues``, the fence: no operation acts on a stale copy of a queue, or on a queue that is dropped."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from tests.conformance.queue_client import QueueClient, at_once, bodies, new_claim_id, new_queue
from tests.stores import parts_of
from zaqar.errors import NotFound, QueueDropped, StaleQueue
from zaqar.model import Claim, DeadLetters, Draft, Queue
from zaqar.storage.base import TOMBSTONE_LIFETIME, MessageStore

Operation = Callable[[MessageStore, Queue, float], object]

OPERATIONS: dict[str, Operation] = {
    "messages.post": lambda store, queue, now: store.messages.post(
        queue=queue, drafts=[Draft(b"1", 60)], client_id="c", now=now
    ),
    "messages.list_after": lambda store, queue, now: store.messages.list_after(queue=queue, after=0, limit=10, now=now),
    "messages.get": lambda store, queue, now: store.messages.get(queue=queue, sequences=[1], now=now),
    "messages.delete": lambda store, queue, now: store.messages.delete(queue=queue, sequence=1, claim_id=None, now=now),
    "messages.delete_many": lambda store, queue, now: store.messages.delete_many(
        queue=queue, sequences=[1], claim_ids=None, now=now
    ),
    "messages.pop": lambda store, queue, now: store.messages.pop(queue=queue, limit=1, now=now),
    "claims.claim": lambda store, queue, now: store.claims.claim(
        queue=queue, claim=Claim(new_claim_id(), 60, 60, now), limit=1, now=now
    ),
    "claims.get": lambda store, queue, now: store.claims.get(queue=queue, claim_id="x", now=now),
    "claims.renew": lambda store, queue, now: store.claims.renew(
        queue=queue, claim_id="x", ttl=None, grace=None, now=now
    ),
    "claims.release": lambda store, queue, now: store.claims.release(queue=queue, claim_id="x", now=now),
    "dead_letters.set_aside": lambda store, queue, now: store.dead_letters.set_aside(
        queue=queue, max_claim_count=1, limit=1, now=now
    ),
    "dead_letters.receive": lambda store, queue, now: store.dead_letters.receive(queue=queue, messages=[], now=now),
    "dead_letters.forget": lambda store, queue, now: store.dead_letters.forget(queue=queue, sequences=[1], now=now),
    "queues.stats": lambda store, queue, now: store.queues.stats(queue=queue, now=now),
    "queues.purge": lambda store, queue, now: store.queues.purge(queue=queue, now=now),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())


def test_the_table_names_every_operation_on_a_queue() -> None:
    taking_a_queue = {
        f"{part}.{method}"
        for part, contract in parts_of(MessageStore)
        for method in contract.__abstractmethods__
        if "queue" in inspect.signature(getattr(contract, method)).parameters
    }
    # The others compare no generation.
    assert taking_a_queue == {*OPERATIONS, "queues.open", "queues.drop", "queues.usage"}


def refused(operation: Operation, orders: QueueClient, queue: Queue) -> None:
    with pytest.raises(StaleQueue) as caught:
        operation(orders.store, queue, orders.now)
    assert caught.value.uid == queue.uid


@every_operation
@pytest.mark.parametrize("generation", [1, 2, 4, 99])
def test_an_operation_with_another_generation_is_refused_and_changes_nothing(
    orders: QueueClient, operation: Operation, generation: int
) -> None:
    orders.post("a", "b")
    orders.claim(1)
    orders.queue = replace(orders.queue, generation=3)
    orders.open()
    before = orders.list_everything()
    refused(operation, orders, replace(orders.queue, generation=generation))
    assert orders.list_everything() == before
    assert orders.post("next") == [3]


@every_operation
def test_an_operation_with_the_generation_in_force_succeeds(orders: QueueClient, operation: Operation) -> None:
    orders.post("a")
    orders.raise_generation()
    orders.raise_generation()
    with suppress(NotFound):  # a claim that is not there is another matter
        operation(orders.store, orders.queue, orders.now)


@every_operation
def test_a_queue_that_was_never_opened_is_refused(orders: QueueClient, operation: Operation) -> None:
    refused(operation, orders, new_queue())


@every_operation
def test_a_dropped_queue_is_refused(orders: QueueClient, operation: Operation) -> None:
    orders.post("a")
    orders.drop()
    refused(operation, orders, orders.queue)


@every_operation
def test_a_dropped_queue_is_refused_in_every_generation(orders: QueueClient, operation: Operation) -> None:
    orders.raise_generation()
    orders.drop()
    for generation in (1, 2, 3):
        refused(operation, orders, replace(orders.queue, generation=generation))


# -- opening ----------------------------------------------------------------------------------------------------------


def test_open_returns_the_generation_in_force(messages: MessageStore) -> None:
    queue = new_queue()
    orders = QueueClient(messages, queue=queue)
    for generation, in_force in ((1, 1), (3, 3), (2, 3), (3, 3), (1, 3), (7, 7)):
        assert messages.queues.open(queue=replace(queue, generation=generation), now=orders.now) == in_force
    orders.queue = replace(queue, generation=7)
    assert orders.post("a") == [1]
    orders.drop()


def test_a_queue_may_be_opened_first_at_any_generation(messages: MessageStore) -> None:
    orders = QueueClient(messages, queue=new_queue(generation=12))
    assert orders.open() == 12
    assert orders.post("a") == [1]
    orders.drop()


def test_a_second_open_keeps_the_messages(orders: QueueClient) -> None:
    orders.post("a", "b")
    claim_id, held = orders.claim(1)
    orders.open()
    orders.raise_generation()
    assert orders.get_claim(claim_id)[1] == held
    assert bodies(orders.list_everything()) == ["a", "b"]
    assert orders.post("c") == [3]


def test_concurrent_opens_succeed(messages: MessageStore) -> None:
    orders = QueueClient(messages)
    queue = new_queue()
    answers: list[int] = []

    def open_it(generation: int) -> None:
        answers.append(messages.queues.open(queue=replace(queue, generation=generation), now=orders.now))

    at_once(*(partial(open_it, 1 + n % 3) for n in range(8)))
    assert len(answers) == 8
    assert max(answers) == 3
    assert messages.queues.open(queue=queue, now=orders.now) == 3
    messages.queues.drop(queue=queue, now=orders.now)
    orders.drop()


def test_no_post_with_an_old_generation_is_acknowledged_after_the_fence_is_raised(orders: QueueClient) -> None:
    """Whatever is acknowledged after the fence was raised was sent with the new generation."""
    first = orders.queue
    raised = threading.Event()
    late: list[range] = []

    def post_on() -> None:
        while True:
            was_raised = raised.is_set()
            try:
                numbers = orders.store.messages.post(
                    queue=first, drafts=[Draft(b"old", 60)], client_id="c", now=orders.now
                )
            except StaleQueue:
                return
            if was_raised:
                late.append(numbers)
                return

    def raise_it() -> None:
        orders.raise_generation()
        raised.set()

    at_once(raise_it, *[post_on] * 4)
    assert late == []


# -- dropping ---------------------------------------------------------------------------------------------------------


def test_a_dropped_queue_cannot_be_opened(orders: QueueClient) -> None:
    orders.drop()
    for generation in (1, 2, 50):
        with pytest.raises(QueueDropped) as caught:
            orders.store.queues.open(queue=replace(orders.queue, generation=generation), now=orders.now)
        assert caught.value.uid == orders.queue.uid


def test_drop_ignores_the_generation(orders: QueueClient) -> None:
    orders.post("a")
    stale = orders.raise_generation()
    orders.store.queues.drop(queue=stale, now=orders.now)
    with pytest.raises(QueueDropped):
        orders.open()


def test_a_second_drop_is_no_error(orders: QueueClient) -> None:
    orders.post("a")
    for _ in range(3):
        orders.drop()
    with pytest.raises(QueueDropped):
        orders.open()


def test_a_drop_of_an_unknown_queue_refuses_a_later_open(orders: QueueClient) -> None:
    unknown = new_queue()
    orders.store.queues.drop(queue=unknown, now=orders.now)
    with pytest.raises(QueueDropped):
        orders.store.queues.open(queue=unknown, now=orders.now)
    refused(OPERATIONS["messages.post"], orders, unknown)


def test_a_tombstone_refuses_the_uid_for_its_lifetime(orders: QueueClient) -> None:
    orders.drop()
    other = new_queue()
    orders.store.queues.drop(queue=other, now=orders.now, remember=60)
    for moment, queue in ((59.875, other), (TOMBSTONE_LIFETIME - 0.125, orders.queue)):
        now = orders.now + moment
        while orders.store.sweep(now=now, limit=1000).removed:
            pass
        with pytest.raises(QueueDropped):
            orders.store.queues.open(queue=queue, now=now)
        with pytest.raises(StaleQueue):
            orders.store.queues.stats(queue=queue, now=now)


def test_a_queue_that_is_opened_after_its_tombstone_is_empty(orders: QueueClient) -> None:
    """A uid is never used twice, but a row that was left over may be opened when the tombstone is forgotten."""
    orders.post("a")
    orders.claim()
    orders.drop()
    orders.clock.advance(TOMBSTONE_LIFETIME)
    while orders.store.sweep(now=orders.now, limit=1000).removed:
        pass
    orders.open()
    assert orders.list_everything() == []
    assert orders.stats().total == 0


def test_a_drop_with_remember_zero_leaves_no_tombstone(orders: QueueClient) -> None:
    passing = orders.beside()
    passing.post("a", "b")
    passing.claim(1)
    before = orders.volume().total
    orders.store.queues.drop(queue=passing.queue, now=orders.now, remember=0)
    assert orders.volume().total == before - 2
    refused(OPERATIONS["messages.list_after"], orders, passing.queue)
    passing.open()
    assert passing.list_everything() == []
    assert passing.post("c") == [1]
    assert bodies(passing.list_everything()) == ["c"]
    orders.store.queues.drop(queue=passing.queue, now=orders.now, remember=0)
    orders.store.queues.drop(queue=new_queue(), now=orders.now, remember=0)


def test_no_post_to_a_dropped_queue_is_acknowledged(orders: QueueClient) -> None:
    dropped = threading.Event()
    late: list[range] = []

    def post_on() -> None:
        while True:
            was_dropped = dropped.is_set()
            try:
                numbers = orders.store.messages.post(
                    queue=orders.queue, drafts=[Draft(b"x", 60)], client_id="c", now=orders.now
                )
            except StaleQueue:
                return
            if was_dropped:
                late.append(numbers)
                return

    def drop_it() -> None:
        orders.drop()
        dropped.set()

    at_once(drop_it, *[post_on] * 4)
    assert late == []


def test_a_drop_removes_many_messages_in_one_step(orders: QueueClient) -> None:
    before = orders.volume().total
    many = orders.beside()
    many.post(*["x"] * 3000)
    many.claim(1000)
    many.drop()
    assert orders.volume().total == before
    refused(OPERATIONS["queues.stats"], orders, many.queue)


def test_a_dead_letter_queue_has_a_fence_of_its_own(orders: QueueClient) -> None:
    dead = orders.beside()
    orders.post("a")
    orders.raise_generation()
    orders.raise_generation()
    _, taken = orders.claim(dead_letters=DeadLetters(dead.queue, 5))
    assert bodies(taken) == ["a"]
    dead.drop()
