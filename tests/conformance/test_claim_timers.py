# SPDX-License-Identifier: Apache-2.0
"""Promise 5, for claims: end, renewal, grace and release act exactly, on every path."""

from __future__ import annotations

import pytest

from tests.clock import TICK
from tests.conformance.scene import Scene, bodies
from tests.conformance.test_timers import FREE_PATHS, Path, around, every_free_path
from zaqar.errors import ClaimOver, Forbidden, NotFound
from zaqar.model import Claim

# -- the end of a claim -----------------------------------------------------------------------------------------------


@around
@pytest.mark.parametrize("had", [FREE_PATHS[path] for path in ("list", "claim", "pop")], ids=["list", "claim", "pop"])
def test_a_claim_ends(scene: Scene, had: Path, offset: float) -> None:
    scene.post("a")
    scene.claim(ttl=60)
    scene.clock.advance(60 + offset)
    assert had(scene) is (offset >= 0)


@around
def test_a_claim_ends_for_its_holder(scene: Scene, offset: float) -> None:
    scene.post("a", "b")
    claim_id, taken = scene.claim(ttl=60)
    scene.clock.advance(60 + offset)
    if offset < 0:
        assert scene.get_claim(claim_id)[1] == taken
        scene.delete(1, claim_id)
        scene.delete_many(2, claim_ids=[claim_id])
        assert scene.list_everything() == []
    else:
        with pytest.raises(NotFound):
            scene.get_claim(claim_id)
        with pytest.raises(NotFound):
            scene.renew(claim_id, ttl=600)
        with pytest.raises(ClaimOver):
            scene.delete(1, claim_id)
        with pytest.raises(ClaimOver):
            scene.delete_many(1, 2, claim_ids=[claim_id])
        assert bodies(scene.listing()) == ["a", "b"]


@around
def test_a_claim_ends_for_everybody_else(scene: Scene, offset: float) -> None:
    scene.post("a")
    claim_id, _ = scene.claim(ttl=60)
    scene.clock.advance(60 + offset)
    (message,) = scene.get(1)
    assert message == scene.listing(claimed=True)[0] == scene.stats().newest
    assert message.claim_id == (claim_id if offset < 0 else None)
    assert (scene.stats().free, scene.stats().claimed) == ((0, 1) if offset < 0 else (1, 0))
    if offset < 0:
        with pytest.raises(Forbidden):
            scene.delete(1)
    else:
        scene.delete(1)
        assert scene.list_everything() == []


@around
def test_a_message_can_be_claimed_again_and_again(scene: Scene, offset: float) -> None:
    scene.post("a")
    for _ in range(3):
        assert bodies(scene.claim(ttl=60, grace=60)[1]) == ["a"]
        scene.clock.advance(60 + offset)
        if offset < 0:
            assert scene.claim()[1] == []
            scene.clock.advance(-offset)


# -- renewal ----------------------------------------------------------------------------------------------------------


@around
def test_a_renewed_claim_counts_from_the_renewal(scene: Scene, offset: float) -> None:
    scene.post("a")
    claim_id, _ = scene.claim(ttl=60)
    scene.clock.advance(59)
    scene.renew(claim_id, ttl=100)
    scene.clock.advance(100 + offset)
    assert bool(scene.claim()[1]) is (offset >= 0)
    if offset < 0:
        assert bodies(scene.get_claim(claim_id)[1]) == ["a"]
    else:
        with pytest.raises(NotFound):
            scene.get_claim(claim_id)


def test_the_old_end_of_a_renewed_claim_means_nothing(scene: Scene) -> None:
    scene.post("a")
    claim_id, _ = scene.claim(ttl=60)
    scene.clock.advance(30)
    scene.renew(claim_id, ttl=60)
    for step in (30 - TICK, TICK, TICK, 29):
        scene.clock.advance(step)
        assert scene.claim()[1] == []
        assert scene.listing() == []
        assert bodies(scene.get_claim(claim_id)[1]) == ["a"]


@around
def test_a_renewal_may_end_a_claim_earlier(scene: Scene, offset: float) -> None:
    scene.post("a")
    claim_id, _ = scene.claim(ttl=600)
    scene.clock.advance(10)
    scene.renew(claim_id, ttl=60)
    scene.clock.advance(60 + offset)
    assert bool(scene.claim()[1]) is (offset >= 0)


@pytest.mark.parametrize(
    ("ttl", "grace", "expected"),
    [(None, None, (100, 70)), (200, None, (200, 70)), (None, 90, (100, 90)), (200, 90, (200, 90))],
)
def test_a_renewal_keeps_what_it_does_not_name(
    scene: Scene, ttl: int | None, grace: int | None, expected: tuple[int, int]
) -> None:
    scene.post("a")
    claim_id, _ = scene.claim(ttl=100, grace=70)
    scene.clock.advance(10)
    scene.renew(claim_id, ttl=ttl, grace=grace)
    assert scene.get_claim(claim_id)[0] == Claim(claim_id, *expected, started=scene.now)


