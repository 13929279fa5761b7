# SPDX-License-Identifier: Apache-2.0
"""Promise 4: a message is under at most one live claim, and only that claim's id does anything to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.scene import Scene, at_once, bodies, new_claim_id
from zaqar.errors import ClaimOver, Forbidden, NotFound
from zaqar.model import Claim

GUESSED_IDS = ["", "0", "nonsense", "x" * 300, "Zo\u00eb \u20ac\U0001f600", "' or 1=1 --", "%", "a\x00b", "{}", "None"]


def test_a_claim_takes_the_first_free_messages(scene: Scene) -> None:
    scene.post(*"abcde")
    claim_id, first = scene.claim(2, ttl=100, grace=70)
    assert bodies(first) == ["a", "b"]
    assert [message.claim_id for message in first] == [claim_id, claim_id]
    assert [message.claim_count for message in first] == [1, 1]
    assert bodies(scene.claim(2)[1]) == ["c", "d"]
    assert bodies(scene.claim(2)[1]) == ["e"]


def test_a_claim_is_what_it_was_made_with(scene: Scene) -> None:
    scene.post(*"abc")
    claim_id, taken = scene.claim(2, ttl=100, grace=70)
    scene.clock.advance(10)
    claim, held = scene.get_claim(claim_id)
    assert claim == Claim(claim_id, 100, 70, scene.now - 10)
    assert held == taken


def test_what_a_claim_answers_is_what_other_paths_show(scene: Scene) -> None:
    scene.post(*"abc", ttl=60)
    claim_id, taken = scene.claim(2, ttl=100, grace=70)
    assert scene.get(1, 2) == taken
    assert scene.listing(claimed=True)[:2] == taken
    assert scene.get_claim(claim_id)[1] == taken
    assert scene.stats().oldest == taken[0]


def test_nothing_free_is_an_empty_answer_and_no_claim(scene: Scene) -> None:
    claim_id, taken = scene.claim()
    assert taken == []
    with pytest.raises(NotFound):
        scene.get_claim(claim_id)
    scene.post("claimed")
    scene.claim()
    scene.post("delayed", delay=60)
    claim_id, taken = scene.claim()
    assert taken == []
    with pytest.raises(NotFound):
        scene.get_claim(claim_id)


def test_a_claimed_message_is_not_given_out(scene: Scene) -> None:
    scene.post("a", "b")
    claim_id, _ = scene.claim(1)
    assert bodies(scene.listing()) == ["b"]
    assert bodies(scene.listing(claimed=True)) == ["a", "b"]
    assert bodies(scene.claim()[1]) == ["b"]
    assert scene.pop() == []
    assert [message.claim_id for message in scene.get(1)] == [claim_id]


def test_free_messages_behind_many_claimed_ones_are_found(scene: Scene) -> None:
    scene.post(*(str(n) for n in range(500)))
    scene.claim(499)
    assert bodies(scene.claim(1)[1]) == ["499"]
    assert scene.claim(1)[1] == []


@pytest.mark.parametrize("look", ["list", "claim", "pop", "stats"])
def test_what_comes_after_many_looks_in_vain_is_found(scene: Scene, look: str) -> None:
    looks: dict[str, Callable[[], object]] = {
        "list": scene.listing,
        "claim": lambda: scene.claim(1)[1],
        "pop": lambda: scene.pop(1),
        "stats": scene.stats,
    }
    scene.post(*["claimed"] * 500)
    held, _ = scene.claim(500, ttl=600)
    scene.post(*["expired"] * 500, ttl=60)
    scene.clock.advance(60)
    scene.post(*["late"] * 500, delay=120)
    for _ in range(3):
        looks[look]()
    scene.post("next")
    assert bodies(scene.listing()) == ["next"]
    assert bodies(scene.claim(1)[1]) == ["next"]
    looks[look]()
    scene.clock.advance(120)
    assert bodies(scene.pop(1)) == ["late"]
    scene.release(held)
    assert bodies(scene.listing(limit=1)) == ["claimed"]
    assert bodies(scene.claim(501)[1]) == ["claimed"] * 500 + ["late"]


def test_each_claim_counts(scene: Scene) -> None:
    scene.post("a")
    for count in range(1, 5):
        claim_id, taken = scene.claim()
        assert [message.claim_count for message in taken] == [count]
        scene.release(claim_id)
    assert [message.claim_count for message in scene.listing()] == [4]
    assert [message.claim_id for message in scene.listing()] == [None]


# -- deleting one -----------------------------------------------------------------------------------------------------


def test_a_claim_deletes_what_it_holds(scene: Scene) -> None:
    scene.post("a", "b")
    claim_id, _ = scene.claim()
    scene.delete(1, claim_id)
    assert bodies(scene.list_everything()) == ["b"]
    assert bodies(scene.get_claim(claim_id)[1]) == ["b"]


def test_a_claim_lives_on_when_all_it_held_is_deleted(scene: Scene) -> None:
    scene.post("a")
    claim_id, _ = scene.claim(ttl=60)
    scene.delete(1, claim_id)
    claim, held = scene.get_claim(claim_id)
    assert (claim.id, held) == (claim_id, [])


def test_without_a_claim_id_a_claimed_message_stays(scene: Scene) -> None:
    scene.post("a")
    scene.claim()
    with pytest.raises(Forbidden):
        scene.delete(1)
    assert bodies(scene.list_everything()) == ["a"]


def test_another_live_claim_cannot_delete(scene: Scene) -> None:
    scene.post("a", "b")
    scene.claim(1)
    other, _ = scene.claim(1)
    with pytest.raises(Forbidden):
        scene.delete(1, other)
    assert bodies(scene.list_everything()) == ["a", "b"]


@pytest.mark.parametrize("guess", GUESSED_IDS, ids=ascii)
def test_a_guessed_claim_id_does_nothing(scene: Scene, guess: str) -> None:
    scene.post("claimed", "free")
    scene.claim(1)
    for sequence in (1, 2):
        with pytest.raises(ClaimOver):
            scene.delete(sequence, guess)
        with pytest.raises(ClaimOver):
            scene.delete_many(sequence, claim_ids=[guess])
    with pytest.raises(NotFound):
        scene.get_claim(guess)
    with pytest.raises(NotFound):
        scene.renew(guess, ttl=600)
    scene.release(guess)
    assert bodies(scene.list_everything()) == ["claimed", "free"]
    assert bodies(scene.listing()) == ["free"]


def test_a_live_claim_does_not_delete_a_free_message(scene: Scene) -> None:
    scene.post("a", "b")
    claim_id, _ = scene.claim(1)
    with pytest.raises(ClaimOver):
        scene.delete(2, claim_id)
    assert bodies(scene.listing()) == ["b"]


def test_a_live_claim_does_not_delete_a_delayed_message(scene: Scene) -> None:
    scene.post("a")
    claim_id, _ = scene.claim(1)
    scene.post("late", delay=60)
    with pytest.raises(ClaimOver):
        scene.delete(2, claim_id)
    assert bodies(scene.listing(delayed=True)) == ["late"]


def test_a_claim_that_ended_is_fenced_off_when_the_message_has_a_new_one(scene: Scene) -> None:
    scene.post("a")
    old, _ = scene.claim(ttl=60)
    scene.clock.advance(60)
    new, taken = scene.claim(ttl=60)
    assert bodies(taken) == ["a"]
    with pytest.raises(ClaimOver):
        scene.delete(1, old)
    with pytest.raises(ClaimOver):
        scene.delete_many(1, claim_ids=[old])
    with pytest.raises(NotFound):
        scene.renew(old, ttl=600)
    scene.release(old)
    assert scene.get_claim(new)[1] == taken
    scene.delete(1, new)
    assert scene.list_everything() == []


def test_a_released_claim_is_fenced_off(scene: Scene) -> None:
    scene.post("a")
    old, _ = scene.claim()
    scene.release(old)
    with pytest.raises(ClaimOver):
        scene.delete(1, old)
    with pytest.raises(NotFound):
        scene.get_claim(old)
    with pytest.raises(NotFound):
        scene.renew(old)
    new, taken = scene.claim()
    with pytest.raises(ClaimOver):
        scene.delete(1, old)
    scene.release(old)
    assert scene.get_claim(new)[1] == taken


def test_releasing_twice_or_what_is_not_there_is_fine(scene: Scene) -> None:
    scene.post("a")
    claim_id, _ = scene.claim()
    scene.release(claim_id)
    scene.release(claim_id)
    scene.release(new_claim_id())
    assert bodies(scene.listing()) == ["a"]


def test_an_absent_message_is_fine_whatever_the_claim_id(scene: Scene) -> None:
    scene.post("a", "b")
    live, _ = scene.claim(1)
    scene.delete(1, live)
    for claim_id in (None, live, new_claim_id()):
        scene.delete(1, claim_id)
        scene.delete(99, claim_id)
        scene.delete(2**48 - 1, claim_id)
        assert bodies(scene.list_everything()) == ["b"]


# -- deleting several -------------------------------------------------------------------------------------------------


def test_several_are_deleted_with_their_claims(scene: Scene) -> None:
    scene.post(*"abcd")
    first, _ = scene.claim(1)
    second, _ = scene.claim(2)
    scene.delete_many(1, 2, claim_ids=[first, second])
    assert bodies(scene.list_everything()) == ["c", "d"]


@pytest.mark.parametrize("case", ["free", "of another claim", "of no claim", "claim over"])
def test_one_that_is_not_held_keeps_them_all(scene: Scene, case: str) -> None:
    scene.post(*"abc")
    over, _ = scene.claim(1, ttl=60)
    scene.clock.advance(60)
    mine, _ = scene.claim(1)
    other, _ = scene.claim(1)
    sequences, claim_ids = {
        "free": ((1, 3), [mine, other]),
        "of another claim": ((1, 2), [mine]),
        "of no claim": ((1,), []),
        "claim over": ((1,), [over]),
    }[case]
    with pytest.raises(ClaimOver):
        scene.delete_many(*sequences, claim_ids=claim_ids)
    assert bodies(scene.list_everything()) == ["a", "b", "c"]


def test_absent_ones_are_fine_in_bulk(scene: Scene) -> None:
    scene.post(*"abc")
    claim_id, _ = scene.claim(2)
    scene.delete_many(1, 7, 2**48 - 1, claim_ids=[claim_id])
    scene.delete_many(1, 7, claim_ids=[])
    scene.delete_many(1, 7)
    scene.delete_many()
    assert bodies(scene.list_everything()) == ["b", "c"]


def test_without_claim_ids_claims_do_not_matter(scene: Scene) -> None:
    scene.post(*"abc")
    claim_id, _ = scene.claim(1)
    scene.post("d", delay=60)
    scene.delete_many(1, 2, 4)
    assert bodies(scene.list_everything()) == ["c"]
    assert scene.get_claim(claim_id)[1] == []


def test_the_same_message_named_twice_is_one(scene: Scene) -> None:
    scene.post(*"ab")
    claim_id, _ = scene.claim(1)
    assert bodies(scene.get(2, 2, 1)) == ["a", "b"]
    scene.delete_many(1, 1, claim_ids=[claim_id, claim_id])
    assert bodies(scene.list_everything()) == ["b"]
    assert scene.stats().total == 1


# -- many at a time ---------------------------------------------------------------------------------------------------


def test_no_message_goes_to_two_claimers(scene: Scene) -> None:
    scene.post(*(str(n) for n in range(200)))
    taken: list[str] = []

    def claim_until_empty() -> None:
        while got := scene.claim(3)[1]:
            taken.extend(bodies(got))

    at_once(*[claim_until_empty] * 8)
    assert sorted(taken, key=int) == [str(n) for n in range(200)]


def test_an_empty_answer_means_that_nothing_was_free(scene: Scene) -> None:
    """Skipping what somebody else is just taking must not come out as 'nothing there'."""
    scene.post(*(str(n) for n in range(64)))
    answers: list[int] = []

    def claim_eight_times() -> None:
        answers.extend(len(scene.claim(1)[1]) for _ in range(8))

    at_once(*[claim_eight_times] * 8)
    assert answers == [1] * 64
