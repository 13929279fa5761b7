# SPDX-License-Identifier: Apache-2.0
"""Promise 8, isolation: a foreign or guessed id is like an absent one, also if numbers and names are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.conformance.queue_client import QueueClient, bodies
from zaqar.errors import ClaimOver, NotFound
from zaqar.model import UID_LENGTH, message_id, sequence_of


@pytest.fixture(params=["other queue", "same name in another project", "next uid"])
def other(request: pytest.FixtureRequest, orders: QueueClient) -> Iterator[QueueClient]:
    if request.param == "other queue":
        other = orders.beside("invoices")
    elif request.param == "same name in another project":
        other = orders.beside(orders.queue.name, project="bank")
    else:
        uid = f"{(int(orders.queue.uid, 16) + 1) % 16**UID_LENGTH:0{UID_LENGTH}x}"
        other = QueueClient(orders.store, orders.clock, replace(orders.queue, uid=uid))
    yield other
    other.drop()


def test_each_queue_has_its_own_messages_and_numbers(orders: QueueClient, other: QueueClient) -> None:
    assert orders.post("a", "b") == [1, 2]
    assert other.post("x") == [1]
    assert orders.post("c") == [3]
    assert bodies(orders.list_everything()) == ["a", "b", "c"]
    assert bodies(other.list_everything()) == ["x"]
    assert bodies(orders.get(1)) == ["a"]
    assert bodies(other.get(1, 2, 3)) == ["x"]


def test_a_delete_changes_one_queue(orders: QueueClient, other: QueueClient) -> None:
    orders.post("a", "b", "c", "d")
    other.post("w", "x", "y", "z")
    orders.delete(1)
    orders.delete_many(2)
    orders.pop(1)
    assert bodies(orders.list_everything()) == ["d"]
    assert bodies(other.list_everything()) == ["w", "x", "y", "z"]


def test_a_claim_changes_one_queue(orders: QueueClient, other: QueueClient) -> None:
    orders.post("a", "b")
    other.post("x", "y")
    orders.claim()
    assert bodies(other.listing()) == ["x", "y"]
    assert bodies(other.claim()[1]) == ["x", "y"]


def test_the_claim_of_another_queue_does_nothing(orders: QueueClient, other: QueueClient) -> None:
    orders.post("a")
    other.post("x")
    foreign, held = orders.claim(ttl=60)
    other.claim()
    with pytest.raises(NotFound):
        other.get_claim(foreign)
    with pytest.raises(NotFound):
        other.renew(foreign, ttl=600)
    with pytest.raises(ClaimOver):
        other.delete(1, foreign)
    with pytest.raises(ClaimOver):
        other.delete_many(1, claim_ids=[foreign])
    other.release(foreign)
    claim, still_held = orders.get_claim(foreign)
    assert (claim.ttl, still_held) == (60, held)
    assert bodies(other.list_everything()) == ["x"]


def test_purge_drop_and_generation_change_one_queue(orders: QueueClient, other: QueueClient) -> None:
    orders.post("a")
    other.post("x")
    other.purge()
    assert bodies(orders.listing()) == ["a"]
    other.raise_generation()
    assert bodies(orders.listing()) == ["a"]
    other.drop()
    assert bodies(orders.listing()) == ["a"]
    assert orders.post("b") == [2]


def test_statistics_count_one_queue(orders: QueueClient, other: QueueClient) -> None:
    orders.post("a", "b")
    other.post(*"vwxyz")
    other.claim(2)
    assert (orders.stats().free, orders.stats().claimed) == (2, 0)
    assert (other.stats().free, other.stats().claimed) == (3, 2)


def test_ids_of_another_queue_are_of_no_use(orders: QueueClient, other: QueueClient) -> None:
    (number,) = orders.post("a")
    foreign = message_id(orders.queue.uid, number)
    assert sequence_of(orders.queue.uid, foreign) == number
    assert sequence_of(other.queue.uid, foreign) is None


def test_an_earlier_queue_of_the_name_leaves_nothing_behind(orders: QueueClient) -> None:
    orders.post("a", "b")
    claim_id, _ = orders.claim(1)
    orders.drop()
    later = orders.beside(orders.queue.name)
    assert later.list_everything() == []
    assert later.stats().total == 0
    assert later.post("x") == [1]
    with pytest.raises(NotFound):
        later.get_claim(claim_id)
    with pytest.raises(ClaimOver):
        later.delete(1, claim_id)
    assert sequence_of(later.queue.uid, message_id(orders.queue.uid, 1)) is None
    assert bodies(later.listing()) == ["x"]
    later.drop()
