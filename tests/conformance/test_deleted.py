# SPDX-License-Identifier: Apache-2.0
"""Promise 6: deleted stays deleted, popped is delivered at most once, purged is empty in one step."""

from __future__ import annotations

import pytest

from tests.conformance.scene import Scene, at_once, bodies
from zaqar.errors import NotFound


def sees_nothing_ever(scene: Scene) -> None:
    for step in (0, 30, 30, 600, 86_400):
        scene.clock.advance(step)
        assert scene.list_everything() == []
        assert scene.get(*range(1, 20)) == []
        assert scene.claim()[1] == []
        assert scene.pop() == []
        assert scene.stats().total == 0


@pytest.mark.parametrize("state", ["free", "claimed", "released", "claim over", "delayed", "renewed"])
def test_deleted_stays_deleted_whatever_it_was(scene: Scene, state: str) -> None:
    scene.post("a", ttl=86_400, delay=60 if state == "delayed" else 0)
    claim_id = None
    if state != "free" and state != "delayed":
        claim_id, _ = scene.claim(ttl=60, grace=43_200)
    if state == "released":
        scene.release(claim_id or "")
        claim_id = None
    elif state == "claim over":
        scene.clock.advance(60)
        claim_id = None
    elif state == "renewed":
        scene.renew(claim_id or "", ttl=600)
    scene.delete(1, claim_id)
    sees_nothing_ever(scene)


def test_a_release_does_not_bring_back_what_was_deleted(scene: Scene) -> None:
    scene.post("a", "b", "c")
    claim_id, _ = scene.claim()
    scene.delete(1, claim_id)
    scene.delete_many(2, claim_ids=[claim_id])
    scene.release(claim_id)
    assert bodies(scene.list_everything()) == ["c"]


def test_a_renewal_does_not_bring_back_what_was_deleted(scene: Scene) -> None:
    scene.post("a", "b")
    claim_id, _ = scene.claim(ttl=60)
    scene.delete(1, claim_id)
    scene.renew(claim_id, ttl=600)
    assert bodies(scene.get_claim(claim_id)[1]) == ["b"]
    scene.clock.advance(600)
    assert bodies(scene.listing()) == ["b"]


def test_the_end_of_a_claim_does_not_bring_back_what_was_deleted(scene: Scene) -> None:
    scene.post("a", "b")
    scene.claim(ttl=60)
    scene.delete_many(1)
    scene.clock.advance(60)
    assert bodies(scene.claim()[1]) == ["b"]


def test_deleting_twice_is_fine(scene: Scene) -> None:
    scene.post("a", "b")
    for _ in range(2):
        scene.delete(1)
        scene.delete_many(1)
    assert bodies(scene.listing()) == ["b"]


# -- pop --------------------------------------------------------------------------------------------------------------


def test_pop_takes_the_first_ones_for_good(scene: Scene) -> None:
    scene.post(*"abcde")
    before = scene.listing()
    assert scene.pop(2) == before[:2]
    assert scene.list_everything() == before[2:]
    assert scene.pop(20) == before[2:]
    sees_nothing_ever(scene)


def test_pop_leaves_claimed_and_delayed_ones(scene: Scene) -> None:
    scene.post("claimed")
    claim_id, _ = scene.claim()
    scene.post("delayed", delay=60)
    scene.post("free")
    assert bodies(scene.pop()) == ["free"]
    assert scene.pop() == []
    scene.release(claim_id)
    scene.clock.advance(60)
    assert bodies(scene.pop()) == ["claimed", "delayed"]


def test_pop_shows_a_message_as_it_was(scene: Scene) -> None:
    scene.post("a", ttl=60)
    scene.wear_out(1, times=3)
    (expected,) = scene.listing()
    assert (expected.claim_count, expected.claim_id) == (3, None)
    assert scene.pop() == [expected]


def test_pop_finds_free_ones_behind_many_that_are_not(scene: Scene) -> None:
    scene.post(*["claimed"] * 200)
    scene.claim()
    scene.post(*["late"] * 200, delay=600)
    scene.post(*["expired"] * 200, ttl=60)
    scene.clock.advance(59)
    scene.post("free")
    scene.clock.advance(0.75)
    assert bodies(scene.pop(1)) == ["expired"]
    scene.clock.advance(0.25)
    assert bodies(scene.pop(1)) == ["claimed"]
    scene.delete_many(*range(1, 201))
    assert bodies(scene.pop(1)) == ["free"]


def test_nothing_is_popped_twice(scene: Scene) -> None:
    scene.post(*(str(n) for n in range(200)))
    popped: list[str] = []

    def pop_until_empty() -> None:
        while got := scene.pop(3):
            popped.extend(bodies(got))

    at_once(*[pop_until_empty] * 8)
    assert sorted(popped, key=int) == [str(n) for n in range(200)]


# -- purge ------------------------------------------------------------------------------------------------------------


def test_a_purge_takes_everything(scene: Scene) -> None:
    scene.post("free", "claimed", "released", "over", "delayed")
    scene.post("delayed", delay=30)
    scene.claim(1)
    live, _ = scene.claim(1, ttl=600)
    released, _ = scene.claim(1)
    scene.release(released)
    scene.purge()
    with pytest.raises(NotFound):
        scene.get_claim(live)
    with pytest.raises(NotFound):
        scene.renew(live)
    scene.delete(2, live)
    sees_nothing_ever(scene)


def test_a_purged_queue_goes_on(scene: Scene) -> None:
    scene.post("old")
    scene.purge()
    scene.post("new")
    assert bodies(scene.listing()) == ["new"]
    assert bodies(scene.claim()[1]) == ["new"]
    assert (scene.stats().free, scene.stats().claimed) == (0, 1)


def test_a_purge_takes_more_than_any_page(scene: Scene) -> None:
    scene.post(*["x"] * 3000)
    scene.claim(1000)
    scene.purge()
    assert scene.stats().total == 0
    assert scene.list_everything() == []
    scene.purge()


def test_a_purge_touches_no_other_queue(scene: Scene) -> None:
    other = scene.beside()
    other.post("a", "b")
    claim_id, held = other.claim(1)
    scene.post("c")
    scene.purge()
    assert bodies(other.list_everything()) == ["a", "b"]
    assert other.get_claim(claim_id)[1] == held
    other.drop()
