# SPDX-License-Identifier: Apache-2.0
"""Promise 4, one live claim: a message is under at most one live claim, and only its id deletes or renews."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.queue_client import QueueClient, at_once, bodies, new_claim_id
from zaqar.errors import ClaimOver, Forbidden, NotFound
from zaqar.model import Claim

GUESSED_IDS = ["", "0", "nonsense", "x" * 300, "Zo\u00eb \u20ac\U0001f600", "' or 1=1 --", "%", "a\x00b", "{}", "None"]


def test_a_claim_takes_the_first_free_messages(orders: QueueClient) -> None:
    orders.post(*"abcde")
    claim_id, first = orders.claim(2, ttl=100, grace=70)
    assert bodies(first) == ["a", "b"]
    assert [message.claim_id for message in first] == [claim_id, claim_id]
    assert [message.claim_count for message in first] == [1, 1]
    assert bodies(orders.claim(2)[1]) == ["c", "d"]
    assert bodies(orders.claim(2)[1]) == ["e"]


def test_a_claim_is_read_as_it_was_made(orders: QueueClient) -> None:
    orders.post(*"abc")
    claim_id, taken = orders.claim(2, ttl=100, grace=70)
    orders.clock.advance(10)
    claim, held = orders.get_claim(claim_id)
    assert claim == Claim(claim_id, 100, 70, orders.now - 10)
    assert held == taken


def test_claimed_messages_are_the_same_on_each_path(orders: QueueClient) -> None:
    orders.post(*"abc", ttl=60)
    claim_id, taken = orders.claim(2, ttl=100, grace=70)
    assert orders.get(1, 2) == taken
    assert orders.listing(claimed=True)[:2] == taken
    assert orders.get_claim(claim_id)[1] == taken
    assert orders.stats().oldest == taken[0]


def test_if_nothing_is_free_the_result_is_empty_and_no_claim_is_stored(orders: QueueClient) -> None:
    claim_id, taken = orders.claim()
    assert taken == []
    with pytest.raises(NotFound):
        orders.get_claim(claim_id)
    orders.post("claimed")
    orders.claim()
    orders.post("delayed", delay=60)
    claim_id, taken = orders.claim()
    assert taken == []
    with pytest.raises(NotFound):
        orders.get_claim(claim_id)


def test_a_claimed_message_is_not_given_out(orders: QueueClient) -> None:
    orders.post("a", "b")
    claim_id, _ = orders.claim(1)
    assert bodies(orders.listing()) == ["b"]
    assert bodies(orders.listing(claimed=True)) == ["a", "b"]
    assert bodies(orders.claim()[1]) == ["b"]
    assert orders.pop() == []
    assert [message.claim_id for message in orders.get(1)] == [claim_id]


def test_free_messages_behind_many_claimed_ones_are_found(orders: QueueClient) -> None:
    orders.post(*(str(n) for n in range(500)))
    orders.claim(499)
    assert bodies(orders.claim(1)[1]) == ["499"]
    assert orders.claim(1)[1] == []


@pytest.mark.parametrize("look", ["list", "claim", "pop", "stats"])
def test_a_message_posted_after_many_empty_claims_is_found(orders: QueueClient, look: str) -> None:
    looks: dict[str, Callable[[], object]] = {
        "list": orders.listing,
        "claim": lambda: orders.claim(1)[1],
        "pop": lambda: orders.pop(1),
        "stats": orders.stats,
    }
    orders.post(*["claimed"] * 500)
    held, _ = orders.claim(500, ttl=600)
    orders.post(*["expired"] * 500, ttl=60)
    orders.clock.advance(60)
    orders.post(*["late"] * 500, delay=120)
    for _ in range(3):
        looks[look]()
    orders.post("next")
    assert bodies(orders.listing()) == ["next"]
    assert bodies(orders.claim(1)[1]) == ["next"]
    looks[look]()
    orders.clock.advance(120)
    assert bodies(orders.pop(1)) == ["late"]
    orders.release(held)
    assert bodies(orders.listing(limit=1)) == ["claimed"]
    assert bodies(orders.claim(501)[1]) == ["claimed"] * 500 + ["late"]


def test_each_claim_adds_one_to_the_claim_count(orders: QueueClient) -> None:
    orders.post("a")
    for count in range(1, 5):
        claim_id, taken = orders.claim()
        assert [message.claim_count for message in taken] == [count]
        orders.release(claim_id)
    assert [message.claim_count for message in orders.listing()] == [4]
    assert [message.claim_id for message in orders.listing()] == [None]


# -- deleting one -----------------------------------------------------------------------------------------------------


def test_a_message_is_deleted_with_the_id_of_its_claim(orders: QueueClient) -> None:
    orders.post("a", "b")
    claim_id, _ = orders.claim()
    orders.delete(1, claim_id)
    assert bodies(orders.list_everything()) == ["b"]
    assert bodies(orders.get_claim(claim_id)[1]) == ["b"]


def test_a_claim_stays_live_when_all_its_messages_are_deleted(orders: QueueClient) -> None:
    orders.post("a")
    claim_id, _ = orders.claim(ttl=60)
    orders.delete(1, claim_id)
    claim, held = orders.get_claim(claim_id)
    assert (claim.id, held) == (claim_id, [])


def test_a_claimed_message_is_not_deleted_without_claim_id(orders: QueueClient) -> None:
    orders.post("a")
    orders.claim()
    with pytest.raises(Forbidden):
        orders.delete(1)
    assert bodies(orders.list_everything()) == ["a"]


def test_a_message_is_not_deleted_with_the_id_of_another_live_claim(orders: QueueClient) -> None:
    orders.post("a", "b")
    orders.claim(1)
    other, _ = orders.claim(1)
    with pytest.raises(Forbidden):
        orders.delete(1, other)
    assert bodies(orders.list_everything()) == ["a", "b"]


@pytest.mark.parametrize("guess", GUESSED_IDS, ids=ascii)
def test_a_guessed_claim_id_does_nothing(orders: QueueClient, guess: str) -> None:
    orders.post("claimed", "free")
    orders.claim(1)
    for sequence in (1, 2):
        with pytest.raises(ClaimOver):
            orders.delete(sequence, guess)
        with pytest.raises(ClaimOver):
            orders.delete_many(sequence, claim_ids=[guess])
    with pytest.raises(NotFound):
        orders.get_claim(guess)
    with pytest.raises(NotFound):
        orders.renew(guess, ttl=600)
    orders.release(guess)
    assert bodies(orders.list_everything()) == ["claimed", "free"]
    assert bodies(orders.listing()) == ["free"]


def test_a_live_claim_does_not_delete_a_free_message(orders: QueueClient) -> None:
    orders.post("a", "b")
    claim_id, _ = orders.claim(1)
    with pytest.raises(ClaimOver):
        orders.delete(2, claim_id)
    assert bodies(orders.listing()) == ["b"]


def test_a_live_claim_does_not_delete_a_delayed_message(orders: QueueClient) -> None:
    orders.post("a")
    claim_id, _ = orders.claim(1)
    orders.post("late", delay=60)
    with pytest.raises(ClaimOver):
        orders.delete(2, claim_id)
    assert bodies(orders.listing(delayed=True)) == ["late"]


def test_an_ended_claim_cannot_touch_a_message_that_has_a_new_claim(orders: QueueClient) -> None:
    orders.post("a")
    old, _ = orders.claim(ttl=60)
    orders.clock.advance(60)
    new, taken = orders.claim(ttl=60)
    assert bodies(taken) == ["a"]
    with pytest.raises(ClaimOver):
        orders.delete(1, old)
    with pytest.raises(ClaimOver):
        orders.delete_many(1, claim_ids=[old])
    with pytest.raises(NotFound):
        orders.renew(old, ttl=600)
    orders.release(old)
    assert orders.get_claim(new)[1] == taken
    orders.delete(1, new)
    assert orders.list_everything() == []


def test_a_released_claim_deletes_and_renews_nothing(orders: QueueClient) -> None:
    orders.post("a")
    old, _ = orders.claim()
    orders.release(old)
    with pytest.raises(ClaimOver):
        orders.delete(1, old)
    with pytest.raises(NotFound):
        orders.get_claim(old)
    with pytest.raises(NotFound):
        orders.renew(old)
    new, taken = orders.claim()
    with pytest.raises(ClaimOver):
        orders.delete(1, old)
    orders.release(old)
    assert orders.get_claim(new)[1] == taken


def test_a_release_of_a_released_or_absent_claim_is_no_error(orders: QueueClient) -> None:
    orders.post("a")
    claim_id, _ = orders.claim()
    orders.release(claim_id)
    orders.release(claim_id)
    orders.release(new_claim_id())
    assert bodies(orders.listing()) == ["a"]


def test_a_delete_of_an_absent_message_is_no_error_with_any_claim_id(orders: QueueClient) -> None:
    orders.post("a", "b")
    live, _ = orders.claim(1)
    orders.delete(1, live)
    for claim_id in (None, live, new_claim_id()):
        orders.delete(1, claim_id)
        orders.delete(99, claim_id)
        orders.delete(2**48 - 1, claim_id)
        assert bodies(orders.list_everything()) == ["b"]


# -- deleting several -------------------------------------------------------------------------------------------------


def test_delete_many_deletes_messages_of_several_claims(orders: QueueClient) -> None:
    orders.post(*"abcd")
    first, _ = orders.claim(1)
    second, _ = orders.claim(2)
    orders.delete_many(1, 2, claim_ids=[first, second])
    assert bodies(orders.list_everything()) == ["c", "d"]


@pytest.mark.parametrize("case", ["free", "of another claim", "of no claim", "claim over"])
def test_delete_many_deletes_nothing_if_one_message_is_not_held(orders: QueueClient, case: str) -> None:
    orders.post(*"abc")
    over, _ = orders.claim(1, ttl=60)
    orders.clock.advance(60)
    mine, _ = orders.claim(1)
    other, _ = orders.claim(1)
    sequences, claim_ids = {
        "free": ((1, 3), [mine, other]),
        "of another claim": ((1, 2), [mine]),
        "of no claim": ((1,), []),
        "claim over": ((1,), [over]),
    }[case]
    with pytest.raises(ClaimOver):
        orders.delete_many(*sequences, claim_ids=claim_ids)
    assert bodies(orders.list_everything()) == ["a", "b", "c"]


def test_delete_many_ignores_absent_messages(orders: QueueClient) -> None:
    orders.post(*"abc")
    claim_id, _ = orders.claim(2)
    orders.delete_many(1, 7, 2**48 - 1, claim_ids=[claim_id])
    orders.delete_many(1, 7, claim_ids=[])
    orders.delete_many(1, 7)
    orders.delete_many()
    assert bodies(orders.list_everything()) == ["b", "c"]


def test_delete_many_without_claim_ids_ignores_claims(orders: QueueClient) -> None:
    orders.post(*"abc")
    claim_id, _ = orders.claim(1)
    orders.post("d", delay=60)
    orders.delete_many(1, 2, 4)
    assert bodies(orders.list_everything()) == ["c"]
    assert orders.get_claim(claim_id)[1] == []


def test_delete_many_accepts_a_number_twice(orders: QueueClient) -> None:
    orders.post(*"ab")
    claim_id, _ = orders.claim(1)
    assert bodies(orders.get(2, 2, 1)) == ["a", "b"]
    orders.delete_many(1, 1, claim_ids=[claim_id, claim_id])
    assert bodies(orders.list_everything()) == ["b"]
    assert orders.stats().total == 1


# -- many at a time ---------------------------------------------------------------------------------------------------


def test_concurrent_claims_never_return_the_same_message(orders: QueueClient) -> None:
    orders.post(*(str(n) for n in range(200)))
    taken: list[str] = []

    def claim_until_empty() -> None:
        while got := orders.claim(3)[1]:
            taken.extend(bodies(got))

    at_once(*[claim_until_empty] * 8)
    assert sorted(taken, key=int) == [str(n) for n in range(200)]


def test_an_empty_claim_means_that_nothing_was_free(orders: QueueClient) -> None:
    """Skipping what somebody else is just taking must not come out as 'nothing there'."""
    orders.post(*(str(n) for n in range(64)))
    answers: list[int] = []

    def claim_eight_times() -> None:
        answers.extend(len(orders.claim(1)[1]) for _ in range(8))

    at_once(*[claim_eight_times] * 8)
    assert answers == [1] * 64
