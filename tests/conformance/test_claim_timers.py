# SPDX-License-Identifier: Apache-2.0
"""Promise 5, timers are exact, for claims: their end, renewal, grace and release act on every path."""

from __future__ import annotations

import pytest

from tests.clock import TICK
from tests.conformance.queue_client import QueueClient, bodies
from tests.conformance.test_timers import FREE_PATHS, Path, around, every_free_path
from zaqar.errors import ClaimOver, Forbidden, NotFound
from zaqar.model import Claim

# -- the end of a claim -----------------------------------------------------------------------------------------------


@around
@pytest.mark.parametrize("had", [FREE_PATHS[path] for path in ("list", "claim", "pop")], ids=["list", "claim", "pop"])
def test_the_messages_of_a_claim_are_free_when_it_ends(orders: QueueClient, had: Path, offset: float) -> None:
    orders.post("a")
    orders.claim(ttl=60)
    orders.clock.advance(60 + offset)
    assert had(orders) is (offset >= 0)


@around
def test_the_holder_can_do_nothing_when_the_claim_has_ended(orders: QueueClient, offset: float) -> None:
    orders.post("a", "b")
    claim_id, taken = orders.claim(ttl=60)
    orders.clock.advance(60 + offset)
    if offset < 0:
        assert orders.get_claim(claim_id)[1] == taken
        orders.delete(1, claim_id)
        orders.delete_many(2, claim_ids=[claim_id])
        assert orders.list_everything() == []
    else:
        with pytest.raises(NotFound):
            orders.get_claim(claim_id)
        with pytest.raises(NotFound):
            orders.renew(claim_id, ttl=600)
        with pytest.raises(ClaimOver):
            orders.delete(1, claim_id)
        with pytest.raises(ClaimOver):
            orders.delete_many(1, 2, claim_ids=[claim_id])
        assert bodies(orders.listing()) == ["a", "b"]


@around
def test_others_see_a_free_message_when_its_claim_has_ended(orders: QueueClient, offset: float) -> None:
    orders.post("a")
    claim_id, _ = orders.claim(ttl=60)
    orders.clock.advance(60 + offset)
    (message,) = orders.get(1)
    assert message == orders.listing(claimed=True)[0] == orders.stats().newest
    assert message.claim_id == (claim_id if offset < 0 else None)
    assert (orders.stats().free, orders.stats().claimed) == ((0, 1) if offset < 0 else (1, 0))
    if offset < 0:
        with pytest.raises(Forbidden):
            orders.delete(1)
    else:
        orders.delete(1)
        assert orders.list_everything() == []


@around
def test_a_message_can_be_claimed_again_and_again(orders: QueueClient, offset: float) -> None:
    orders.post("a")
    for _ in range(3):
        assert bodies(orders.claim(ttl=60, grace=60)[1]) == ["a"]
        orders.clock.advance(60 + offset)
        if offset < 0:
            assert orders.claim()[1] == []
            orders.clock.advance(-offset)


# -- renewal ----------------------------------------------------------------------------------------------------------


@around
def test_a_renewed_claim_counts_from_the_renewal(orders: QueueClient, offset: float) -> None:
    orders.post("a")
    claim_id, _ = orders.claim(ttl=60)
    orders.clock.advance(59)
    orders.renew(claim_id, ttl=100)
    orders.clock.advance(100 + offset)
    assert bool(orders.claim()[1]) is (offset >= 0)
    if offset < 0:
        assert bodies(orders.get_claim(claim_id)[1]) == ["a"]
    else:
        with pytest.raises(NotFound):
            orders.get_claim(claim_id)


def test_a_renewed_claim_is_live_at_its_old_end(orders: QueueClient) -> None:
    orders.post("a")
    claim_id, _ = orders.claim(ttl=60)
    orders.clock.advance(30)
    orders.renew(claim_id, ttl=60)
    for step in (30 - TICK, TICK, TICK, 29):
        orders.clock.advance(step)
        assert orders.claim()[1] == []
        assert orders.listing() == []
        assert bodies(orders.get_claim(claim_id)[1]) == ["a"]


@around
def test_a_renewal_may_end_a_claim_earlier(orders: QueueClient, offset: float) -> None:
    orders.post("a")
    claim_id, _ = orders.claim(ttl=600)
    orders.clock.advance(10)
    orders.renew(claim_id, ttl=60)
    orders.clock.advance(60 + offset)
    assert bool(orders.claim()[1]) is (offset >= 0)


@pytest.mark.parametrize(
    ("ttl", "grace", "expected"),
    [(None, None, (100, 70)), (200, None, (200, 70)), (None, 90, (100, 90)), (200, 90, (200, 90))],
)
def test_a_renewal_without_ttl_or_grace_keeps_the_old_value(
    orders: QueueClient, ttl: int | None, grace: int | None, expected: tuple[int, int]
) -> None:
    orders.post("a")
    claim_id, _ = orders.claim(ttl=100, grace=70)
    orders.clock.advance(10)
    orders.renew(claim_id, ttl=ttl, grace=grace)
    assert orders.get_claim(claim_id)[0] == Claim(claim_id, *expected, started=orders.now)


