# SPDX-License-Identifier: Apache-2.0
"""Promise 2: one order per queue, that of acknowledgement, which every path follows."""

from collections.abc import Callable, Sequence

import pytest

from tests.clock import TICK
from tests.conformance.scene import Scene, bodies
from zaqar.model import Message

WAYS_OUT: dict[str, Callable[[Scene, int], Sequence[Message]]] = {
    "list": lambda scene, limit: scene.listing(limit=limit),
    "claim": lambda scene, limit: scene.claim(limit)[1],
    "pop": lambda scene, limit: scene.pop(limit),
}
every_way_out = pytest.mark.parametrize("take", WAYS_OUT.values(), ids=WAYS_OUT.keys())


@every_way_out
def test_messages_come_in_the_order_of_their_posts(scene: Scene, take: Callable[..., Sequence[Message]]) -> None:
    scene.post("c", "a", "b")
    scene.post("9")
    scene.post("1", "5")
    assert bodies(take(scene, 100)) == ["c", "a", "b", "9", "1", "5"]


@every_way_out
@pytest.mark.parametrize("limit", [1, 2, 3, 20])
def test_the_first_ones_are_taken_first(scene: Scene, take: Callable[..., Sequence[Message]], limit: int) -> None:
    scene.post(*"abcde")
    scene.post(*"fgh")
    assert bodies(take(scene, limit)) == list("abcdefgh")[:limit]


def test_numbers_run_from_one_without_gaps_over_posts(scene: Scene) -> None:
    assert scene.post("a", "b", "c") == [1, 2, 3]
    assert scene.post("d") == [4]
    assert scene.post("e", "f", delay=60) == [5, 6]
    assert scene.post("g", ttl=60) == [7]


def test_numbers_are_not_used_again(scene: Scene) -> None:
    scene.post("deleted", "popped", "purged")
    scene.delete(1)
    scene.pop()
    assert scene.post("a") == [4]
    scene.purge()
    assert scene.post("b", ttl=60) == [5]
    scene.clock.advance(60)
    scene.store.sweep(now=scene.now, limit=1000)
    assert scene.post("c") == [6]
    scene.raise_generation()
    assert scene.post("d") == [7]


def test_numbers_go_on_past_nine_and_ninety_nine(scene: Scene) -> None:
    """An order of texts instead of numbers would put 10 before 9."""
    for n in range(1, 121):
        scene.post(str(n))
    assert bodies(scene.listing()) == [str(n) for n in range(1, 121)]
    assert bodies(scene.claim(120)[1]) == [str(n) for n in range(1, 121)]


@every_way_out
def test_a_released_message_goes_back_to_its_place(scene: Scene, take: Callable[..., Sequence[Message]]) -> None:
    scene.post("a", "b", "c")
    claim_id, _ = scene.claim(2)
    scene.post("d")
    scene.release(claim_id)
    assert bodies(take(scene, 10)) == ["a", "b", "c", "d"]


@every_way_out
def test_a_message_whose_claim_ended_goes_back_to_its_place(
    scene: Scene, take: Callable[..., Sequence[Message]]
) -> None:
    scene.post("a", "b", "c")
    scene.claim(2, ttl=60)
    scene.post("d")
    scene.clock.advance(60)
    assert bodies(take(scene, 10)) == ["a", "b", "c", "d"]


@every_way_out
def test_a_message_whose_delay_is_over_stands_where_it_was_posted(
    scene: Scene, take: Callable[..., Sequence[Message]]
) -> None:
    scene.post("late", delay=30)
    scene.post("soon")
    scene.post("later", delay=40)
    scene.post("last")
    assert bodies(scene.listing()) == ["soon", "last"]
    scene.clock.advance(40)
    assert bodies(take(scene, 10)) == ["late", "soon", "later", "last"]


def test_claims_and_releases_in_any_turn_leave_the_order(scene: Scene) -> None:
    scene.post(*"abcdef")
    first, _ = scene.claim(2)
    second, _ = scene.claim(2)
    third, _ = scene.claim(1)
    scene.release(second)
    scene.release(first)
    assert bodies(scene.listing()) == ["a", "b", "c", "d", "f"]
    scene.release(third)
    assert bodies(scene.listing()) == list("abcdef")


def test_order_is_by_acknowledgement_and_not_by_the_clock_of_the_host(scene: Scene) -> None:
    scene.post("a")
    scene.clock.advance(-5 * TICK)
    scene.post("b")
    scene.clock.advance(-5 * TICK)
    scene.post("c")
    scene.clock.advance(20 * TICK)
    assert bodies(scene.listing()) == ["a", "b", "c"]
    assert bodies(scene.claim(2)[1]) == ["a", "b"]
    assert bodies(scene.pop()) == ["c"]


def test_what_is_read_by_number_comes_in_order_too(scene: Scene) -> None:
    scene.post(*(str(n) for n in range(1, 101)))
    scene.claim(2)
    assert bodies(scene.get(66, 2, 40, 33, 1, 100)) == ["1", "2", "33", "40", "66", "100"]
    assert [message.sequence for message in scene.listing(claimed=True)] == list(range(1, 101))


def test_a_claim_lists_what_it_holds_in_order(scene: Scene) -> None:
    scene.post(*"abcdef")
    claim_id, _ = scene.claim(4)
    scene.delete(2, claim_id)
    assert bodies(scene.get_claim(claim_id)[1]) == ["a", "c", "d"]
