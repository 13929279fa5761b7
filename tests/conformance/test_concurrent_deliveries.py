# SPDX-License-Identifier: Apache-2.0
"""Part ``deliveries``: several notifiers take, settle and resend deliveries at the same time."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from tests.clock import START
from tests.conformance.notifier_client import LEASE, NotifierClient, SubscriptionBacklog, numbers
from tests.conformance.queue_client import at_once
from zaqar.model import DEAD, DONE, WAITING, Delivery, DeliveryKey


@pytest.fixture
def backlog(notifier: NotifierClient) -> SubscriptionBacklog:
    return SubscriptionBacklog(notifier)


def test_concurrent_takes_never_return_the_same_delivery(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    backlogs = [backlog, backlog.beside(), *(SubscriptionBacklog(notifier) for _ in range(4))]
    for each in backlogs:
        each.fill(60)
    seen: list[DeliveryKey] = []

    def take_on(owner: str) -> None:
        while taken := notifier.take(owner, limit=7, most_of_one=3):
            assert {each.owner for each in taken} == {owner}
            seen.extend(each.key for each in taken)
            notifier.settle_as(DONE, taken[::2], owner=owner)

    at_once(*(partial(take_on, f"owner-{n}") for n in range(8)))
    seen += (each.key for each in notifier.take_all("last"))
    assert len(seen) == len(set(seen)) == 360


def test_of_two_notifiers_that_think_they_own_a_delivery_one_settles_it(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    for number in range(1, 6):
        notifier.put(backlog.new(number))
        late = notifier.take("late")
        notifier.clock.advance(LEASE)
        taken = notifier.take("me")
        at_once(
            partial(notifier.settle_as, DEAD, late, owner="late"),
            partial(notifier.settle_as, DONE, taken, owner="me"),
            partial(notifier.extend, late, notifier.now + 60, owner="late"),
        )
        assert backlog.counts() == (0, 0)
        assert numbers(backlog.listing(DONE)) == list(range(number, 0, -1))


def test_no_delivery_is_lost_during_concurrent_takes_settles_and_resends(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    """Takers, some of which fail, and resends, all at a time: each delivery is there in the end, and the counts fit."""
    backlogs = [backlog, backlog.beside(), SubscriptionBacklog(notifier)]
    for each in backlogs:
        each.fill(40)

    def deliver_on(owner: str, seed: int) -> None:
        random = Random(seed)
        for _ in range(30):
            for delivery in notifier.take(owner, limit=6, most_of_one=4):
                settle = random.choice(
                    [
                        partial(notifier.settle_as, DONE),
                        partial(notifier.settle_as, DEAD),
                        partial(notifier.retry_at, START),
                    ]
                )
                settle([delivery], owner=owner)

    def resend_on() -> None:
        for n in range(30):
            backlogs[n % 3].resend_dead(5)
            backlogs[n % 3].resend(n, n + 1)

    at_once(*(partial(deliver_on, f"owner-{n}", n) for n in range(4)), resend_on)
    for each in backlogs:
        there: list[Delivery] = each.listing()
        assert numbers(there) == list(range(40, 0, -1))
        assert all(one.owner is None for one in there)
        states = [one.state for one in there]
        assert each.counts() == (states.count(WAITING), states.count(DEAD))
        for state in (WAITING, DONE, DEAD):
            assert each.listing(state) == [one for one in there if one.state == state]
    waiting = [one.key for each in backlogs for one in each.listing(WAITING)]
    assert sorted(waiting) == sorted(one.key for one in notifier.take_all())