def test_a_renewal_does_not_count_as_a_claim(scene: Scene) -> None:
    scene.post("a")
    claim_id, _ = scene.claim()
    scene.renew(claim_id, ttl=600)
    scene.renew(claim_id)
    assert [message.claim_count for message in scene.get(1)] == [1]


def test_a_renewal_takes_nothing_new(scene: Scene) -> None:
    scene.post("a", "b")
    claim_id, _ = scene.claim(1)
    scene.renew(claim_id, ttl=600)
    assert bodies(scene.get_claim(claim_id)[1]) == ["a"]
    assert bodies(scene.listing()) == ["b"]


# -- grace ------------------------------------------------------------------------------------------------------------


@around
@every_free_path
def test_a_claim_lifts_the_ttl_to_its_end_plus_grace(scene: Scene, had: Path, offset: float) -> None:
    scene.post("a", ttl=60)
    scene.clock.advance(30)
    scene.claim(ttl=100, grace=70)
    scene.clock.advance(170 + offset)
    assert had(scene) is (offset < 0)


def test_a_lifted_ttl_is_shown(scene: Scene) -> None:
    scene.post("a", ttl=60)
    scene.clock.advance(30)
    _, (message,) = scene.claim(ttl=100, grace=70)
    assert message.expires == scene.now + 170
    assert message.created == scene.now - 30


def test_a_longer_ttl_is_not_changed(scene: Scene) -> None:
    scene.post("a", ttl=600)
    _, (message,) = scene.claim(ttl=100, grace=70)
    assert message.expires == scene.now + 600


@around
def test_a_claimed_message_outlives_its_ttl_while_the_claim_is_live(scene: Scene, offset: float) -> None:
    scene.post("a", ttl=60)
    claim_id, _ = scene.claim(ttl=300, grace=60)
    scene.clock.advance(60 + offset)
    assert bodies(scene.get_claim(claim_id)[1]) == ["a"]
    assert scene.stats().claimed == 1
    scene.delete(1, claim_id)
    assert scene.list_everything() == []


@around
def test_a_release_does_not_shorten_the_life(scene: Scene, offset: float) -> None:
    scene.post("a", ttl=60)
    claim_id, _ = scene.claim(ttl=100, grace=70)
    scene.release(claim_id)
    scene.clock.advance(170 + offset)
    assert bool(scene.listing()) is bool(scene.get(1)) is (offset < 0)


@around
def test_a_renewal_lifts_the_ttl_again(scene: Scene, offset: float) -> None:
    scene.post("a", ttl=60)
    claim_id, _ = scene.claim(ttl=100, grace=70)
    scene.clock.advance(99)
    scene.renew(claim_id, ttl=200, grace=80)
    scene.clock.advance(280 + offset)
    assert bool(scene.listing()) is bool(scene.get(1)) is (offset < 0)


def test_a_renewal_that_ends_earlier_does_not_shorten_the_life(scene: Scene) -> None:
    scene.post("a", ttl=60)
    claim_id, _ = scene.claim(ttl=600, grace=600)
    end = scene.now + 1200
    scene.renew(claim_id, ttl=60, grace=60)
    assert [message.expires for message in scene.get(1)] == [end]
    scene.clock.now = end - TICK
    assert bodies(scene.listing()) == ["a"]


def test_a_renewal_with_a_longer_grace_alone_lifts_the_ttl(scene: Scene) -> None:
    scene.post("a", ttl=60)
    claim_id, _ = scene.claim(ttl=100, grace=60)
    scene.renew(claim_id, grace=500)
    assert [message.expires for message in scene.get(1)] == [scene.now + 600]


def test_a_renewal_lifts_only_what_the_claim_holds(scene: Scene) -> None:
    scene.post("deleted", "held", "free", ttl=60)
    claim_id, _ = scene.claim(2, ttl=60)
    scene.delete(1, claim_id)
    scene.renew(claim_id, ttl=600)
    scene.clock.advance(60)
    assert bodies(scene.list_everything()) == ["held"]


# -- release ----------------------------------------------------------------------------------------------------------


@every_free_path
def test_a_released_message_is_free_at_once(scene: Scene, had: Path) -> None:
    scene.post("a")
    claim_id, _ = scene.claim()
    scene.release(claim_id)
    assert scene.stats().free == 1
    assert had(scene)


def test_the_end_of_a_released_claim_does_nothing_to_the_next(scene: Scene) -> None:
    scene.post("a")
    first, _ = scene.claim(ttl=60)
    scene.clock.advance(30)
    scene.release(first)
    second, _ = scene.claim(ttl=60)
    scene.clock.advance(30)
    assert scene.claim()[1] == []
    assert bodies(scene.get_claim(second)[1]) == ["a"]
