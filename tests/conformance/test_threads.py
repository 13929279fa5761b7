# SPDX-License-Identifier: Apache-2.0
"""Many threads use one store object at the same time."""

from __future__ import annotations

import threading
from functools import partial

from tests.conformance.queue_client import QueueClient, at_once, bodies, new_claim_id
from zaqar.errors import NotFound
from zaqar.storage.base import MessageStore

THREADS = 8


def test_posts_of_many_threads_are_whole_and_numbered_without_gaps(orders: QueueClient) -> None:
    numbers: list[list[int]] = []

    def post_on(thread: int) -> None:
        for n in range(20):
            numbers.append(orders.post(*(f"{thread}.{n}.{k}" for k in range(3))))

    at_once(*(partial(post_on, thread) for thread in range(THREADS)))
    assert all(post == list(range(post[0], post[0] + 3)) for post in numbers)
    assert sorted(number for post in numbers for number in post) == list(range(1, THREADS * 60 + 1))
    seen = bodies(orders.listing())
    assert len(set(seen)) == THREADS * 60
    for thread in range(THREADS):
        mine = [text for text in seen if text.startswith(f"{thread}.")]
        assert mine == [f"{thread}.{n}.{k}" for n in range(20) for k in range(3)]


def test_work_is_done_exactly_once(orders: QueueClient) -> None:
    """Half the threads post, half claim and delete, some releasing first: every message is worked on once."""
    done: list[str] = []
    posted = threading.Event()
    posts = 25

    def produce(thread: int) -> None:
        for n in range(posts):
            orders.post(f"{thread}.{n}.a", f"{thread}.{n}.b")

    def produce_all() -> None:
        try:
            at_once(*(partial(produce, thread) for thread in range(THREADS // 2)))
        finally:
            posted.set()

    def consume(thread: int) -> None:
        turn = 0
        while True:
            ended = posted.is_set()
            claim_id, taken = orders.claim(thread + 1)
            turn += 1
            if turn % 5 == 0:
                orders.release(claim_id)
                continue
            for message in taken:
                orders.delete(message.sequence, claim_id)
                done.append(message.body.decode())
            if ended and not taken and orders.stats().total == 0:
                return

    at_once(produce_all, *(partial(consume, thread) for thread in range(THREADS // 2)))
    expected = [f"{t}.{n}.{k}" for t in range(THREADS // 2) for n in range(posts) for k in "ab"]
    assert sorted(done) == sorted(expected)
    assert orders.list_everything() == []


def test_threads_on_different_queues_do_not_disturb_each_other(messages: MessageStore) -> None:
    def live_a_life(thread: int) -> None:
        for n in range(5):
            orders = QueueClient(messages)
            texts = [f"{thread}.{n}.{k}" for k in range(10)]
            assert orders.post(*texts) == list(range(1, 11))
            claim_id, taken = orders.claim(4)
            assert bodies(taken) == texts[:4]
            orders.delete_many(1, 2, claim_ids=[claim_id])
            orders.raise_generation()
            orders.release(claim_id)
            assert bodies(orders.pop(3)) == texts[2:5]
            orders.clock.advance(10)
            assert bodies(orders.listing()) == texts[5:]
            assert orders.stats().free == 5
            orders.purge()
            assert orders.stats().total == 0
            orders.drop()

    at_once(*(partial(live_a_life, thread) for thread in range(THREADS)))


def test_a_claim_and_its_release_race_without_loss(orders: QueueClient) -> None:
    orders.post(*(str(n) for n in range(40)))

    def claim_and_release() -> None:
        for _ in range(15):
            claim_id, taken = orders.claim(7)
            assert [message.claim_id for message in taken] == [claim_id] * len(taken)
            if taken:
                assert orders.get_claim(claim_id)[1] == taken
                orders.renew(claim_id, ttl=120)
            orders.release(claim_id)
            try:
                orders.renew(new_claim_id())
            except NotFound:
                continue
            raise AssertionError("a claim nobody made was renewed")

    at_once(*[claim_and_release] * THREADS)
    assert bodies(orders.listing()) == [str(n) for n in range(40)]
    assert orders.stats().claimed == 0
