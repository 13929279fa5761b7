# SPDX-License-Identifier: Apache-2.0
"""Promise 6, deleted stays deleted: a message is popped at most once, and a purge empties the queue in one step."""

from __future__ import annotations

import pytest

from tests.conformance.queue_client import QueueClient, at_once, bodies
from zaqar.errors import NotFound


def sees_nothing_ever(orders: QueueClient) -> None:
    for step in (0, 30, 30, 600, 86_400):
        orders.clock.advance(step)
        assert orders.list_everything() == []
        assert orders.get(*range(1, 20)) == []
        assert orders.claim()[1] == []
        assert orders.pop() == []
        assert orders.stats().total == 0


@pytest.mark.parametrize("state", ["free", "claimed", "released", "claim over", "delayed", "renewed"])
def test_a_message_deleted_in_any_state_stays_deleted(orders: QueueClient, state: str) -> None:
    orders.post("a", ttl=86_400, delay=60 if state == "delayed" else 0)
    claim_id = None
    if state != "free" and state != "delayed":
        claim_id, _ = orders.claim(ttl=60, grace=43_200)
    if state == "released":
        orders.release(claim_id or "")
        claim_id = None
    elif state == "claim over":
        orders.clock.advance(60)
        claim_id = None
    elif state == "renewed":
        orders.renew(claim_id or "", ttl=600)
    orders.delete(1, claim_id)
    sees_nothing_ever(orders)


def test_a_release_does_not_bring_back_a_deleted_message(orders: QueueClient) -> None:
    orders.post("a", "b", "c")
    claim_id, _ = orders.claim()
    orders.delete(1, claim_id)
    orders.delete_many(2, claim_ids=[claim_id])
    orders.release(claim_id)
    assert bodies(orders.list_everything()) == ["c"]


def test_a_renewal_does_not_bring_back_a_deleted_message(orders: QueueClient) -> None:
    orders.post("a", "b")
    claim_id, _ = orders.claim(ttl=60)
    orders.delete(1, claim_id)
    orders.renew(claim_id, ttl=600)
    assert bodies(orders.get_claim(claim_id)[1]) == ["b"]
    orders.clock.advance(600)
    assert bodies(orders.listing()) == ["b"]


def test_the_end_of_a_claim_does_not_bring_back_a_deleted_message(orders: QueueClient) -> None:
    orders.post("a", "b")
    orders.claim(ttl=60)
    orders.delete_many(1)
    orders.clock.advance(60)
    assert bodies(orders.claim()[1]) == ["b"]


def test_a_second_delete_is_no_error(orders: QueueClient) -> None:
    orders.post("a", "b")
    for _ in range(2):
        orders.delete(1)
        orders.delete_many(1)
    assert bodies(orders.listing()) == ["b"]


# -- pop --------------------------------------------------------------------------------------------------------------


def test_a_pop_removes_the_first_messages_for_good(orders: QueueClient) -> None:
    orders.post(*"abcde")
    before = orders.listing()
    assert orders.pop(2) == before[:2]
    assert orders.list_everything() == before[2:]
    assert orders.pop(20) == before[2:]
    sees_nothing_ever(orders)


def test_a_pop_leaves_claimed_and_delayed_messages(orders: QueueClient) -> None:
    orders.post("claimed")
    claim_id, _ = orders.claim()
    orders.post("delayed", delay=60)
    orders.post("free")
    assert bodies(orders.pop()) == ["free"]
    assert orders.pop() == []
    orders.release(claim_id)
    orders.clock.advance(60)
    assert bodies(orders.pop()) == ["claimed", "delayed"]


def test_a_pop_returns_a_message_as_it_was(orders: QueueClient) -> None:
    orders.post("a", ttl=60)
    orders.claim_and_release(1, times=3)
    (expected,) = orders.listing()
    assert (expected.claim_count, expected.claim_id) == (3, None)
    assert orders.pop() == [expected]


def test_a_pop_finds_free_messages_behind_many_claimed_ones(orders: QueueClient) -> None:
    orders.post(*["claimed"] * 200)
    orders.claim()
    orders.post(*["late"] * 200, delay=600)
    orders.post(*["expired"] * 200, ttl=60)
    orders.clock.advance(59)
    orders.post("free")
    orders.clock.advance(0.75)
    assert bodies(orders.pop(1)) == ["expired"]
    orders.clock.advance(0.25)
    assert bodies(orders.pop(1)) == ["claimed"]
    orders.delete_many(*range(1, 201))
    assert bodies(orders.pop(1)) == ["free"]


def test_concurrent_pops_return_each_message_once(orders: QueueClient) -> None:
    orders.post(*(str(n) for n in range(200)))
    popped: list[str] = []

    def pop_until_empty() -> None:
        while got := orders.pop(3):
            popped.extend(bodies(got))

    at_once(*[pop_until_empty] * 8)
    assert sorted(popped, key=int) == [str(n) for n in range(200)]


# -- purge ------------------------------------------------------------------------------------------------------------


def test_a_purge_removes_messages_in_each_state_and_all_claims(orders: QueueClient) -> None:
    orders.post("free", "claimed", "released", "over", "delayed")
    orders.post("delayed", delay=30)
    orders.claim(1)
    live, _ = orders.claim(1, ttl=600)
    released, _ = orders.claim(1)
    orders.release(released)
    orders.purge()
    with pytest.raises(NotFound):
        orders.get_claim(live)
    with pytest.raises(NotFound):
        orders.renew(live)
    orders.delete(2, live)
    sees_nothing_ever(orders)


def test_a_purged_queue_can_be_used(orders: QueueClient) -> None:
    orders.post("old")
    orders.purge()
    orders.post("new")
    assert bodies(orders.listing()) == ["new"]
    assert bodies(orders.claim()[1]) == ["new"]
    assert (orders.stats().free, orders.stats().claimed) == (0, 1)


def test_a_purge_removes_more_messages_than_a_page_has(orders: QueueClient) -> None:
    orders.post(*["x"] * 3000)
    orders.claim(1000)
    orders.purge()
    assert orders.stats().total == 0
    assert orders.list_everything() == []
    orders.purge()


def test_a_purge_touches_no_other_queue(orders: QueueClient) -> None:
    other = orders.beside()
    other.post("a", "b")
    claim_id, held = other.claim(1)
    orders.post("c")
    orders.purge()
    assert bodies(other.list_everything()) == ["a", "b"]
    assert other.get_claim(claim_id)[1] == held
    other.drop()
