# SPDX-License-Identifier: Apache-2.0
"""Trusts that nothing uses any more are deleted in Keystone, and no others."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.clock import FakeClock
from tests.unit.notification.harness import until
from tests.unit.notification.subjects import a_subscription
from zaqar.access.trust_answers import TrustRefused
from zaqar.clock import MAX_CLOCK_SKEW
from zaqar.errors import KeystoneUnavailable, StoreUnavailable
from zaqar.model import Trust
from zaqar.notification import trust_removal
from zaqar.notification.executors import StoreExecutor
from zaqar.notification.trust_removal import (
    AWAY_SECONDS,
    BATCH_OF_A_PROJECT,
    BEHIND_SECONDS,
    DELETIONS,
    FIRST_RETRY_SECONDS,
    LEASE_SECONDS,
    MOST_RETRY_SECONDS,
    USED_SECONDS,
    TrustRemoval,
)
from zaqar.storage.memory import MemoryManagementStore


class Removals:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.management = MemoryManagementStore()
        self.deleted: list[str] = []
        self.error: Exception | None = None
        self.before_deletion: Callable[[], object] = lambda: None

    def delete(self, trust_id: str) -> None:
        self.before_deletion()
        if self.error is not None:
            raise self.error
        self.deleted.append(trust_id)

    def trust(self, id_: str = "t1", **fields: Any) -> Trust:
        subscription = a_subscription("trust+http://192.0.2.1/")
        ids = {"queue_uid": subscription.queue_uid, "subscription_id": subscription.id}
        times = {"expires": self.clock() + 1e6, "due": self.clock(), "attached": True}
        trust = Trust(id_, **{"project": "p1", "user_id": "ann", **ids, **times, **fields})
        self.management.trusts.put(trust=trust)
        return trust

    def subscribe(self, trust_id: str, **fields: Any) -> None:
        subscriber = f"trust+http://192.0.2.1/{secrets.token_hex(4)}"
        subscription = a_subscription(subscriber, options={"trust_id": trust_id}, **fields)
        self.management.subscriptions.create(subscription=subscription, now=self.clock())

    def look(self, times: int = 1) -> None:
        async def run() -> None:
            executor = StoreExecutor("management", 2)
            removal = TrustRemoval(self.delete, management=self.management, executor=executor, clock=self.clock)
            try:
                for _ in range(times):
                    await removal.run_once()
            finally:
                executor.close()

        asyncio.run(run())

    def record(self, id_: str = "t1") -> Trust | None:
        return self.management.trusts.get(trust_id=id_)


@pytest.fixture
def removals() -> Removals:
    return Removals()


def test_a_trust_that_nothing_uses_is_deleted(removals: Removals) -> None:
    removals.trust()
    removals.trust("later", due=removals.clock() + 1)
    removals.look()
    assert removals.deleted == ["t1"]
    assert removals.record() is None
    assert removals.record("later") is not None


def test_a_trust_in_use_is_looked_at_another_day(removals: Removals) -> None:
    trust = removals.trust(attached=False, tries=2)
    removals.subscribe("t1")
    removals.look()
    assert removals.deleted == []
    due = removals.clock() + USED_SECONDS
    assert removals.record() == replace(trust, attached=True, tries=0, due=due)


def test_a_trust_whose_subscription_has_another_one_is_deleted(removals: Removals) -> None:
    removals.trust()
    removals.trust("t2")
    removals.subscribe("t2")
    removals.look()
    assert removals.deleted == ["t1"]


def test_a_subscription_that_is_live_by_the_clock_of_another_worker_keeps_its_trust(removals: Removals) -> None:
    removals.trust()
    removals.subscribe("t1", expires=removals.clock() + 60)
    removals.clock.advance(60 + MAX_CLOCK_SKEW / 2)
    removals.look()
    assert removals.deleted == []
    removals.clock.advance(USED_SECONDS)
    removals.look()
    assert removals.deleted == ["t1"]


def test_a_trust_that_has_ended_is_forgotten(removals: Removals) -> None:
    removals.trust(expires=removals.clock() - MAX_CLOCK_SKEW)
    removals.look()
    assert removals.deleted == []
    assert removals.record() is None


def test_the_pause_after_a_refused_deletion_grows(removals: Removals) -> None:
    removals.trust(expires=1e12)
    removals.error = TrustRefused("its user may be disabled")
    pauses = []
    for _ in range(15):
        removals.look()
        record = removals.record()
        assert record is not None
        pauses.append(record.due - removals.clock())
        removals.clock.now = record.due
    assert pauses[:4] == [FIRST_RETRY_SECONDS * factor for factor in (1, 2, 4, 8)]
    assert pauses[-2:] == 2 * [MOST_RETRY_SECONDS]
    removals.error = None
    removals.look()
    assert removals.deleted == ["t1"]


def test_while_keystone_is_away_all_wait(removals: Removals) -> None:
    removals.trust()
    removals.error = KeystoneUnavailable()
    with pytest.raises(KeystoneUnavailable):
        removals.look()
    record = removals.record()
    assert record is not None and (record.due, record.tries) == (removals.clock() + AWAY_SECONDS, 0)
    removals.clock.advance(AWAY_SECONDS)
    removals.error = None
    removals.look()
    assert removals.deleted == ["t1"]


def test_keystone_that_is_away_is_asked_once_in_a_round(removals: Removals) -> None:
    tried: list[int] = []
    removals.before_deletion = lambda: tried.append(1)
    for number in range(BATCH_OF_A_PROJECT):
        removals.trust(f"t{number}")
    removals.error = KeystoneUnavailable()
    with pytest.raises(KeystoneUnavailable):
        removals.look()
    assert len(tried) <= DELETIONS
    removals.error = None
    removals.clock.advance(AWAY_SECONDS)
    removals.look()
    assert len(removals.deleted) == BATCH_OF_A_PROJECT


def test_a_notifier_that_dies_leaves_the_work_to_others(removals: Removals) -> None:
    class Died(Exception):
        pass

    removals.trust()
    removals.error = Died()
    with pytest.raises(Died):
        removals.look()
    removals.error = None
    removals.clock.advance(LEASE_SECONDS - 1)
    removals.look()
    assert removals.deleted == []
    removals.clock.advance(1)
    removals.look()
    assert removals.deleted == ["t1"]


def test_a_record_that_another_notifier_has_is_left_alone(removals: Removals) -> None:
    trust = removals.trust()
    store = removals.management.trusts
    listing = store.list_due

    def list_due(*, now: float, limit: int) -> list[Trust]:
        found = listing(now=now, limit=limit)
        store.replace(trust=replace(trust, due=now + LEASE_SECONDS), was_due=trust.due)
        return found

    store.list_due = list_due  # type: ignore[method-assign]
    removals.look()
    assert removals.deleted == []


def test_a_removal_during_the_look_is_not_lost(removals: Removals) -> None:
    """The subscription is removed after it was found, and before the record is put off."""
    trust = removals.trust()
    removals.subscribe("t1")
    store, found = removals.management.trusts, removals.management.subscriptions.get

    def get_subscription(**key: Any) -> Any:
        there = found(**key)
        removals.management.subscriptions.delete_all(queue_uid=trust.queue_uid)
        store.hasten(queue_uid=trust.queue_uid, now=removals.clock())
        return there

    removals.management.subscriptions.get = get_subscription  # type: ignore[method-assign]
    removals.look()
    assert removals.deleted == []
    removals.look()
    assert removals.deleted == ["t1"]


def test_one_project_leaves_room_for_others(removals: Removals) -> None:
    for number in range(BATCH_OF_A_PROJECT + 5):
        removals.trust(f"p1-{number:02}", due=removals.clock() - 100 + number)
    removals.trust("p2", project="p2")
    removals.look()
    assert "p2" in removals.deleted
    assert len(removals.deleted) == BATCH_OF_A_PROJECT + 1
    removals.look()
    assert len(removals.deleted) == BATCH_OF_A_PROJECT + 1
    removals.clock.advance(BEHIND_SECONDS)
    removals.look()
    assert len(removals.deleted) == BATCH_OF_A_PROJECT + 6


def test_it_goes_on_after_failures(removals: Removals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_removal, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(trust_removal, "AWAY_SECONDS", 0.01)
    errors: list[Exception] = [StoreUnavailable(), RuntimeError("a bug"), KeystoneUnavailable()]

    def fail() -> None:
        removals.clock.advance(LEASE_SECONDS)
        if errors:
            raise errors.pop(0)

    removals.before_deletion = fail

    async def run() -> None:
        executor = StoreExecutor("management", 2)
        removal = TrustRemoval(removals.delete, management=removals.management, executor=executor, clock=removals.clock)
        running = asyncio.create_task(removal.run())
        removals.trust()
        await until(lambda: removals.clock.advance(1) and removals.deleted)
        running.cancel()
        executor.close()

    asyncio.run(run())
    assert removals.deleted == ["t1"]
