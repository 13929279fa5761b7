# SPDX-License-Identifier: Apache-2.0
"""Another process acts between the read and the write of an operation, which are two commands on MongoDB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import servers
from tests.conformance.mongodb.conftest import DATABASE
from tests.conformance.queue_client import QueueClient, bodies, new_claim_id
from zaqar.model import Claim, DeadLetters
from zaqar.storage.mongodb.client.transactions import Attempt
from zaqar.storage.mongodb.store import MongoMessageStore

MOST = 2
"""Claims after which a message is exhausted."""


@pytest.fixture
def other(members: servers.MongoSet, orders: QueueClient) -> Iterator[QueueClient]:
    """The same queue as another process sees it."""
    store = MongoMessageStore.from_settings({"uri": members.uri, "database": DATABASE})
    yield QueueClient(store, orders.clock, orders.queue)
    store.close()


@contextmanager
def between(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> Iterator[list[bool]]:
    """Act once, when an operation has read and has not written yet. The returned list is empty until then."""
    read_latest = Attempt.read_latest
    acted: list[bool] = []

    def read_and_act(attempt: Attempt, *args: Any, **kwargs: Any) -> Any:
        found = read_latest(attempt, *args, **kwargs)
        if not acted:
            acted.append(True)
            act()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Attempt, "read_latest", read_and_act)
        yield acted
    assert acted


def claim_and_release(other: QueueClient) -> None:
    other.claim_and_release(1, 1)


def exhaust_all(other: QueueClient) -> None:
    other.claim_and_release(3, 1)


def let_the_claim_end(other: QueueClient) -> None:
    """Another worker's clock is ahead: it ends the claim, so the message is free for the process that has read."""
    claim = Claim(new_claim_id(), 1, 60, other.now - 5)
    other.store.claims.claim(queue=other.queue, claim=claim, limit=3, now=other.now - 5)
    other.listing()


def pop_one(other: QueueClient) -> None:
    other.pop(1)


def delete_and_post(other: QueueClient) -> None:
    other.delete(2)
    other.post("d")


ACTS = [claim_and_release, exhaust_all, let_the_claim_end, pop_one, delete_and_post]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("target", ["passed over", "moved", "moved to itself"])
@pytest.mark.parametrize("before", range(MOST + 1))
def test_no_message_is_claimed_once_more_than_allowed(
    orders: QueueClient,
    other: QueueClient,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[QueueClient], None],
    target: str,
    before: int,
) -> None:
    dead = orders.beside("dead")
    rules = DeadLetters({"passed over": None, "moved": dead.queue, "moved to itself": orders.queue}[target], MOST, None)
    orders.post("a", "b", "c")
    orders.claim_and_release(3, before)
    orders.claim(1, ttl=1)  # so that this process knows the fence
    orders.clock.advance(2)
    orders.listing()
    with between(monkeypatch, lambda: act(other)):
        claim_id, taken = orders.claim(3, dead_letters=rules)
    assert [message.claim_count for message in taken if message.claim_count > MOST] == []
    if taken:
        _, held = orders.get_claim(claim_id)
        assert list(held) == list(taken), "the answer is the stored state"
    assert_stats_agree(orders)
    assert_stats_agree(dead)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("operation", ["claim", "pop"])
def test_a_taken_message_is_returned_as_it_is_stored(
    orders: QueueClient,
    other: QueueClient,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[QueueClient], None],
    operation: str,
) -> None:
    orders.post("a", "b", "c")
    orders.claim_and_release(1, 1)
    counts = {"a": 1, "b": 0, "c": 0, "d": 0}
    with between(monkeypatch, lambda: act(other)):
        if operation == "claim":
            claim_id, taken = orders.claim(3)
            assert list(orders.get_claim(claim_id)[1]) == list(taken)
        else:
            taken = orders.pop(3)
            if act in (exhaust_all, let_the_claim_end):
                counts = {name: count + 1 for name, count in counts.items()}
            elif act is claim_and_release:
                counts["a"] += 1
            assert [message.claim_count for message in taken] == [counts[body] for body in bodies(taken)]
    assert_stats_agree(orders)


def test_a_renewal_by_a_clock_that_is_behind_keeps_the_message(
    orders: QueueClient, other: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message and its claim have expired when the listing reads them. Then the message's life is extended."""
    orders.post("a", ttl=3)
    claim_id, _ = orders.claim(ttl=1, grace=0)
    early = orders.now + 0.5
    orders.clock.advance(10)

    def renew() -> None:
        other.store.claims.renew(queue=other.queue, claim_id=claim_id, ttl=2, grace=60, now=early)

    with between(monkeypatch, renew):
        assert bodies(orders.listing()) == ["a"]
    assert_stats_agree(orders)


def assert_stats_agree(orders: QueueClient) -> None:
    """The statistics agree with a listing."""
    listed = orders.listing(claimed=True)
    stats = orders.stats()
    claimed = [message for message in listed if message.claim_id is not None]
    assert (stats.free, stats.claimed) == (len(listed) - len(claimed), len(claimed))
