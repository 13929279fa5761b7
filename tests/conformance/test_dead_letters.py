# SPDX-License-Identifier: Apache-2.0
"""Promise 7, dead letters: an exhausted message moves to the dead letter queue at the next claim, exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from tests.clock import TICK
from tests.conformance.queue_client import QueueClient, at_once, bodies, new_claim_id
from zaqar.errors import NotFound, StaleQueue
from zaqar.model import Claim, DeadLetters, Draft, Message, Origin, message_id


@dataclass
class Pair:
    """A queue and its dead letter queue."""

    source: QueueClient
    dead: QueueClient

    def rules(self, count: int = 2, ttl: int | None = None) -> DeadLetters:
        return DeadLetters(self.dead.queue, count, ttl)

    def claim(self, limit: int = 10, *, count: int = 2, ttl: int | None = None) -> list[str]:
        return bodies(self.source.claim(limit, dead_letters=self.rules(count, ttl))[1])


@pytest.fixture
def pair(orders: QueueClient) -> Iterator[Pair]:
    pair = Pair(orders, orders.beside("dead-letters"))
    yield pair
    pair.dead.drop()


def test_an_exhausted_message_moves_at_the_next_claim(pair: Pair) -> None:
    pair.source.post("a")
    for count in (1, 2, 3):
        claim_id, taken = pair.source.claim(dead_letters=pair.rules(3))
        assert [message.claim_count for message in taken] == [count]
        assert pair.dead.list_everything() == []
        pair.source.release(claim_id)
    claim_id, taken = pair.source.claim(dead_letters=pair.rules(3))
    assert taken == []
    with pytest.raises(NotFound):
        pair.source.get_claim(claim_id)
    assert pair.source.list_everything() == []
    assert bodies(pair.dead.listing()) == ["a"]


@pytest.mark.parametrize("notify", [False, True])
def test_a_claim_tells_how_many_messages_it_moved(pair: Pair, notify: bool) -> None:
    """Also if the driver moves them in steps of their own, because the dead letter queue has subscribers."""
    if notify:
        pair.dead.queue = replace(pair.dead.queue, notify=True)
    pair.source.post(*"abc")
    pair.source.claim_and_release(2, times=2)

    def claim() -> tuple[int, int]:
        lease = Claim(new_claim_id(), 60, 60, pair.source.now)
        result = pair.source.store.claims.claim(
            queue=pair.source.queue, claim=lease, limit=10, now=pair.source.now, dead_letters=pair.rules()
        )
        return len(result.messages), result.dead_lettered

    assert claim() == (1, 2)
    assert claim() == (0, 0)


def test_an_exhausted_message_moves_exactly_once(pair: Pair) -> None:
    pair.source.post("a")
    pair.source.claim_and_release(1, times=2)
    for _ in range(3):
        assert pair.claim() == []
        assert bodies(pair.dead.list_everything()) == ["a"]
    pair.source.clock.advance(600)
    assert pair.source.list_everything() == []
    assert bodies(pair.dead.list_everything()) == ["a"]


def test_a_dead_letter_names_its_origin(pair: Pair) -> None:
    pair.source.post("x", "y")
    draft = Draft(b'{"a":  1}', 600, checksum="MD5:x")
    (number,) = pair.source.store.messages.post(
        queue=pair.source.queue, drafts=[draft], client_id="someone", now=pair.source.now
    )
    posted = pair.source.now
    pair.source.delete_many(1, 2)
    pair.source.claim_and_release(1, times=3)
    pair.source.clock.advance(10)
    assert pair.claim(count=3) == []
    expected = Message(
        queue_uid=pair.dead.queue.uid,
        sequence=1,
        body=b'{"a":  1}',
        created=posted,
        expires=posted + 600,
        client_id="someone",
        checksum="MD5:x",
        origin=Origin("orders", message_id(pair.source.queue.uid, number), 3),
    )
    assert pair.dead.listing() == pair.dead.get(1) == [expected]
    assert pair.dead.stats().oldest == expected
    claim_id, taken = pair.dead.claim()
    assert taken == [replace(expected, claim_id=claim_id, claim_count=1)]
    pair.dead.release(claim_id)
    assert pair.dead.pop() == [replace(expected, claim_count=1)]


def test_without_a_ttl_a_dead_letter_keeps_its_expiry(pair: Pair) -> None:
    pair.source.post("a", ttl=60)
    start = pair.source.now
    claim_id, _ = pair.source.claim(ttl=60, grace=100)
    pair.source.release(claim_id)
    pair.source.clock.advance(30)
    assert pair.claim(count=1) == []
    (moved,) = pair.dead.listing()
    assert (moved.created, moved.expires) == (start, start + 160)
    pair.dead.clock.now = start + 160 - TICK
    assert bodies(pair.dead.listing()) == ["a"]
    pair.dead.clock.now = start + 160
    assert pair.dead.list_everything() == []


@pytest.mark.parametrize("ttl", [60, 86_400])
def test_with_a_ttl_the_life_of_a_dead_letter_starts_anew(pair: Pair, ttl: int) -> None:
    pair.source.post("a", ttl=3600)
    pair.source.claim_and_release(1, times=2)
    pair.source.clock.advance(30)
    assert pair.claim(ttl=ttl) == []
    (moved,) = pair.dead.listing()
    assert (moved.created, moved.expires) == (pair.dead.now, pair.dead.now + ttl)
    pair.dead.clock.advance(ttl - TICK)
    assert bodies(pair.dead.listing()) == ["a"]
    pair.dead.clock.advance(TICK)
    assert pair.dead.list_everything() == []


def test_dead_letters_are_appended_in_the_order_of_their_queue(pair: Pair) -> None:
    pair.dead.post("there", "before")
    pair.source.post(*"abc")
    pair.source.claim_and_release(3, times=2)
    pair.source.post("d")
    assert pair.claim() == ["d"]
    assert bodies(pair.dead.listing()) == ["there", "before", "a", "b", "c"]
    assert [message.sequence for message in pair.dead.listing()] == [1, 2, 3, 4, 5]
    assert pair.dead.post("after") == [6]


def test_a_reader_of_the_dead_letters_misses_none(pair: Pair) -> None:
    pair.dead.post("a")
    marker = pair.dead.listing()[-1].sequence
    pair.source.post("b")
    pair.source.claim_and_release(1, times=2)
    pair.claim()
    assert bodies(pair.dead.listing(marker)) == ["b"]


@pytest.mark.parametrize("way", ["release", "claim end", "renewal and release"])
def test_release_and_renewal_do_not_reset_the_claim_count(pair: Pair, way: str) -> None:
    pair.source.post("a", ttl=86_400)
    for _ in range(2):
        claim_id, taken = pair.source.claim(ttl=60, dead_letters=pair.rules())
        assert bodies(taken) == ["a"]
        if way == "claim end":
            pair.source.clock.advance(60)
            continue
        if way == "renewal and release":
            pair.source.renew(claim_id, ttl=120)
            pair.source.renew(claim_id)
        pair.source.release(claim_id)
    assert pair.claim() == []
    assert [message.origin.claim_count for message in pair.dead.listing() if message.origin] == [2]


def test_a_message_over_a_lowered_limit_is_exhausted(pair: Pair) -> None:
    pair.source.post("a")
    pair.source.claim_and_release(1, times=5)
    assert pair.claim(count=2) == []
    assert [message.origin.claim_count for message in pair.dead.listing() if message.origin] == [5]


def test_without_rules_nothing_moves(pair: Pair) -> None:
    pair.source.post("a")
    pair.source.claim_and_release(1, times=5)
    assert bodies(pair.source.claim()[1]) == ["a"]
    assert pair.dead.list_everything() == []


@pytest.mark.parametrize("act", ["list", "pop", "renew", "stats", "sweep", "claim end"])
def test_only_a_claim_moves_an_exhausted_message(pair: Pair, act: str) -> None:
    pair.source.post("a")
    pair.source.claim_and_release(1, times=1)
    claim_id, _ = pair.source.claim(ttl=60)
    if act == "renew":
        pair.source.renew(claim_id, ttl=600)
    elif act == "claim end":
        pair.source.clock.advance(60)
    else:
        pair.source.release(claim_id)
        if act == "list":
            pair.source.listing()
        elif act == "stats":
            pair.source.stats()
        elif act == "sweep":
            pair.source.store.sweep(now=pair.source.now, limit=1000)
        else:
            assert bodies(pair.source.pop()) == ["a"]
    assert bodies(pair.source.list_everything()) == ([] if act == "pop" else ["a"])
    assert pair.dead.list_everything() == []


def test_a_message_under_a_live_claim_does_not_move(pair: Pair) -> None:
    pair.source.post("a")
    pair.source.claim_and_release(1, times=1)
    claim_id, _ = pair.source.claim()
    assert pair.claim() == []
    assert pair.dead.list_everything() == []
    pair.source.delete(1, claim_id)
    assert pair.claim() == []
    assert pair.dead.list_everything() == []


def test_an_expired_message_is_gone_and_does_not_move(pair: Pair) -> None:
    pair.source.post("a", ttl=130)
    pair.source.claim_and_release(1, times=2)
    pair.source.clock.advance(130)
    assert pair.claim() == []
    assert pair.dead.list_everything() == []


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_a_claim_is_filled_with_messages_behind_exhausted_ones(pair: Pair, limit: int) -> None:
    pair.source.post(*(f"dead {n}" for n in range(5)))
    pair.source.claim_and_release(5, times=2)
    pair.source.post(*(f"live {n}" for n in range(6)))
    assert pair.claim(limit) == [f"live {n}" for n in range(limit)]
    assert bodies(pair.dead.listing()) == [f"dead {n}" for n in range(5)]
    assert pair.source.stats().total == 6


def test_exhausted_messages_between_others_move(pair: Pair) -> None:
    pair.source.post("a", delay=60)
    pair.source.post("dead")
    pair.source.post("b", delay=60)
    pair.source.post("dead too")
    pair.source.post("c", delay=60)
    pair.source.claim_and_release(2, times=2)
    pair.source.clock.advance(60)
    assert pair.claim(2) == ["a", "b"]
    assert bodies(pair.dead.listing())[:1] == ["dead"]
    assert pair.claim(2) == ["c"]
    assert bodies(pair.dead.listing()) == ["dead", "dead too"]


def test_exhausted_messages_behind_the_limit_do_not_move(pair: Pair) -> None:
    """The claim would not take them, so it is not the one that moves them."""
    pair.source.post("a", "b", delay=60)
    pair.source.post("exhausted")
    pair.source.claim_and_release(1, times=2)
    pair.source.clock.advance(60)
    assert pair.claim(2) == ["a", "b"]
    assert bodies(pair.source.listing()) == ["exhausted"]
    assert pair.dead.list_everything() == []


def test_a_claim_behind_a_thousand_exhausted_messages(pair: Pair) -> None:
    dead = [f"dead {n}" for n in range(1000)]
    pair.source.post(*dead)
    pair.source.claim_and_release(1000, times=2)
    pair.source.post("live", "live too", "live as well")
    assert pair.claim(2) == ["live", "live too"]
    assert bodies(pair.dead.listing()) == dead
    assert (pair.source.stats().free, pair.source.stats().claimed) == (1, 2)


def test_statistics_count_a_dead_letter_in_the_queue_that_has_it(pair: Pair) -> None:
    pair.source.post("a", "b")
    pair.source.claim_and_release(1, times=2)
    before = pair.source.volume().total
    assert pair.claim(1) == ["b"]
    assert (pair.source.stats().free, pair.source.stats().claimed) == (0, 1)
    assert (pair.dead.stats().free, pair.dead.stats().claimed) == (1, 0)
    assert pair.source.volume().total == before


def test_the_old_id_of_a_dead_letter_is_absent(pair: Pair) -> None:
    pair.source.post("a")
    pair.source.claim_and_release(1, times=2)
    pair.claim()
    assert pair.source.get(1) == []
    pair.source.delete(1)
    assert bodies(pair.dead.listing()) == ["a"]
    pair.dead.delete(1)
    assert pair.dead.list_everything() == []


def test_a_dead_letter_that_moves_again_names_the_last_queue(pair: Pair) -> None:
    end = pair.source.beside("end-of-the-line")
    pair.source.post("a")
    pair.source.claim_and_release(1, times=2)
    pair.claim()
    pair.dead.claim_and_release(1, times=3)
    _, taken = pair.dead.claim(dead_letters=DeadLetters(end.queue, 3))
    assert taken == []
    (moved,) = end.listing()
    assert moved.origin == Origin("dead-letters", message_id(pair.dead.queue.uid, 1), 3)
    assert moved.claim_count == 0
    end.drop()


@pytest.mark.parametrize("case", ["absent", "dropped", "raised", "of the future"])
def test_a_stale_dead_letter_queue_is_named_and_nothing_changes(pair: Pair, case: str) -> None:
    pair.source.post("dead", "live")
    pair.source.claim_and_release(1, times=2)
    stale = pair.dead.queue
    if case == "absent":
        stale = replace(stale, uid=new_claim_id())
    elif case == "dropped":
        pair.dead.drop()
    elif case == "raised":
        pair.dead.raise_generation()
    else:
        stale = replace(stale, generation=stale.generation + 1)
    before = pair.source.list_everything()
    claim = Claim(new_claim_id(), 60, 60, pair.source.now)
    with pytest.raises(StaleQueue) as caught:
        pair.source.store.claims.claim(
            queue=pair.source.queue, claim=claim, limit=10, now=pair.source.now, dead_letters=DeadLetters(stale, 2)
        )
    assert caught.value.uid == stale.uid
    assert pair.source.listing() == before
    with pytest.raises(NotFound):
        pair.source.get_claim(claim.id)
    if case in ("raised", "of the future"):
        assert pair.dead.list_everything() == []
        assert pair.claim() == ["live"]
        assert bodies(pair.dead.listing()) == ["dead"]


def test_a_stale_source_queue_is_named(pair: Pair) -> None:
    pair.source.post("dead")
    pair.source.claim_and_release(1, times=2)
    stale = pair.source.raise_generation()
    claim = Claim(new_claim_id(), 60, 60, pair.source.now)
    with pytest.raises(StaleQueue) as caught:
        pair.source.store.claims.claim(
            queue=stale, claim=claim, limit=10, now=pair.source.now, dead_letters=pair.rules()
        )
    assert caught.value.uid == stale.uid
    assert bodies(pair.source.listing()) == ["dead"]


def test_a_queue_that_is_its_own_dead_letter_queue_loses_nothing(orders: QueueClient) -> None:
    orders.post("a", "b", "c")
    orders.claim_and_release(2, times=2)
    _, taken = orders.claim(10, dead_letters=DeadLetters(orders.queue, 2))
    assert sorted(bodies(orders.list_everything())) == ["a", "b", "c"]
    assert "c" in bodies(taken)
    moved = [message for message in orders.list_everything() if message.origin is not None]
    assert sorted(bodies(moved)) == ["a", "b"]


def test_concurrent_claims_move_each_exhausted_message_once(pair: Pair) -> None:
    dead = [str(n) for n in range(60)]
    live = [f"live {n}" for n in range(60)]
    pair.source.post(*dead)
    pair.source.claim_and_release(60, times=2)
    pair.source.post(*live)
    taken: list[str] = []

    def claim_until_empty() -> None:
        while got := pair.claim(4):
            taken.extend(got)

    at_once(*[claim_until_empty] * 8)
    assert sorted(taken) == sorted(live)
    assert bodies(pair.dead.list_everything()) == dead
    assert len({message.origin for message in pair.dead.listing()}) == 60
