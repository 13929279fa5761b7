# SPDX-License-Identifier: Apache-2.0
"""Promise 5: the end, release and renewal of a claim, a delay, a TTL and a grace act exactly, on every path."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.clock import TICK, FakeClock
from tests.conformance.scene import Scene, bodies
from zaqar.errors import ClaimOver, Forbidden
from zaqar.storage.base import MessageStore

BEFORE, AT, AFTER = -TICK, 0.0, TICK
around = pytest.mark.parametrize("offset", [BEFORE, AT, AFTER], ids=["before", "at", "after"])

Path = Callable[[Scene], bool]
"""Whether the only message of the queue can be had this way."""


def _in_statistics(scene: Scene) -> bool:
    stats = scene.stats()
    assert (stats.oldest is None) == (stats.newest is None) == (stats.total == 0)
    return stats.total == 1


def _in_volume(scene: Scene) -> bool:
    """Counted together with whatever other queues hold, so by what taking it away changes."""
    before = scene.volume().total
    scene.purge()
    return before - scene.volume().total == 1


FREE_PATHS: dict[str, Path] = {
    "list": lambda scene: bool(scene.listing()),
    "claim": lambda scene: bool(scene.claim()[1]),
    "pop": lambda scene: bool(scene.pop()),
    "stats": _in_statistics,
    "volume": _in_volume,
}
ALL_PATHS: dict[str, Path] = {
    **FREE_PATHS,
    "list with claimed": lambda scene: bool(scene.listing(claimed=True)),
    "list with delayed": lambda scene: bool(scene.listing(delayed=True)),
    "get": lambda scene: bool(scene.get(1)),
}
every_free_path = pytest.mark.parametrize("had", FREE_PATHS.values(), ids=FREE_PATHS.keys())
every_path = pytest.mark.parametrize("had", ALL_PATHS.values(), ids=ALL_PATHS.keys())


# -- TTL --------------------------------------------------------------------------------------------------------------


@around
@every_path
def test_a_ttl_ends(scene: Scene, had: Path, offset: float) -> None:
    scene.post("a", ttl=60)
    scene.clock.advance(60 + offset)
    assert had(scene) is (offset < 0)


@around
@every_free_path
def test_a_ttl_ends_after_a_release_too(scene: Scene, had: Path, offset: float) -> None:
    scene.post("a", ttl=600)
    claim_id, _ = scene.claim(ttl=60, grace=60)
    scene.release(claim_id)
    scene.clock.advance(600 + offset)
    assert had(scene) is (offset < 0)


@around
def test_an_expired_message_is_absent_to_deletes(scene: Scene, offset: float) -> None:
    scene.post("a", ttl=60)
    scene.clock.advance(60 + offset)
    if offset < 0:
        with pytest.raises(ClaimOver):
            scene.delete(1, "nonsense")
        with pytest.raises(ClaimOver):
            scene.delete_many(1, claim_ids=["nonsense"])
    else:
        scene.delete(1, "nonsense")
        scene.delete_many(1, claim_ids=["nonsense"])


def test_messages_of_one_queue_end_each_at_its_time(scene: Scene) -> None:
    for ttl in (300, 60, 120, 60, 180):
        scene.post(str(ttl), ttl=ttl)
    seen = []
    for _ in range(5):
        scene.clock.advance(60)
        seen.append(bodies(scene.listing()))
    assert seen == [["300", "120", "180"], ["300", "180"], ["300"], ["300"], []]


# -- delay ------------------------------------------------------------------------------------------------------------


@around
@every_free_path
def test_a_delay_ends(scene: Scene, had: Path, offset: float) -> None:
    scene.post("a", delay=30)
    scene.clock.advance(30 + offset)
    assert had(scene) is (offset >= 0)


@around
def test_a_delayed_message_is_there_for_who_asks(scene: Scene, offset: float) -> None:
    scene.post("a", delay=30)
    scene.clock.advance(30 + offset)
    assert bodies(scene.listing(delayed=True)) == ["a"]
    assert bodies(scene.get(1)) == ["a"]
    assert scene.listing(claimed=True) == ([] if offset < 0 else scene.get(1))


@around
def test_the_ttl_counts_from_the_post_during_the_delay(scene: Scene, offset: float) -> None:
    scene.post("a", delay=50, ttl=60)
    scene.clock.advance(60 + offset)
    assert bool(scene.listing()) is bool(scene.get(1)) is (offset < 0)


@pytest.mark.parametrize("delay", [60, 61])
def test_a_delay_as_long_as_the_ttl_hides_it_for_good(scene: Scene, delay: int) -> None:
    scene.post("a", delay=delay, ttl=60)
    for step in (0, 60 - TICK, TICK, 1, TICK):
        scene.clock.advance(step)
        assert scene.listing() == [] and scene.claim()[1] == [] and scene.stats().total == 0
    assert scene.listing(delayed=True) == []


def test_a_delayed_message_can_be_deleted(scene: Scene) -> None:
    scene.post("a", "b", delay=30)
    scene.delete(1)
    scene.delete_many(2)
    scene.clock.advance(30)
    assert scene.list_everything() == []


def test_the_age_of_a_delayed_message_counts_from_the_post(scene: Scene) -> None:
    scene.post("a", delay=30, ttl=600)
    scene.clock.advance(30)
    (message,) = scene.listing()
    assert (message.created, message.expires) == (scene.now - 30, scene.now + 570)


# -- many at the same moment ------------------------------------------------------------------------------------------

MANY = 1200
"""More than any driver should want to move in one step."""


@around
def test_many_end_at_the_same_moment(scene: Scene, offset: float) -> None:
    before = scene.volume().free
    scene.post(*["x"] * MANY, ttl=60)
    scene.post("y", ttl=600)
    scene.clock.advance(60 + offset)
    left = 1 if offset >= 0 else MANY + 1
    assert scene.volume().free - before == left
    assert len(scene.get(1, 2, MANY, MANY + 1)) == (1 if offset >= 0 else 4)
    assert len(scene.listing()) == len(scene.list_everything()) == left
    assert scene.stats().free == left
    assert len(scene.claim(3)[1]) == min(left, 3)
    assert len(scene.pop()) == max(left - 3, 0)


@around
@pytest.mark.parametrize("take", ["list", "claim", "pop"])
def test_many_delays_end_at_the_same_moment(scene: Scene, take: str, offset: float) -> None:
    texts = [str(n) for n in range(MANY)]
    scene.post(*texts, delay=30)
    scene.post("last")
    scene.clock.advance(30 + offset)
    expected = ["last"] if offset < 0 else [*texts, "last"]
    taken = {"list": scene.listing, "claim": lambda: scene.claim()[1], "pop": scene.pop}[take]()
    assert bodies(taken) == expected
    assert (scene.stats().free, scene.stats().claimed) == {
        "list": (len(expected), 0),
        "claim": (0, len(expected)),
        "pop": (0, 0),
    }[take]


@around
@pytest.mark.parametrize("take", ["list", "claim", "pop"])
def test_many_claims_end_at_the_same_moment(scene: Scene, take: str, offset: float) -> None:
    texts = [str(n) for n in range(MANY)]
    scene.post(*texts)
    for _ in range(4):
        scene.claim(MANY // 4, ttl=60)
    scene.post("last")
    scene.clock.advance(60 + offset)
    expected = ["last"] if offset < 0 else [*texts, "last"]
    assert bodies({"list": scene.listing, "claim": lambda: scene.claim()[1], "pop": scene.pop}[take]()) == expected


@pytest.mark.parametrize("first", ["list", "claim", "stats"])
def test_many_fall_due_and_expire_at_the_same_moment(scene: Scene, first: str) -> None:
    scene.post(*["x"] * MANY, ttl=60, delay=60)
    scene.post(*["y"] * MANY, ttl=60, delay=30)
    scene.post("z", ttl=600, delay=60)
    scene.clock.advance(60)
    if first == "stats":
        assert scene.stats().newest == scene.stats().oldest == scene.get(2 * MANY + 1)[0]
    else:
        assert bodies(scene.listing() if first == "list" else scene.claim(1, ttl=60)[1]) == ["z"]
    assert scene.stats().total == len(scene.listing(claimed=True)) == 1
    scene.clock.advance(60)
    assert scene.stats().free == len(scene.listing()) == 1


# -- clocks as they are -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1_763_929_383.7654321, 4_102_444_799.999999, 1_000_000_000.0000001])
@pytest.mark.parametrize("offset", [-0.001, 0.001])
def test_timers_are_exact_at_any_time_of_day(messages: MessageStore, start: float, offset: float) -> None:
    scene = Scene(messages, FakeClock(start))
    scene.post("a", ttl=60)
    scene.post("b", delay=60)
    scene.post("c")
    scene.clock.advance(0.2718281828)
    assert bodies(scene.claim(ttl=90)[1]) == ["a", "c"]
    scene.clock.now = start + 60 + offset
    assert bodies(scene.listing()) == ([] if offset < 0 else ["b"])
    scene.clock.now = start + 0.2718281828 + 90 + offset
    assert bodies(scene.listing()) == (["b"] if offset < 0 else ["a", "b", "c"])
    scene.drop()


def test_a_clock_that_steps_back_breaks_nothing(scene: Scene) -> None:
    """Two hosts, or one whose clock is put right: every step here is taken a little before the one ahead of it."""
    back = -3 * TICK
    assert scene.post("a", "b", "c", ttl=60) == [1, 2, 3]
    scene.clock.advance(back)
    assert bodies(scene.listing()) == ["a", "b", "c"]
    first, taken = scene.claim(1, ttl=60)
    assert bodies(taken) == ["a"]
    scene.clock.advance(back)
    assert bodies(scene.claim(1, ttl=60)[1]) == ["b"]
    scene.clock.advance(back)
    scene.renew(first)
    scene.clock.advance(back)
    assert bodies(scene.get_claim(first)[1]) == ["a"]
    assert scene.stats().total == 3
    scene.release(first)
    scene.clock.advance(back)
    second, taken = scene.claim(1, ttl=60)
    assert bodies(taken) == ["a"]
    scene.delete(1, second)
    scene.clock.advance(back)
    assert bodies(scene.pop()) == ["c"]
    assert bodies(scene.list_everything()) == ["b"]
    scene.clock.advance(65)
    assert bodies(scene.listing()) == ["b"]


@pytest.mark.parametrize("end", ["claim end", "delay"])
def test_stepping_back_over_a_timer_loses_nothing_and_gives_nothing_twice(scene: Scene, end: str) -> None:
    if end == "claim end":
        scene.post("a")
        old, _ = scene.claim(ttl=60)
    else:
        scene.post("a", delay=60)
        old = "none"
    scene.clock.advance(60)
    assert bodies(scene.listing()) == ["a"]
    new, taken = scene.claim(ttl=60)
    assert bodies(taken) == ["a"]
    scene.clock.advance(-TICK)
    assert scene.claim()[1] == []
    assert scene.listing() == []
    with pytest.raises((Forbidden, ClaimOver)):
        scene.delete(1, old)
    assert [message.claim_id for message in scene.get(1)] == [new]
    scene.clock.advance(TICK + 60)
    assert bodies(scene.pop()) == ["a"]
