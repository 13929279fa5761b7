# SPDX-License-Identifier: Apache-2.0
"""Part ``trusts``: which Keystone trusts the service has to delete, and when."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from tests.clock import START, TICK
from tests.conformance.queue_client import ALL, at_once
from zaqar.model import Trust
from zaqar.storage.base import ManagementStore, TrustStore


@dataclass
class Trusts:
    """The trusts that one test makes, of one queue unless it says otherwise. ``start`` is a time of its own."""

    store: TrustStore
    start: float
    uid: str = field(default_factory=lambda: secrets.token_hex(12))
    made: list[Trust] = field(default_factory=list)

    def put(self, **fields: Any) -> Trust:
        ids = {"id": secrets.token_hex(16), "queue_uid": self.uid, "subscription_id": secrets.token_hex(12)}
        times = {"expires": self.start + 3600, "due": self.start, "attached": True}
        trust = Trust(**{"project": "shop", "user_id": "ann", **ids, **times, **fields})
        self.store.put(trust=trust)
        self.made.append(trust)
        return trust

    def get(self, trust: Trust) -> Trust | None:
        return self.store.get(trust_id=trust.id)

    def due(self, now: float, limit: int = ALL) -> list[Trust]:
        """Those of this test; ``limit`` counts those of others that are left over as well, of which there are none."""
        return self.store.list_due(now=now, limit=limit)


@pytest.fixture
def trusts(management: ManagementStore) -> Iterator[Trusts]:
    trusts = Trusts(management.trusts, START)
    yield trusts
    for trust in trusts.made:
        trusts.store.forget(trust_id=trust.id)
    assert trusts.due(START + 1e9) == []


def test_a_trust_comes_back_as_it_was_written(trusts: Trusts) -> None:
    written = trusts.put(
        project="sh\u00f6p /{}", user_id="\u00e4nn", expires=253402300799.0, due=START + 1 / 3, attached=False, tries=7
    )
    assert trusts.get(written) == written
    assert trusts.due(written.due) == [written]
    changed = replace(written, attached=True, due=START + TICK, tries=0)
    trusts.store.put(trust=changed)
    assert trusts.get(written) == changed
    assert trusts.due(START + 1) == [changed]


def test_get_of_an_absent_trust_is_none_and_forget_is_no_error(trusts: Trusts) -> None:
    trusts.store.forget(trust_id="none")
    assert trusts.store.get(trust_id="none") is None
    assert trusts.due(START + 1e9) == []


def test_due_trusts_are_listed_in_order(trusts: Trusts) -> None:
    made = [trusts.put(due=START + seconds * TICK) for seconds in (3, 1, 2, 4)]
    assert trusts.due(START) == []
    assert trusts.due(START + 3 * TICK) == [made[1], made[2], made[0]]
    assert trusts.due(START + 3 * TICK, limit=2) == [made[1], made[2]]


def test_hasten_makes_the_trusts_of_a_subscription_due(trusts: Trusts) -> None:
    later = START + 100
    wanted = trusts.put(due=later)
    same = trusts.put(due=later, subscription_id=wanted.subscription_id)
    others = [
        trusts.put(due=later),
        trusts.put(due=later, subscription_id=wanted.subscription_id, queue_uid=secrets.token_hex(12)),
        trusts.put(due=later, subscription_id=wanted.subscription_id, attached=False),
    ]
    trusts.store.hasten(queue_uid=trusts.uid, subscription_id=wanted.subscription_id, now=START)
    assert sorted(trusts.due(START), key=str) == sorted([replace(wanted, due=START), replace(same, due=START)], key=str)
    assert [trusts.get(each) for each in others] == others


def test_hasten_makes_the_trusts_of_a_queue_due(trusts: Trusts) -> None:
    later = START + 100
    wanted = [trusts.put(due=later) for _ in range(3)]
    others = [trusts.put(due=later, queue_uid=secrets.token_hex(12)), trusts.put(due=later, attached=False)]
    trusts.store.hasten(queue_uid=trusts.uid, now=START)
    assert {each.id for each in trusts.due(START)} == {each.id for each in wanted}
    assert [trusts.get(each) for each in others] == others
    trusts.store.hasten(queue_uid=secrets.token_hex(12), now=START)


def test_hasten_makes_no_trust_due_later(trusts: Trusts) -> None:
    early = trusts.put(due=START - TICK, tries=3)
    trusts.store.hasten(queue_uid=trusts.uid, now=START)
    assert trusts.get(early) == early


def test_a_replacement_needs_the_due_time_in_place(trusts: Trusts) -> None:
    read = trusts.put(due=START + 1 / 3)
    assert not trusts.store.replace(trust=replace(read, due=START + 9), was_due=START)
    assert trusts.get(read) == read
    put_off = replace(read, due=START + 9, tries=1)
    assert trusts.store.replace(trust=put_off, was_due=read.due)
    assert trusts.get(read) == put_off
    assert not trusts.store.replace(trust=replace(read, due=START + 10), was_due=read.due)
    assert trusts.due(START + 8) == []
    assert trusts.due(START + 9) == [put_off]
    trusts.store.forget(trust_id=read.id)
    assert not trusts.store.replace(trust=put_off, was_due=put_off.due)
    assert trusts.get(read) is None


def test_a_hasten_is_not_overwritten(trusts: Trusts) -> None:
    read = trusts.put(due=START + 100)
    trusts.store.hasten(queue_uid=trusts.uid, now=START)
    assert not trusts.store.replace(trust=replace(read, due=START + 1000), was_due=read.due)
    assert trusts.due(START) == [replace(read, due=START)]


def test_of_concurrent_replacements_exactly_one_succeeds(trusts: Trusts) -> None:
    for _ in range(5):
        read = trusts.put()
        outcomes: list[bool] = []

        def try_it(number: int, read: Trust = read, outcomes: list[bool] = outcomes) -> None:
            changed = replace(read, due=START + number)
            outcomes.append(trusts.store.replace(trust=changed, was_due=read.due))

        at_once(*(partial(try_it, number) for number in range(1, 5)))
        assert sorted(outcomes) == [False, False, False, True]


def test_a_forgotten_trust_is_not_listed_as_due(trusts: Trusts) -> None:
    gone, kept = trusts.put(due=START + 100), trusts.put(due=START + 100)
    trusts.store.forget(trust_id=gone.id)
    trusts.store.hasten(queue_uid=trusts.uid, now=START)
    assert [each.id for each in trusts.due(START)] == [kept.id]
