# SPDX-License-Identifier: Apache-2.0
"""Part ``queues``, ``positions``: exact at every moment, and a call changes nothing."""

from __future__ import annotations

import pytest

from tests.clock import TICK
from tests.conformance.queue_client import QueueClient, new_queue
from zaqar.model import DeadLetters, QueuePosition

NEVER_OPENED = new_queue().uid


def position_of(orders: QueueClient) -> QueuePosition:
    found = orders.store.queues.positions(uids=[orders.queue.uid], now=orders.now)
    assert list(found) == [orders.queue.uid]
    return found[orders.queue.uid]


def test_an_empty_queue_has_nothing_free_and_nothing_due(orders: QueueClient) -> None:
    assert position_of(orders) == QueuePosition(last=0, free=False, next_due=None)


def test_a_post_moves_the_position_and_is_free(orders: QueueClient) -> None:
    orders.post("a")
    assert position_of(orders) == QueuePosition(1, True, None)
    orders.post("b", "c")
    assert position_of(orders) == QueuePosition(3, True, None)


def test_the_last_number_stays_when_the_message_is_gone(orders: QueueClient) -> None:
    _, number = orders.post("a", "b")
    orders.delete(number)
    assert position_of(orders) == QueuePosition(2, True, None)
    orders.pop()
    assert position_of(orders) == QueuePosition(2, False, None)


def test_a_delayed_message_is_due_at_the_end_of_its_delay(orders: QueueClient) -> None:
    orders.post("a", delay=60)
    end = orders.now + 60
    assert position_of(orders) == QueuePosition(1, False, end)
    orders.clock.advance(60 - TICK)
    assert position_of(orders) == QueuePosition(1, False, end)
    orders.clock.advance(TICK)
    assert position_of(orders) == QueuePosition(1, True, None)
    assert len(orders.claim()[1]) == 1


def test_a_claimed_message_is_due_at_the_end_of_its_claim(orders: QueueClient) -> None:
    orders.post("a", "b")
    orders.claim(1, ttl=60)
    end = orders.now + 60
    assert position_of(orders) == QueuePosition(2, True, end)
    orders.claim(1, ttl=90)
    assert position_of(orders) == QueuePosition(2, False, end)
    orders.clock.advance(60 - TICK)
    assert position_of(orders) == QueuePosition(2, False, end)
    orders.clock.advance(TICK)
    assert position_of(orders) == QueuePosition(2, True, end + 30)
    assert len(orders.claim(ttl=300)[1]) == 1
    assert position_of(orders) == QueuePosition(2, False, end + 30)


def test_a_released_message_is_free(orders: QueueClient) -> None:
    orders.post("a")
    claim_id, _ = orders.claim()
    orders.release(claim_id)
    assert position_of(orders) == QueuePosition(1, True, None)


def test_a_renewal_moves_the_due_time(orders: QueueClient) -> None:
    orders.post("a")
    claim_id, _ = orders.claim(ttl=60)
    orders.clock.advance(30)
    orders.renew(claim_id, ttl=300)
    assert position_of(orders) == QueuePosition(1, False, orders.now + 300)


def test_a_message_that_is_deleted_while_it_is_claimed_is_not_due(orders: QueueClient) -> None:
    orders.post("a", "b")
    claim_id, (first, second) = orders.claim(ttl=60)
    orders.delete(first.sequence, claim_id)
    assert position_of(orders) == QueuePosition(2, False, orders.now + 60)
    orders.delete(second.sequence, claim_id)
    assert position_of(orders) == QueuePosition(2, False, None)


def test_the_earliest_due_time_is_given(orders: QueueClient) -> None:
    orders.post("late", delay=300)
    orders.post("soon", delay=60)
    orders.post("a")
    orders.claim(ttl=120)
    ends = [orders.now + seconds for seconds in (60, 120, 300)]
    for end in ends:
        assert position_of(orders).next_due == end
        orders.clock.now = end
    assert position_of(orders) == QueuePosition(3, True, None)


def test_an_expired_message_is_not_free(orders: QueueClient) -> None:
    orders.post("a", ttl=60)
    orders.post("delayed", ttl=60, delay=30)
    orders.clock.advance(60 - TICK)
    assert position_of(orders) == QueuePosition(2, True, None)
    orders.clock.advance(TICK)
    assert position_of(orders) == QueuePosition(2, False, None)


def test_a_message_behind_some_expired_ones_is_free(orders: QueueClient) -> None:
    orders.post(*["x"] * 20, ttl=60)
    orders.post("lives")
    orders.post(*["x"] * 20, ttl=60)
    orders.clock.advance(60)
    assert position_of(orders) == QueuePosition(41, True, None)
    orders.pop()
    assert position_of(orders) == QueuePosition(41, False, None)


@pytest.mark.parametrize("delay", [0, 30])
def test_a_message_behind_very_many_expired_ones_is_free(orders: QueueClient, delay: int) -> None:
    orders.post(*["x"] * 300, ttl=60, delay=delay)
    orders.post("lives", delay=delay)
    orders.clock.advance(60)
    assert position_of(orders) == QueuePosition(301, True, None)
    assert len(orders.claim()[1]) == 1
    orders.clock.advance(2)  # until then they may live by the clock of another host
    assert orders.claim()[1] == []
    assert not position_of(orders).free


