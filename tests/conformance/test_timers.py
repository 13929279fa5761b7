# SPDX-License-Identifier: Apache-2.0
"""Promise 5, timers are exact, for messages: TTL and delay act on every path, at the moment that they name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.clock import TICK, FakeClock
from tests.conformance.queue_client import QueueClient, bodies
from zaqar.errors import ClaimOver, Forbidden
from zaqar.storage.base import MessageStore

BEFORE, AT, AFTER = -TICK, 0.0, TICK
around = pytest.mark.parametrize("offset", [BEFORE, AT, AFTER], ids=["before", "at", "after"])

Path = Callable[[QueueClient], bool]
"""Whether the only message of the queue can be had this way."""


def _in_statistics(orders: QueueClient) -> bool:
    stats = orders.stats()
    assert (stats.oldest is None) == (stats.newest is None) == (stats.total == 0)
    return stats.total == 1


def _in_volume(orders: QueueClient) -> bool:
    """Counted together with whatever other queues hold, so by what taking it away changes."""
    before = orders.volume().total
    orders.purge()
    return before - orders.volume().total == 1


FREE_PATHS: dict[str, Path] = {
    "list": lambda orders: bool(orders.listing()),
    "claim": lambda orders: bool(orders.claim()[1]),
    "pop": lambda orders: bool(orders.pop()),
    "stats": _in_statistics,
    "volume": _in_volume,
}
ALL_PATHS: dict[str, Path] = {
    **FREE_PATHS,
    "list with claimed": lambda orders: bool(orders.listing(claimed=True)),
    "list with delayed": lambda orders: bool(orders.listing(delayed=True)),
    "get": lambda orders: bool(orders.get(1)),
}
every_free_path = pytest.mark.parametrize("had", FREE_PATHS.values(), ids=FREE_PATHS.keys())
every_path = pytest.mark.parametrize("had", ALL_PATHS.values(), ids=ALL_PATHS.keys())


# -- TTL --------------------------------------------------------------------------------------------------------------


@around
@every_path
def test_a_message_is_gone_on_each_path_when_its_ttl_ends(orders: QueueClient, had: Path, offset: float) -> None:
    orders.post("a", ttl=60)
    orders.clock.advance(60 + offset)
    assert had(orders) is (offset < 0)


@around
@every_free_path
def test_a_released_message_is_gone_when_its_ttl_ends(orders: QueueClient, had: Path, offset: float) -> None:
    orders.post("a", ttl=600)
    claim_id, _ = orders.claim(ttl=60, grace=60)
    orders.release(claim_id)
    orders.clock.advance(600 + offset)
    assert had(orders) is (offset < 0)


@around
def test_an_expired_message_is_absent_to_deletes(orders: QueueClient, offset: float) -> None:
    orders.post("a", ttl=60)
    orders.clock.advance(60 + offset)
    if offset < 0:
        with pytest.raises(ClaimOver):
            orders.delete(1, "nonsense")
        with pytest.raises(ClaimOver):
            orders.delete_many(1, claim_ids=["nonsense"])
    else:
        orders.delete(1, "nonsense")
        orders.delete_many(1, claim_ids=["nonsense"])


def test_each_message_of_a_queue_expires_at_its_own_time(orders: QueueClient) -> None:
    for ttl in (300, 60, 120, 60, 180):
        orders.post(str(ttl), ttl=ttl)
    seen = []
    for _ in range(5):
        orders.clock.advance(60)
        seen.append(bodies(orders.listing()))
    assert seen == [["300", "120", "180"], ["300", "180"], ["300"], ["300"], []]


# -- delay ------------------------------------------------------------------------------------------------------------


@around
@every_free_path
def test_a_message_appears_on_each_path_when_its_delay_ends(orders: QueueClient, had: Path, offset: float) -> None:
    orders.post("a", delay=30)
    orders.clock.advance(30 + offset)
    assert had(orders) is (offset >= 0)


@around
def test_a_delayed_message_is_listed_on_request(orders: QueueClient, offset: float) -> None:
    orders.post("a", delay=30)
    orders.clock.advance(30 + offset)
    assert bodies(orders.listing(delayed=True)) == ["a"]
    assert bodies(orders.get(1)) == ["a"]
    assert orders.listing(claimed=True) == ([] if offset < 0 else orders.get(1))


@around
def test_the_ttl_counts_from_the_post_during_the_delay(orders: QueueClient, offset: float) -> None:
    orders.post("a", delay=50, ttl=60)
    orders.clock.advance(60 + offset)
    assert bool(orders.listing()) is bool(orders.get(1)) is (offset < 0)


@pytest.mark.parametrize("delay", [60, 61])
def test_a_message_with_a_delay_as_long_as_its_ttl_never_appears(orders: QueueClient, delay: int) -> None:
    orders.post("a", delay=delay, ttl=60)
    for step in (0, 60 - TICK, TICK, 1, TICK):
        orders.clock.advance(step)
        assert orders.listing() == [] and orders.claim()[1] == [] and orders.stats().total == 0
    assert orders.listing(delayed=True) == []


def test_a_delayed_message_can_be_deleted(orders: QueueClient) -> None:
    orders.post("a", "b", delay=30)
    orders.delete(1)
    orders.delete_many(2)
    orders.clock.advance(30)
    assert orders.list_everything() == []


def test_the_age_of_a_delayed_message_counts_from_the_post(orders: QueueClient) -> None:
    orders.post("a", delay=30, ttl=600)
    orders.clock.advance(30)
    (message,) = orders.listing()
    assert (message.created, message.expires) == (orders.now - 30, orders.now + 570)


# -- many at the same moment ------------------------------------------------------------------------------------------

MANY = 1200
"""More than any driver should want to move in one step."""


@around
def test_many_messages_expire_at_the_same_moment(orders: QueueClient, offset: float) -> None:
    before = orders.volume().free
    orders.post(*["x"] * MANY, ttl=60)
    orders.post("y", ttl=600)
    orders.clock.advance(60 + offset)
    left = 1 if offset >= 0 else MANY + 1
    assert orders.volume().free - before == left
    assert len(orders.get(1, 2, MANY, MANY + 1)) == (1 if offset >= 0 else 4)
    assert len(orders.listing()) == len(orders.list_everything()) == left
    assert orders.stats().free == left
    assert len(orders.claim(3)[1]) == min(left, 3)
    assert len(orders.pop()) == max(left - 3, 0)


@around
@pytest.mark.parametrize("take", ["list", "claim", "pop"])
def test_many_delays_end_at_the_same_moment(orders: QueueClient, take: str, offset: float) -> None:
    texts = [str(n) for n in range(MANY)]
    orders.post(*texts, delay=30)
    orders.post("last")
    orders.clock.advance(30 + offset)
    expected = ["last"] if offset < 0 else [*texts, "last"]
    taken = {"list": orders.listing, "claim": lambda: orders.claim()[1], "pop": orders.pop}[take]()
    assert bodies(taken) == expected
    assert (orders.stats().free, orders.stats().claimed) == {
        "list": (len(expected), 0),
        "claim": (0, len(expected)),
        "pop": (0, 0),
    }[take]


@around
@pytest.mark.parametrize("take", ["list", "claim", "pop"])
def test_many_claims_end_at_the_same_moment(orders: QueueClient, take: str, offset: float) -> None:
    texts = [str(n) for n in range(MANY)]
    orders.post(*texts)
    for _ in range(4):
        orders.claim(MANY // 4, ttl=60)
    orders.post("last")
    orders.clock.advance(60 + offset)
    expected = ["last"] if offset < 0 else [*texts, "last"]
    assert bodies({"list": orders.listing, "claim": lambda: orders.claim()[1], "pop": orders.pop}[take]()) == expected


@pytest.mark.parametrize("first", ["list", "claim", "stats"])
def test_many_fall_due_and_expire_at_the_same_moment(orders: QueueClient, first: str) -> None:
    orders.post(*["x"] * MANY, ttl=60, delay=60)
    orders.post(*["y"] * MANY, ttl=60, delay=30)
    orders.post("z", ttl=600, delay=60)
    orders.clock.advance(60)
    if first == "stats":
        assert orders.stats().newest == orders.stats().oldest == orders.get(2 * MANY + 1)[0]
    else:
        assert bodies(orders.listing() if first == "list" else orders.claim(1, ttl=60)[1]) == ["z"]
    assert orders.stats().total == len(orders.listing(claimed=True)) == 1
    orders.clock.advance(60)
    assert orders.stats().free == len(orders.listing()) == 1


# -- clocks as they are -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1_763_929_383.7654321, 4_102_444_799.999999, 1_000_000_000.0000001])
@pytest.mark.parametrize("offset", [-0.001, 0.001])
def test_timers_are_exact_at_any_time_of_day(messages: MessageStore, start: float, offset: float) -> None:
    orders = QueueClient(messages, FakeClock(start))
    orders.post("a", ttl=60)
    orders.post("b", delay=60)
    orders.post("c")
    orders.clock.advance(0.2718281828)
    assert bodies(orders.claim(ttl=90)[1]) == ["a", "c"]
    orders.clock.now = start + 60 + offset
    assert bodies(orders.listing()) == ([] if offset < 0 else ["b"])
    orders.clock.now = start + 0.2718281828 + 90 + offset
    assert bodies(orders.listing()) == (["b"] if offset < 0 else ["a", "b", "c"])
    orders.drop()


def test_operations_work_while_the_clock_steps_back(orders: QueueClient) -> None:
    """Two hosts, or one whose clock is put right: every step here is taken a little before the one ahead of it."""
    back = -3 * TICK
    assert orders.post("a", "b", "c", ttl=60) == [1, 2, 3]
    orders.clock.advance(back)
    assert bodies(orders.listing()) == ["a", "b", "c"]
    first, taken = orders.claim(1, ttl=60)
    assert bodies(taken) == ["a"]
    orders.clock.advance(back)
    assert bodies(orders.claim(1, ttl=60)[1]) == ["b"]
    orders.clock.advance(back)
    orders.renew(first)
    orders.clock.advance(back)
    assert bodies(orders.get_claim(first)[1]) == ["a"]
    assert orders.stats().total == 3
    orders.release(first)
    orders.clock.advance(back)
    second, taken = orders.claim(1, ttl=60)
    assert bodies(taken) == ["a"]
    orders.delete(1, second)
    orders.clock.advance(back)
    assert bodies(orders.pop()) == ["c"]
    assert bodies(orders.list_everything()) == ["b"]
    orders.clock.advance(65)
    assert bodies(orders.listing()) == ["b"]


@pytest.mark.parametrize("end", ["claim end", "delay"])
def test_a_clock_that_steps_back_over_a_timer_loses_nothing_and_repeats_nothing(orders: QueueClient, end: str) -> None:
    if end == "claim end":
        orders.post("a")
        old, _ = orders.claim(ttl=60)
    else:
        orders.post("a", delay=60)
        old = "none"
    orders.clock.advance(60)
    assert bodies(orders.listing()) == ["a"]
    new, taken = orders.claim(ttl=60)
    assert bodies(taken) == ["a"]
    orders.clock.advance(-TICK)
    assert orders.claim()[1] == []
    assert orders.listing() == []
    with pytest.raises((Forbidden, ClaimOver)):
        orders.delete(1, old)
    assert [message.claim_id for message in orders.get(1)] == [new]
    orders.clock.advance(TICK + 60)
    assert bodies(orders.pop()) == ["a"]
