# SPDX-License-Identifier: Apache-2.0
"""Part ``deliveries``, ``make_due_earlier``: deliveries get back in front of their successors.

Other notifiers take and settle them meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from tests.conformance.notifier_client import LEASE, NotifierClient, SubscriptionBacklog, numbers
from tests.conformance.queue_client import at_once
from zaqar.model import DEAD, DONE, WAITING, Delivery
from zaqar.notification.leased_store import LeasedStore
from zaqar.storage.pools import Placement


@pytest.fixture
def backlog(notifier: NotifierClient) -> SubscriptionBacklog:
    return SubscriptionBacklog(notifier)


@pytest.fixture
def leased(notifier: NotifierClient) -> Iterator[LeasedStore]:
    (store_ref,) = Placement(notifier.store).all_stores()
    store = LeasedStore(store_ref, owner="restorer", lease=LEASE, clock=notifier.clock, threads=1)
    yield store
    store.close()


def fill(backlog: SubscriptionBacklog, count: int) -> list[Delivery]:
    """Some that became due later than they would be if nobody had taken them since they were made."""
    return backlog.fill(count, created=backlog.notifier.now - 60)


def restore(leased: LeasedStore, later: Delivery) -> int:
    return asyncio.run(leased.restore_order(later))


def test_deliveries_of_a_killed_notifier_are_taken_before_their_successors(
    notifier: NotifierClient, backlog: SubscriptionBacklog, leased: LeasedStore
) -> None:
    made = fill(backlog, 6)
    killed = notifier.take("killed", limit=3)
    assert restore(leased, made[-1]) == 2, "the others are on lease"
    notifier.clock.advance(LEASE)
    assert restore(leased, made[-1]) == 3
    assert restore(leased, made[-1]) == 0, "once more changes nothing"
    # What the late owner says is ignored, as if another one had taken them.
    notifier.settle_as(DONE, killed, owner="killed")
    assert numbers(notifier.take(most_of_one=4)) == [1, 2, 3, 4]


@pytest.mark.parametrize("state", [DONE, DEAD, WAITING, None])
def test_a_delivery_that_is_taken_or_settled_meanwhile_is_not_changed(
    notifier: NotifierClient,
    backlog: SubscriptionBacklog,
    leased: LeasedStore,
    state: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Just after the restorer has read what waits. WAITING: it is tried again later; None: it is still on lease."""
    made = fill(backlog, 3)
    list_deliveries = notifier.store.delivery_log.list_before

    def list_then_take(**given: object) -> list[Delivery]:
        found = list_deliveries(**given)  # type: ignore[arg-type]
        taken = notifier.take("other", limit=2)
        assert numbers(taken) == [1, 2]
        if state == WAITING:
            notifier.retry_at(notifier.now + 60, taken, owner="other")
        elif state is not None:
            notifier.settle_as(state, taken[:1], owner="other")
            notifier.discard(taken[1:], owner="other")
        return found

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(notifier.store.delivery_log, "list_before", list_then_take)
        assert restore(leased, made[-1]) == 0
    assert numbers(notifier.take("third")) == [3]
    first, second = backlog.get(1), backlog.get(2)
    assert first is not None
    assert (first.state, first.owner) == (state or WAITING, None if state else "other")
    assert (second is None) is (state in (DONE, DEAD))


def test_a_settled_delivery_does_not_come_back(
    notifier: NotifierClient, backlog: SubscriptionBacklog, leased: LeasedStore
) -> None:
    for _ in range(5):
        made = fill(backlog, 20)
        sent: list[int] = []

        def send(owner: str, sent: list[int] = sent) -> None:
            while taken := notifier.take(owner, limit=3):
                sent += numbers(taken)
                notifier.discard(taken, owner=owner)

        def restore_on(last: Delivery = made[-1], sent: list[int] = sent) -> None:
            while len(sent) < 20:
                restore(leased, last)

        at_once(restore_on, partial(send, "a"), partial(send, "b"))
        assert sorted(sent) == list(range(1, 21))
        assert backlog.listing() == []