def test_a_renewal_does_not_count_as_a_claim(orders: QueueClient) -> None:
    orders.post("a")
    claim_id, _ = orders.claim()
    orders.renew(claim_id, ttl=600)
    orders.renew(claim_id)
    assert [message.claim_count for message in orders.get(1)] == [1]


def test_a_renewal_leases_no_further_messages(orders: QueueClient) -> None:
    orders.post("a", "b")
    claim_id, _ = orders.claim(1)
    orders.renew(claim_id, ttl=600)
    assert bodies(orders.get_claim(claim_id)[1]) == ["a"]
    assert bodies(orders.listing()) == ["b"]


# -- grace ------------------------------------------------------------------------------------------------------------


@around
@every_free_path
def test_a_claim_extends_the_life_of_a_message_to_its_end_plus_grace(
    orders: QueueClient, had: Path, offset: float
) -> None:
    orders.post("a", ttl=60)
    orders.clock.advance(30)
    orders.claim(ttl=100, grace=70)
    orders.clock.advance(170 + offset)
    assert had(orders) is (offset < 0)


def test_the_extended_life_is_shown(orders: QueueClient) -> None:
    orders.post("a", ttl=60)
    orders.clock.advance(30)
    _, (message,) = orders.claim(ttl=100, grace=70)
    assert message.expires == orders.now + 170
    assert message.created == orders.now - 30


def test_a_longer_ttl_is_not_changed(orders: QueueClient) -> None:
    orders.post("a", ttl=600)
    _, (message,) = orders.claim(ttl=100, grace=70)
    assert message.expires == orders.now + 600


@around
def test_a_claimed_message_outlives_its_ttl_while_the_claim_is_live(orders: QueueClient, offset: float) -> None:
    orders.post("a", ttl=60)
    claim_id, _ = orders.claim(ttl=300, grace=60)
    orders.clock.advance(60 + offset)
    assert bodies(orders.get_claim(claim_id)[1]) == ["a"]
    assert orders.stats().claimed == 1
    orders.delete(1, claim_id)
    assert orders.list_everything() == []


@around
def test_a_release_does_not_shorten_the_life(orders: QueueClient, offset: float) -> None:
    orders.post("a", ttl=60)
    claim_id, _ = orders.claim(ttl=100, grace=70)
    orders.release(claim_id)
    orders.clock.advance(170 + offset)
    assert bool(orders.listing()) is bool(orders.get(1)) is (offset < 0)


@around
def test_a_renewal_extends_the_life_again(orders: QueueClient, offset: float) -> None:
    orders.post("a", ttl=60)
    claim_id, _ = orders.claim(ttl=100, grace=70)
    orders.clock.advance(99)
    orders.renew(claim_id, ttl=200, grace=80)
    orders.clock.advance(280 + offset)
    assert bool(orders.listing()) is bool(orders.get(1)) is (offset < 0)


def test_a_renewal_that_ends_earlier_does_not_shorten_the_life(orders: QueueClient) -> None:
    orders.post("a", ttl=60)
    claim_id, _ = orders.claim(ttl=600, grace=600)
    end = orders.now + 1200
    orders.renew(claim_id, ttl=60, grace=60)
    assert [message.expires for message in orders.get(1)] == [end]
    orders.clock.now = end - TICK
    assert bodies(orders.listing()) == ["a"]


def test_a_renewal_with_only_a_longer_grace_extends_the_life(orders: QueueClient) -> None:
    orders.post("a", ttl=60)
    claim_id, _ = orders.claim(ttl=100, grace=60)
    orders.renew(claim_id, grace=500)
    assert [message.expires for message in orders.get(1)] == [orders.now + 600]


def test_a_renewal_extends_only_messages_that_the_claim_holds(orders: QueueClient) -> None:
    orders.post("deleted", "held", "free", ttl=60)
    claim_id, _ = orders.claim(2, ttl=60)
    orders.delete(1, claim_id)
    orders.renew(claim_id, ttl=600)
    orders.clock.advance(60)
    assert bodies(orders.list_everything()) == ["held"]


# -- release ----------------------------------------------------------------------------------------------------------


@every_free_path
def test_a_released_message_is_free_at_once(orders: QueueClient, had: Path) -> None:
    orders.post("a")
    claim_id, _ = orders.claim()
    orders.release(claim_id)
    assert orders.stats().free == 1
    assert had(orders)


def test_the_end_of_a_released_claim_does_not_end_the_next_claim(orders: QueueClient) -> None:
    orders.post("a")
    first, _ = orders.claim(ttl=60)
    orders.clock.advance(30)
    orders.release(first)
    second, _ = orders.claim(ttl=60)
    orders.clock.advance(30)
    assert orders.claim()[1] == []
    assert bodies(orders.get_claim(second)[1]) == ["a"]
