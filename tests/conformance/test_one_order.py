# SPDX-License-Identifier: Apache-2.0
"""Promise 2, one order: the messages of a queue have the order in which their posts were acknowledged."""

from collections.abc import Callable, Sequence

import pytest

from tests.clock import TICK
from tests.conformance.queue_client import QueueClient, bodies
from zaqar.model import Message

WAYS_OUT: dict[str, Callable[[QueueClient, int], Sequence[Message]]] = {
    "list": lambda orders, limit: orders.listing(limit=limit),
    "claim": lambda orders, limit: orders.claim(limit)[1],
    "pop": lambda orders, limit: orders.pop(limit),
}
every_way_out = pytest.mark.parametrize("take", WAYS_OUT.values(), ids=WAYS_OUT.keys())


@every_way_out
def test_messages_come_in_the_order_of_their_posts(orders: QueueClient, take: Callable[..., Sequence[Message]]) -> None:
    orders.post("c", "a", "b")
    orders.post("9")
    orders.post("1", "5")
    assert bodies(take(orders, 100)) == ["c", "a", "b", "9", "1", "5"]


@every_way_out
@pytest.mark.parametrize("limit", [1, 2, 3, 20])
def test_claims_and_pops_take_the_first_messages_first(
    orders: QueueClient, take: Callable[..., Sequence[Message]], limit: int
) -> None:
    orders.post(*"abcde")
    orders.post(*"fgh")
    assert bodies(take(orders, limit)) == list("abcdefgh")[:limit]


def test_numbers_run_from_one_without_gaps_over_posts(orders: QueueClient) -> None:
    assert orders.post("a", "b", "c") == [1, 2, 3]
    assert orders.post("d") == [4]
    assert orders.post("e", "f", delay=60) == [5, 6]
    assert orders.post("g", ttl=60) == [7]


def test_numbers_are_not_used_again(orders: QueueClient) -> None:
    orders.post("deleted", "popped", "purged")
    orders.delete(1)
    orders.pop()
    assert orders.post("a") == [4]
    orders.purge()
    assert orders.post("b", ttl=60) == [5]
    orders.clock.advance(60)
    orders.store.sweep(now=orders.now, limit=1000)
    assert orders.post("c") == [6]
    orders.raise_generation()
    assert orders.post("d") == [7]


def test_numbers_go_on_past_nine_and_ninety_nine(orders: QueueClient) -> None:
    """An order of texts instead of numbers would put 10 before 9."""
    for n in range(1, 121):
        orders.post(str(n))
    assert bodies(orders.listing()) == [str(n) for n in range(1, 121)]
    assert bodies(orders.claim(120)[1]) == [str(n) for n in range(1, 121)]


@every_way_out
def test_a_released_message_goes_back_to_its_place(orders: QueueClient, take: Callable[..., Sequence[Message]]) -> None:
    orders.post("a", "b", "c")
    claim_id, _ = orders.claim(2)
    orders.post("d")
    orders.release(claim_id)
    assert bodies(take(orders, 10)) == ["a", "b", "c", "d"]


@every_way_out
def test_a_message_whose_claim_ended_goes_back_to_its_place(
    orders: QueueClient, take: Callable[..., Sequence[Message]]
) -> None:
    orders.post("a", "b", "c")
    orders.claim(2, ttl=60)
    orders.post("d")
    orders.clock.advance(60)
    assert bodies(take(orders, 10)) == ["a", "b", "c", "d"]


@every_way_out
def test_a_message_whose_delay_is_over_stands_where_it_was_posted(
    orders: QueueClient, take: Callable[..., Sequence[Message]]
) -> None:
    orders.post("late", delay=30)
    orders.post("soon")
    orders.post("later", delay=40)
    orders.post("last")
    assert bodies(orders.listing()) == ["soon", "last"]
    orders.clock.advance(40)
    assert bodies(take(orders, 10)) == ["late", "soon", "later", "last"]


def test_claims_and_releases_do_not_change_the_order(orders: QueueClient) -> None:
    orders.post(*"abcdef")
    first, _ = orders.claim(2)
    second, _ = orders.claim(2)
    third, _ = orders.claim(1)
    orders.release(second)
    orders.release(first)
    assert bodies(orders.listing()) == ["a", "b", "c", "d", "f"]
    orders.release(third)
    assert bodies(orders.listing()) == list("abcdef")


def test_order_is_by_acknowledgement_and_not_by_the_clock_of_the_host(orders: QueueClient) -> None:
    orders.post("a")
    orders.clock.advance(-5 * TICK)
    orders.post("b")
    orders.clock.advance(-5 * TICK)
    orders.post("c")
    orders.clock.advance(20 * TICK)
    assert bodies(orders.listing()) == ["a", "b", "c"]
    assert bodies(orders.claim(2)[1]) == ["a", "b"]
    assert bodies(orders.pop()) == ["c"]


def test_messages_read_by_number_come_in_order(orders: QueueClient) -> None:
    orders.post(*(str(n) for n in range(1, 101)))
    orders.claim(2)
    assert bodies(orders.get(66, 2, 40, 33, 1, 100)) == ["1", "2", "33", "40", "66", "100"]
    assert [message.sequence for message in orders.listing(claimed=True)] == list(range(1, 101))


def test_a_claim_lists_what_it_holds_in_order(orders: QueueClient) -> None:
    orders.post(*"abcdef")
    claim_id, _ = orders.claim(4)
    orders.delete(2, claim_id)
    assert bodies(orders.get_claim(claim_id)[1]) == ["a", "c", "d"]
