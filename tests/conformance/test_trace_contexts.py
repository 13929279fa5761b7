# SPDX-License-Identifier: Apache-2.0
"""The trace context of a message and the request id of a post: each read, claim and delivery has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tests.conformance.notifier_client import NotifierClient
from tests.conformance.queue_client import QueueClient
from zaqar.model import DeadLetters, Delivery, Draft, Message, Origin

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STATE = f"{TRACE} vendor=a:b;c,other=1"
REQUEST_ID = "req-6b31dd4c-95cd-4c03-a5c8-b1c8a04e6b7a"

DRAFTS = (Draft(b"1", 60), Draft(b"2", 60, trace=TRACE), Draft(b"3", 60, delay=30, trace=STATE))
TRACES = [None, TRACE, STATE]


def post(queue: QueueClient, *, request_id: str = "") -> None:
    queue.store.messages.post(
        queue=queue.queue, drafts=DRAFTS, client_id="producer", now=queue.now, request_id=request_id
    )


def traces(messages: Sequence[Message]) -> list[str | None]:
    return [message.trace for message in messages]


READS: dict[str, Callable[[QueueClient], Sequence[Message]]] = {
    "list_after": lambda orders: orders.listing(delayed=True),
    "get": lambda orders: orders.get(1, 2, 3),
    "claim": lambda orders: orders.claim()[1],
    "get_claim": lambda orders: orders.get_claim(orders.claim()[0])[1],
    "pop": lambda orders: orders.pop(),
}


@pytest.mark.parametrize("read", READS)
def test_each_read_shows_the_trace_of_each_message(orders: QueueClient, read: str) -> None:
    post(orders)
    if read not in ("list_after", "get"):
        orders.clock.advance(30)
    assert traces(READS[read](orders)) == TRACES


def test_the_statistics_show_the_traces_of_the_oldest_and_newest_message(orders: QueueClient) -> None:
    post(orders)
    orders.delete(1)
    orders.clock.advance(30)
    stats = orders.stats()
    assert stats.oldest is not None
    assert stats.newest is not None
    assert (stats.oldest.trace, stats.newest.trace) == (TRACE, STATE)


def test_a_message_keeps_its_trace_when_it_is_claimed_and_released(orders: QueueClient) -> None:
    post(orders)
    orders.clock.advance(30)
    orders.claim_and_release(3, times=2)
    assert traces(orders.listing()) == TRACES


def test_a_dead_letter_keeps_its_trace(orders: QueueClient) -> None:
    dead = orders.beside("dead-letters")
    post(orders)
    orders.clock.advance(30)
    orders.claim_and_release(3, times=1)
    _, taken = orders.claim(dead_letters=DeadLetters(dead.queue, 1))
    assert taken == []
    assert traces(dead.listing()) == TRACES
    dead.drop()


def test_a_dead_letter_keeps_its_trace_on_its_way_to_another_store(orders: QueueClient) -> None:
    dead = orders.beside("dead-letters")
    post(orders)
    orders.clock.advance(30)
    orders.claim_and_release(3, times=1)
    parts = orders.store.dead_letters
    aside = parts.set_aside(queue=orders.queue, max_claim_count=1, limit=10, now=orders.now)
    letters = [replace(each, origin=Origin("orders", each.id, each.claim_count)) for each in aside]
    parts.receive(queue=dead.queue, messages=letters, now=orders.now)
    assert traces(dead.listing()) == TRACES
    dead.drop()


def test_the_outbox_has_the_traces_and_the_id_of_the_request(notifier: NotifierClient) -> None:
    post(notifier.open_queue(), request_id=REQUEST_ID)
    (posted,) = notifier.take_posted()
    assert [draft.trace for draft in posted.drafts] == TRACES
    assert posted.request_id == REQUEST_ID


def test_the_outbox_has_the_trace_of_a_dead_letter(notifier: NotifierClient) -> None:
    source, dead = notifier.open_queue(notify=False), notifier.open_queue("dead-letters")
    post(source)
    source.clock.advance(30)
    source.claim_and_release(3, times=1)
    source.claim(dead_letters=DeadLetters(dead.queue, 1))
    posts = sorted(notifier.take_all_posted(), key=lambda posted: posted.first)
    assert [draft.trace for posted in posts for draft in posted.drafts] == TRACES
    assert {posted.request_id for posted in posts} == {""}


@pytest.mark.parametrize("way", ["put", "expand"])
def test_a_delivery_keeps_its_trace_and_its_request(notifier: NotifierClient, way: str) -> None:
    queue = notifier.open_queue()
    bare = Delivery(queue.queue.uid, "a" * 24, 1, b"1", 60, queue.now, "c", queue.now)
    traced = [
        replace(bare, number=2, trace=TRACE),
        replace(bare, number=3, request_id=REQUEST_ID),
        replace(bare, number=4, trace=STATE, request_id=REQUEST_ID),
    ]
    if way == "put":
        notifier.put(bare, *traced)
    else:
        post(queue)
        (posted,) = notifier.take_posted()
        assert notifier.expand(posted, [bare, *traced])
    taken = sorted(notifier.take(), key=lambda delivery: delivery.number)
    expected = [(None, ""), (TRACE, ""), (None, REQUEST_ID), (STATE, REQUEST_ID)]
    assert [(each.trace, each.request_id) for each in taken] == expected
    # A retry writes the delivery again and must not lose them.
    notifier.store.deliveries.settle(
        owner="me", settled=[replace(each, owner=None, due=notifier.now, tries=1) for each in taken], now=notifier.now
    )
    taken = sorted(notifier.take(), key=lambda delivery: delivery.number)
    assert [(each.trace, each.request_id) for each in taken] == expected


@pytest.mark.parametrize("length", [55, 55 + 1 + 512])
def test_the_longest_trace_is_stored_whole(orders: QueueClient, length: int) -> None:
    trace = TRACE + "".join(chr(33 + n % 90) for n in range(length - len(TRACE)))
    orders.store.messages.post(
        queue=orders.queue, drafts=[Draft(b"1", 60, trace=trace)], client_id="producer", now=orders.now
    )
    assert traces(orders.listing()) == [trace]
