# SPDX-License-Identifier: Apache-2.0
"""The fence: no operation acts on a queue as it was, and none at all on one that is gone (design, section 4)."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from tests.conformance.scene import Scene, at_once, bodies, new_claim_id, new_queue
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
    assert taking_a_queue == {*OPERATIONS, "queues.open", "queues.drop"}


def refused(operation: Operation, scene: Scene, queue: Queue) -> None:
    with pytest.raises(StaleQueue) as caught:
        operation(scene.store, queue, scene.now)
    assert caught.value.uid == queue.uid


@every_operation
@pytest.mark.parametrize("generation", [1, 2, 4, 99])
def test_another_generation_is_refused_and_changes_nothing(scene: Scene, operation: Operation, generation: int) -> None:
    scene.post("a", "b")
    scene.claim(1)
    scene.queue = replace(scene.queue, generation=3)
    scene.open()
    before = scene.list_everything()
    refused(operation, scene, replace(scene.queue, generation=generation))
    assert scene.list_everything() == before
    assert scene.post("next") == [3]


@every_operation
def test_the_generation_in_force_is_served(scene: Scene, operation: Operation) -> None:
    scene.post("a")
    scene.raise_generation()
    scene.raise_generation()
    with suppress(NotFound):  # a claim that is not there is another matter
        operation(scene.store, scene.queue, scene.now)


@every_operation
def test_a_queue_that_was_never_opened_is_refused(scene: Scene, operation: Operation) -> None:
    refused(operation, scene, new_queue())


@every_operation
def test_a_dropped_queue_is_refused(scene: Scene, operation: Operation) -> None:
    scene.post("a")
    scene.drop()
    refused(operation, scene, scene.queue)


@every_operation
def test_a_dropped_queue_is_refused_in_every_generation(scene: Scene, operation: Operation) -> None:
    scene.raise_generation()
    scene.drop()
    for generation in (1, 2, 3):
        refused(operation, scene, replace(scene.queue, generation=generation))


# -- opening ----------------------------------------------------------------------------------------------------------


def test_opening_answers_the_generation_in_force(messages: MessageStore) -> None:
    queue = new_queue()
    scene = Scene(messages, queue=queue)
    for generation, in_force in ((1, 1), (3, 3), (2, 3), (3, 3), (1, 3), (7, 7)):
        assert messages.queues.open(queue=replace(queue, generation=generation), now=scene.now) == in_force
    scene.queue = replace(queue, generation=7)
    assert scene.post("a") == [1]
    scene.drop()


def test_a_queue_may_be_opened_first_at_any_generation(messages: MessageStore) -> None:
    scene = Scene(messages, queue=new_queue(generation=12))
    assert scene.open() == 12
    assert scene.post("a") == [1]
    scene.drop()


def test_opening_again_keeps_the_messages(scene: Scene) -> None:
    scene.post("a", "b")
    claim_id, held = scene.claim(1)
    scene.open()
    scene.raise_generation()
    assert scene.get_claim(claim_id)[1] == held
    assert bodies(scene.list_everything()) == ["a", "b"]
    assert scene.post("c") == [3]


def test_many_may_open_a_queue_at_a_time(messages: MessageStore) -> None:
    scene = Scene(messages)
    queue = new_queue()
    answers: list[int] = []

    def open_it(generation: int) -> None:
        answers.append(messages.queues.open(queue=replace(queue, generation=generation), now=scene.now))

    at_once(*(partial(open_it, 1 + n % 3) for n in range(8)))
    assert len(answers) == 8
    assert max(answers) == 3
    assert messages.queues.open(queue=queue, now=scene.now) == 3
    messages.queues.drop(queue=queue, now=scene.now)
    scene.drop()


def test_no_post_slips_in_with_old_rules(scene: Scene) -> None:
    """Whatever is acknowledged after the fence was raised was sent with the new generation."""
    first = scene.queue
    raised = threading.Event()
    late: list[range] = []

    def post_on() -> None:
        while True:
            was_raised = raised.is_set()
            try:
                numbers = scene.store.messages.post(
                    queue=first, drafts=[Draft(b"old", 60)], client_id="c", now=scene.now
                )
            except StaleQueue:
                return
            if was_raised:
                late.append(numbers)
                return

    def raise_it() -> None:
        scene.raise_generation()
        raised.set()

    at_once(raise_it, *[post_on] * 4)
    assert late == []


# -- dropping ---------------------------------------------------------------------------------------------------------


def test_a_dropped_queue_cannot_be_opened(scene: Scene) -> None:
    scene.drop()
    for generation in (1, 2, 50):
        with pytest.raises(QueueDropped) as caught:
            scene.store.queues.open(queue=replace(scene.queue, generation=generation), now=scene.now)
        assert caught.value.uid == scene.queue.uid


def test_dropping_takes_no_heed_of_the_generation(scene: Scene) -> None:
    scene.post("a")
    stale = scene.raise_generation()
    scene.store.queues.drop(queue=stale, now=scene.now)
    with pytest.raises(QueueDropped):
        scene.open()


def test_dropping_again_is_fine(scene: Scene) -> None:
    scene.post("a")
    for _ in range(3):
        scene.drop()
    with pytest.raises(QueueDropped):
        scene.open()


def test_dropping_an_unknown_queue_keeps_a_late_worker_out(scene: Scene) -> None:
    unknown = new_queue()
    scene.store.queues.drop(queue=unknown, now=scene.now)
    with pytest.raises(QueueDropped):
        scene.store.queues.open(queue=unknown, now=scene.now)
    refused(OPERATIONS["messages.post"], scene, unknown)


def test_a_tombstone_stands_for_its_lifetime(scene: Scene) -> None:
    scene.drop()
    other = new_queue()
    scene.store.queues.drop(queue=other, now=scene.now, remember=60)
    for moment, queue in ((59.875, other), (TOMBSTONE_LIFETIME - 0.125, scene.queue)):
        now = scene.now + moment
        while scene.store.sweep(now=now, limit=1000):
            pass
        with pytest.raises(QueueDropped):
            scene.store.queues.open(queue=queue, now=now)
        with pytest.raises(StaleQueue):
            scene.store.queues.stats(queue=queue, now=now)


def test_a_dropped_queue_comes_back_empty_if_ever(scene: Scene) -> None:
    """A uid is never used twice, but a row that was left over may be opened when the tombstone is forgotten."""
    scene.post("a")
    scene.claim()
    scene.drop()
    scene.clock.advance(TOMBSTONE_LIFETIME)
    while scene.store.sweep(now=scene.now, limit=1000):
        pass
    scene.open()
    assert scene.list_everything() == []
    assert scene.stats().total == 0


def test_remembering_for_no_time_leaves_no_trace(scene: Scene) -> None:
    passing = scene.beside()
    passing.post("a", "b")
    passing.claim(1)
    before = scene.volume().total
    scene.store.queues.drop(queue=passing.queue, now=scene.now, remember=0)
    assert scene.volume().total == before - 2
    refused(OPERATIONS["messages.list_after"], scene, passing.queue)
    passing.open()
    assert passing.list_everything() == []
    assert passing.post("c") == [1]
    assert bodies(passing.list_everything()) == ["c"]
    scene.store.queues.drop(queue=passing.queue, now=scene.now, remember=0)
    scene.store.queues.drop(queue=new_queue(), now=scene.now, remember=0)


def test_no_post_is_acknowledged_into_a_queue_that_is_gone(scene: Scene) -> None:
    dropped = threading.Event()
    late: list[range] = []

    def post_on() -> None:
        while True:
            was_dropped = dropped.is_set()
            try:
                numbers = scene.store.messages.post(
                    queue=scene.queue, drafts=[Draft(b"x", 60)], client_id="c", now=scene.now
                )
            except StaleQueue:
                return
            if was_dropped:
                late.append(numbers)
                return

    def drop_it() -> None:
        scene.drop()
        dropped.set()

    at_once(drop_it, *[post_on] * 4)
    assert late == []


def test_a_drop_takes_many_messages_at_once(scene: Scene) -> None:
    before = scene.volume().total
    many = scene.beside()
    many.post(*["x"] * 3000)
    many.claim(1000)
    many.drop()
    assert scene.volume().total == before
    refused(OPERATIONS["queues.stats"], scene, many.queue)


def test_a_fence_of_a_dead_letter_queue_is_its_own(scene: Scene) -> None:
    dead = scene.beside()
    scene.post("a")
    scene.raise_generation()
    scene.raise_generation()
    _, taken = scene.claim(dead_letters=DeadLetters(dead.queue, 5))
    assert bodies(taken) == ["a"]
    dead.drop()