def test_an_expired_message_that_was_claimed_is_not_free(orders: QueueClient) -> None:
    orders.post("a", ttl=60)
    orders.claim(ttl=120, grace=0)
    orders.clock.advance(120)
    assert position_of(orders) == QueuePosition(1, False, None)


def test_a_purged_queue_has_nothing_free_and_nothing_due(orders: QueueClient) -> None:
    orders.post("a", "b")
    orders.post("delayed", delay=60)
    orders.claim(1)
    orders.purge()
    assert position_of(orders) == QueuePosition(3, False, None)
    orders.post("c")
    assert position_of(orders) == QueuePosition(4, True, None)


def test_a_dropped_or_unknown_queue_is_absent(orders: QueueClient) -> None:
    orders.post("a")
    orders.drop()
    assert orders.store.queues.positions(uids=[orders.queue.uid, NEVER_OPENED, "nonsense"], now=orders.now) == {}
    assert orders.store.queues.positions(uids=[], now=orders.now) == {}


def test_several_queues_in_one_call(orders: QueueClient) -> None:
    others = [orders.beside(f"other-{n}") for n in range(20)]
    orders.post("a")
    for n, other in enumerate(others):
        if n:
            other.post(*["x"] * n, delay=60 + n if n % 2 else 0)
    uids = [orders.queue.uid, NEVER_OPENED, *(other.queue.uid for other in others)]
    found = orders.store.queues.positions(uids=uids, now=orders.now)
    assert found == {
        orders.queue.uid: QueuePosition(1, True, None),
        **{
            other.queue.uid: QueuePosition(n, n > 0 and n % 2 == 0, orders.now + 60 + n if n % 2 else None)
            for n, other in enumerate(others)
        },
    }
    for other in others:
        other.drop()


def test_five_hundred_queues_in_one_call(orders: QueueClient) -> None:
    orders.post("a")
    uids = {orders.queue.uid, *(new_queue().uid for _ in range(499))}
    assert orders.store.queues.positions(uids=uids, now=orders.now) == {orders.queue.uid: QueuePosition(1, True, None)}


def test_the_generation_does_not_matter(orders: QueueClient) -> None:
    orders.post("a")
    orders.raise_generation()
    orders.post("b")
    assert position_of(orders) == QueuePosition(2, True, None)


def test_dead_letters_count_in_the_queue_that_they_are_moved_to(orders: QueueClient) -> None:
    letters = orders.beside("dead")
    orders.post("a", "b")
    orders.claim_and_release(1, times=2)
    assert len(orders.claim(dead_letters=DeadLetters(letters.queue, 2))[1]) == 1
    assert position_of(letters) == QueuePosition(1, True, None)
    assert position_of(orders) == QueuePosition(2, False, orders.now + 60)
    letters.drop()


def test_a_call_changes_nothing(orders: QueueClient) -> None:
    """Also a look by a clock that is ahead: nothing is put into another state for who comes later by another one."""
    orders.post("delayed", delay=60)
    orders.post("a", ttl=90)
    claim_id, _ = orders.claim(ttl=60, grace=30)
    before = orders.list_everything()
    ahead = orders.store.queues.positions(uids=[orders.queue.uid], now=orders.now + 75)
    assert ahead[orders.queue.uid] == QueuePosition(2, True, None)
    assert orders.list_everything() == before
    assert position_of(orders) == QueuePosition(2, False, orders.now + 60)
    assert len(orders.get_claim(claim_id)[1]) == 1


# -- the end of a delay, in messages ----------------------------------------------------------------------------------


def test_a_delayed_message_says_when_it_is_due(orders: QueueClient) -> None:
    orders.post("a")
    orders.post("delayed", delay=60)
    orders.post("later", delay=90)
    dues = [None, orders.now + 60, orders.now + 90]
    assert [message.due for message in orders.listing(delayed=True)] == dues
    assert [message.due for message in orders.list_everything()] == dues
    assert [message.due for message in orders.get(1, 2, 3)] == dues
    assert [message.due for message in orders.listing()] == [None]


def test_a_message_whose_delay_has_ended_is_not_due(orders: QueueClient) -> None:
    orders.post("delayed", delay=60)
    end = orders.now + 60
    orders.clock.advance(60 - TICK)
    assert [message.due for message in [*orders.get(1), *orders.listing(delayed=True)]] == [end, end]
    orders.clock.advance(TICK)
    assert [message.due for message in [*orders.get(1), *orders.listing(delayed=True)]] == [None, None]


def test_a_claimed_message_is_not_due(orders: QueueClient) -> None:
    """Its claim may end earlier: by a release. So no reader could rely on that."""
    orders.post("a")
    orders.post("delayed", delay=10)
    orders.clock.advance(10)
    claim_id, taken = orders.claim()
    assert [message.due for message in taken] == [None, None]
    assert [message.due for message in orders.listing(claimed=True)] == [None, None]
    assert [message.due for message in orders.get(1, 2)] == [None, None]
    assert [message.due for message in orders.get_claim(claim_id)[1]] == [None, None]
    orders.clock.advance(60)
    assert [message.due for message in [*orders.get(1, 2), *orders.listing()]] == [None] * 4
