# SPDX-License-Identifier: Apache-2.0
"""Subscriptions under races and kills: an acknowledged one gets all messages, and none outlives its queue."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.service.trusting import Keystone
from tests.unit.workers import CALLER, QUEUE_NAME, Cluster, Killed, PooledCluster, Worker, die
from zaqar.errors import AlreadySubscribed, InvalidInput, NotFound, StoreUnavailable
from zaqar.model import REFUSED, Delivery, Subscription
from zaqar.notification.webhook_targets import WebhookTargetPolicy
from zaqar.service.subscriptions import Subscriptions
from zaqar.storage.base import MessageStore

MAIL = "mailto:a@example.org"


class Subscribers:
    """The subscriptions of one worker, with the stores of a cluster."""

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        self.cluster = cluster
        self.wakeups = 0
        self.worker: Worker = cluster.worker()
        self.service = Subscriptions(
            management=cluster.management,
            placement=cluster.placement(),
            queues=self.worker.queues,
            limits=cluster.limits,
            clock=cluster.clock,
            target_policy=WebhookTargetPolicy(["192.0.2.0/24"]),
            wake_notifiers=self._wake_notifiers,
            **{"notifying": True, "require_confirmation": False, **options},
        )

    def _wake_notifiers(self) -> None:
        self.wakeups += 1

    def subscribe(self, subscriber: str = MAIL, **fields: Any) -> str:
        raw = json.dumps({"subscriber": subscriber, **fields}).encode()
        return self.service.create(CALLER, QUEUE_NAME, raw).subscription_id

    def listed(self) -> list[Subscription]:
        return self.service.list_page(QUEUE_NAME, marker=None, limit=100)[0]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def noted(cluster: Cluster, worker: Worker) -> bool:
    """Whether a post of this worker is noted for the notifiers, with the queue in its cache."""
    worker.post("m")
    now = cluster.clock.now
    return bool(cluster.store.outbox.take(owner="n", until=now + 1000, now=now, limit=100))


def all_stored(cluster: Cluster) -> int:
    return len(cluster.management.subscriptions._subscriptions)


def test_workers_with_a_cached_queue_notice_its_first_subscription(cluster: Cluster) -> None:
    other = cluster.worker()
    other.post("before")
    assert not noted(cluster, other)
    subscribers = Subscribers(cluster)
    id_ = subscribers.subscribe()
    assert noted(cluster, other)
    subscribers.service.delete(QUEUE_NAME, id_)
    assert not noted(cluster, other)


# Another request subscribes before or after each step of the removal of the only subscription.
@pytest.mark.parametrize(
    "method", ["queue_records.get", "subscriptions.list_after", "queue_records.replace", "subscriptions.delete"]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_posts_are_noted_if_a_subscription_is_created_while_the_last_one_is_removed(
    cluster: Cluster, method: str, when: str
) -> None:
    one, two = Subscribers(cluster), Subscribers(cluster)
    id_ = one.subscribe()
    getattr(cluster.rows, when)(method, lambda: two.subscribe("mailto:b@example.org"))
    one.service.delete(QUEUE_NAME, id_)
    assert cluster.rows.all_sprung
    assert [each.subscriber for each in one.listed()] == ["mailto:b@example.org"]
    assert noted(cluster, cluster.worker())


# The only other subscription is removed before or after each step of a creation.
@pytest.mark.parametrize("method", ["queue_records.get", "queue_records.replace", "subscriptions.create"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [0, 1, 2, 3])
def test_posts_are_noted_if_the_last_subscription_is_removed_while_another_is_created(
    cluster: Cluster, method: str, when: str, nth: int
) -> None:
    one, two = Subscribers(cluster), Subscribers(cluster)
    id_ = one.subscribe()
    steps = [lambda: None] * nth + [lambda: one.service.delete(QUEUE_NAME, id_)]
    getattr(cluster.rows, when)(method, *steps)
    two.subscribe("mailto:b@example.org")
    cluster.rows.forget_plan()
    assert "mailto:b@example.org" in [each.subscriber for each in one.listed()]
    assert noted(cluster, cluster.worker())


@pytest.mark.parametrize("again", [False, True])
def test_posts_are_noted_from_before_a_subscription_is_acknowledged(cluster: Cluster, again: bool) -> None:
    """A removal that is delayed between its read and its write does not turn off an acknowledged subscription."""
    one, two = Subscribers(cluster), Subscribers(cluster)
    id_ = one.subscribe()
    if again:
        # The answer to a repeated creation has the same guarantee as the first one.
        cluster.rows.before("subscriptions.create", lambda: two.subscribe("mailto:b@example.org"))
    seen: list[bool] = []
    cluster.rows.after("subscriptions.list_after", lambda: two.subscribe("mailto:b@example.org"))
    # When the removal reads again, its change of the row was made or has failed.
    cluster.rows.before("subscriptions.list_after", lambda: None, lambda: seen.append(noted(cluster, cluster.worker())))
    one.service.delete(QUEUE_NAME, id_)
    cluster.rows.forget_plan()
    assert seen == [True]
    assert noted(cluster, cluster.worker())


def test_a_longer_ttl_takes_effect_for_a_worker_with_a_fast_clock(cluster: Cluster) -> None:
    """A subscription is expired by another worker's clock and just got a longer TTL: it gets its messages."""
    one, two = Subscribers(cluster), Subscribers(cluster)
    id_ = one.subscribe(ttl=60)
    cluster.clock.advance(59)
    other = two.subscribe("mailto:b@example.org")
    seen: list[bool] = []

    def look_ahead() -> None:
        cluster.clock.advance(2)

    def look_back_and_change() -> None:
        cluster.clock.advance(-2)
        one.service.patch(CALLER, QUEUE_NAME, id_, b'{"ttl":1000}')

    cluster.rows.before("subscriptions.list_after", look_ahead)
    cluster.rows.after("subscriptions.list_after", look_back_and_change)
    cluster.rows.before("queue_records.replace", lambda: None)
    cluster.rows.before("subscriptions.list_after", lambda: seen.append(noted(cluster, cluster.worker())))
    two.service.delete(QUEUE_NAME, other)
    cluster.rows.forget_plan()
    assert all(seen)
    assert noted(cluster, cluster.worker())


def test_a_subscription_stored_while_its_queue_is_deleted_is_removed(cluster: Cluster) -> None:
    """The creation has found the row, which is the last thing that a delete removes."""
    subscribers = Subscribers(cluster)
    subscribers.subscribe()
    (one,) = subscribers.listed()
    late = replace(one, id="f" * 24, subscriber="mailto:late@example.org")
    cluster.rows.after(
        "subscriptions.delete_all", lambda: cluster.management.subscriptions.create(subscription=late, now=late.created)
    )
    subscribers.worker.queues.delete(QUEUE_NAME)
    assert all_stored(cluster) == 0


@pytest.mark.parametrize(
    "method", ["queue_records.get", "queue_records.replace", "subscriptions.create", "queue_records.create"]
)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [0, 1, 2])
def test_every_stored_subscription_is_listed_if_the_queue_is_deleted_during_a_creation(
    cluster: Cluster, method: str, when: str, nth: int
) -> None:
    one, two = Subscribers(cluster), Subscribers(cluster)
    steps = [lambda: None] * nth + [lambda: one.worker.queues.delete(QUEUE_NAME)]
    getattr(cluster.rows, when)(method, *steps)
    two.subscribe()
    cluster.rows.forget_plan()
    if two.listed():
        assert noted(cluster, cluster.worker())
    # In any order, no subscription is stored that is not listed.
    assert all_stored(cluster) == len(two.listed())


@pytest.mark.parametrize("method", ["subscriptions.delete_all", "queue_records.delete"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_stored_subscription_is_listed_if_it_is_created_during_a_delete(
    cluster: Cluster, method: str, when: str
) -> None:
    one, two = Subscribers(cluster), Subscribers(cluster)
    one.subscribe()
    getattr(cluster.rows, when)(method, two.subscribe)
    one.worker.queues.delete(QUEUE_NAME)
    assert all_stored(cluster) == len(one.listed())
    if one.listed():
        assert noted(cluster, cluster.worker())


@pytest.mark.parametrize("method", ["subscriptions.delete_all", "queue_records.delete"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_no_subscription_is_left_after_a_killed_delete_of_the_queue(cluster: Cluster, method: str, when: str) -> None:
    subscribers = Subscribers(cluster)
    subscribers.subscribe()
    getattr(cluster.rows, when)(method, die)
    with pytest.raises(Killed):
        subscribers.worker.queues.delete(QUEUE_NAME)
    # The next request for the queue finishes the delete.
    worker = cluster.worker()
    worker.post("new")
    assert worker.bodies() == ["new"]
    assert all_stored(cluster) == 0
    assert not noted(cluster, worker)


@pytest.mark.parametrize("method", ["queue_records.get", "queue_records.replace", "subscriptions.create"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [0, 1, 2, 3])
def test_a_killed_creation_of_a_subscription_can_be_repeated(
    cluster: Cluster, method: str, when: str, nth: int
) -> None:
    """A client that repeats the request succeeds."""
    getattr(cluster.rows, when)(method, *[lambda: None] * nth, die)
    with contextlib.suppress(Killed):
        Subscribers(cluster).subscribe()
    cluster.rows.forget_plan()
    subscribers = Subscribers(cluster)
    id_ = subscribers.subscribe()
    assert [each.id for each in subscribers.listed()] == [id_]
    assert noted(cluster, cluster.worker())


def test_two_concurrent_creations_with_one_subscriber_make_one_subscription(cluster: Cluster) -> None:
    one, two = Subscribers(cluster), Subscribers(cluster)
    ids: list[str] = []
    cluster.rows.before("subscriptions.create", lambda: ids.append(two.subscribe()))
    ids.append(one.subscribe())
    assert ids[0] == ids[1]
    assert noted(cluster, cluster.worker())


def test_a_subscription_may_be_confirmed_while_it_is_created_again(cluster: Cluster) -> None:
    subscribers = Subscribers(cluster)
    id_ = subscribers.subscribe()
    subscribers.service.set_confirmed(QUEUE_NAME, id_, confirmed=False)
    cluster.rows.before(
        "subscriptions.replace", lambda: subscribers.service.set_confirmed(QUEUE_NAME, id_, confirmed=True)
    )
    with pytest.raises(AlreadySubscribed):
        subscribers.subscribe()


def test_changes_do_not_undo_each_other(cluster: Cluster) -> None:
    subscribers = Subscribers(cluster)
    id_ = subscribers.subscribe()
    cluster.rows.before(
        "subscriptions.replace", lambda: subscribers.service.patch(CALLER, QUEUE_NAME, id_, b'{"options":{"a":1}}')
    )
    subscribers.service.set_confirmed(QUEUE_NAME, id_, confirmed=False)
    ((found,), _) = subscribers.service.list_page(QUEUE_NAME, marker=None, limit=5)
    assert (found.options, found.state, found.version) == ({"a": 1}, REFUSED, 3)


def test_an_expired_subscription_stays_for_the_clock_skew(cluster: Cluster) -> None:
    subscribers = Subscribers(cluster)
    subscribers.subscribe(ttl=60)
    cluster.clock.advance(60)
    assert subscribers.listed() == []
    assert subscribers.service.tidy() == (0, True)
    cluster.clock.advance(60)
    assert subscribers.service.tidy() == (1, True)
    assert not noted(cluster, cluster.worker())


def test_tidy_removes_many_expired_subscriptions(cluster: Cluster) -> None:
    subscribers = Subscribers(cluster)
    for number in range(30):
        subscribers.subscribe(f"mailto:a{number}@example.org", ttl=60 + number % 2)
    subscribers.subscribe(ttl=1000)
    cluster.clock.advance(121)
    assert subscribers.service.tidy() == (30, True)
    assert len(subscribers.listed()) == 1
    assert noted(cluster, cluster.worker())


def test_tidy_stops_at_its_limit(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many expired subscriptions of one tenant must not occupy the sweeper."""
    monkeypatch.setattr("zaqar.service.subscriptions._BATCH", 5)
    monkeypatch.setattr("zaqar.service.subscriptions._MOST_TIDIED", 10)
    subscribers = Subscribers(cluster)
    for number in range(23):
        subscribers.subscribe(f"mailto:a{number}@example.org", ttl=60)
    cluster.clock.advance(121)
    assert [subscribers.service.tidy() for _ in range(4)] == [(10, False), (10, False), (3, True), (0, True)]
    assert not noted(cluster, cluster.worker())


def store_does_not_answer() -> None:
    raise StoreUnavailable


def test_tidy_continues_if_the_store_of_a_queue_does_not_answer(cluster: Cluster) -> None:
    subscribers = Subscribers(cluster)
    queue_names = [QUEUE_NAME._replace(name=name) for name in ("one", "two", "three")]
    for queue_name in queue_names:
        subscribers.service.create(CALLER, queue_name, b'{"subscriber":"mailto:a@example.org","ttl":60}')
    cluster.clock.advance(121)
    cluster.fences.before("queues.open", store_does_not_answer)
    assert subscribers.service.tidy() == (3, True)
    assert cluster.fences.all_sprung
    rows = [cluster.row(queue_name) for queue_name in queue_names]
    assert [row.notify for row in rows if row is not None] == [False, False, False]


def test_the_end_of_an_old_subscription_does_not_change_a_new_queue(cluster: Cluster) -> None:
    subscribers = Subscribers(cluster)
    subscribers.subscribe()
    (old,) = subscribers.listed()
    subscribers.worker.queues.delete(QUEUE_NAME)
    subscribers.subscribe()
    subscribers.service.end(old)
    assert len(subscribers.listed()) == 1
    assert noted(cluster, cluster.worker())


def test_the_end_of_an_old_subscriber_does_not_remove_the_changed_subscription(cluster: Cluster) -> None:
    """A client changed it after the notifier read it, and before the old subscriber answered that it is gone."""
    subscribers = Subscribers(cluster)
    id_ = subscribers.subscribe()
    (read,) = subscribers.listed()
    subscribers.service.patch(CALLER, QUEUE_NAME, id_, b'{"subscriber": "mailto:b@example.org"}')
    assert subscribers.service.end(read) is False
    (changed,) = subscribers.listed()
    assert subscribers.service.end(changed) is True
    assert subscribers.listed() == []


def test_notifiers_are_woken_for_a_confirmation(cluster: Cluster) -> None:
    subscribers = Subscribers(cluster, require_confirmation=True)
    id_ = subscribers.subscribe()
    subscribers.subscribe()
    subscribers.service.set_confirmed(QUEUE_NAME, id_, confirmed=True)
    subscribers.service.set_confirmed(QUEUE_NAME, id_, confirmed=True)
    assert subscribers.wakeups == 2
    subscribers.service.set_confirmed(QUEUE_NAME, id_, confirmed=False)
    subscribers.service.set_confirmed(QUEUE_NAME, id_, confirmed=False)
    assert subscribers.wakeups == 3


# -- trusts are in test_subscription_trusts.py ---------------------------------------------------------------------

HOOK = "https://192.0.2.1/"


def test_without_keystone_a_subscriber_with_a_token_is_refused(cluster: Cluster) -> None:
    subscribers = Subscribers(cluster)
    with pytest.raises(InvalidInput, match="Keystone"):
        subscribers.subscribe(f"trust+{HOOK}")
    with pytest.raises(InvalidInput, match=r"\[trustee\]"):
        subscribers.subscribe(f"trust+{HOOK}")
    assert cluster.row() is None


def test_the_target_policy_checks_creations_and_changes(cluster: Cluster) -> None:
    subscribers = Subscribers(cluster, trusts=Keystone(cluster.clock))
    for scheme in ("http", "https", "trust+http", "trust+https"):
        with pytest.raises(InvalidInput, match="webhook_allowed_networks"):
            subscribers.subscribe(f"{scheme}://127.0.0.1/")
    id_ = subscribers.subscribe()
    with pytest.raises(InvalidInput, match="webhook_allowed_networks"):
        subscribers.service.patch(CALLER, QUEUE_NAME, id_, b'{"subscriber":"http://127.0.0.1/"}')
    with pytest.raises(NotFound):
        subscribers.service.get(QUEUE_NAME, "0" * 24)


# -- what was on its way to one that is removed ------------------------------------------------------------------------


def delivered_to(cluster: Cluster, store: MessageStore, uid: str, *ids: str) -> list[str]:
    """Put a delivery for each subscription. Return the ids of subscriptions whose delivery a notifier can take."""
    now = cluster.clock.now
    for id_ in ids:
        store.deliveries.put(delivery=Delivery(uid, id_, 1, b"1", 300, now, "c", now))
    taken = store.deliveries.take(owner="n", until=now, now=now, limit=100, most_of_one=100, without=())
    return sorted(delivery.subscription_id for delivery in taken)


@pytest.mark.parametrize("how", ["delete", "purge", "end", "expire"])
def test_deliveries_are_removed_with_their_subscriptions(cluster: Cluster, how: str) -> None:
    subscribers = Subscribers(cluster)
    ids = [subscribers.subscribe(f"mailto:{n}@example.org", ttl=60 + 3600 * (n == 2)) for n in range(3)]
    row = cluster.row()
    assert row is not None
    assert delivered_to(cluster, cluster.store, row.uid, *ids) == sorted(ids)
    left = [ids[2]]
    if how == "delete":
        for id_ in ids[:2]:
            subscribers.service.delete(QUEUE_NAME, id_)
    elif how == "purge":
        subscribers.worker.queues.purge(QUEUE_NAME, b'{"resource_types": ["subscriptions"]}')
        left = []
    elif how == "end":
        for subscription in subscribers.listed():
            if subscription.id != ids[2]:
                subscribers.service.end(subscription)
    else:
        cluster.clock.advance(200)
        assert subscribers.service.tidy() == (2, True)
    assert delivered_to(cluster, cluster.store, row.uid, *ids) == left


@pytest.mark.parametrize("count", [501, 1000])
def test_a_purge_drops_deliveries_in_batches(cluster: Cluster, count: int) -> None:
    subscribers = Subscribers(cluster)
    ids = [subscribers.subscribe(f"mailto:{n}@example.org") for n in range(count)]
    row = cluster.row()
    assert row is not None
    subscribers.worker.queues.purge(QUEUE_NAME, b'{"resource_types": ["subscriptions"]}')
    assert cluster.fences.calls["delivery_log.drop"] == 2
    assert delivered_to(cluster, cluster.store, row.uid, *ids) == []


def test_deleting_an_unknown_id_stores_no_tombstone(cluster: Cluster) -> None:
    subscribers = Subscribers(cluster)
    kept = subscribers.subscribe()
    for n in range(20):
        subscribers.service.delete(QUEUE_NAME, f"{n:024x}")
    assert cluster.fences.calls["delivery_log.drop"] == 0
    assert [subscription.id for subscription in subscribers.listed()] == [kept]


@pytest.mark.parametrize("how", ["delete", "purge", "end", "expire"])
def test_a_subscription_can_be_removed_while_the_store_of_its_queue_does_not_answer(how: str) -> None:
    """If the store failed a moment ago, the removal does not wait for it again."""
    cluster = PooledCluster("far")
    subscribers = Subscribers(cluster)
    ids = [subscribers.subscribe(f"mailto:{n}@example.org", ttl=60) for n in range(2)]
    (subscription, _) = subscribers.listed()

    def fail() -> None:
        raise StoreUnavailable

    for method in ("queues.open", "delivery_log.drop"):
        cluster.wires["far"].before(method, *[fail] * 10)
    calls_before = cluster.wires["far"].calls.copy()
    if how == "delete":
        for id_ in ids:
            subscribers.service.delete(QUEUE_NAME, id_)
    elif how == "purge":
        subscribers.worker.queues.purge(QUEUE_NAME, b'{"resource_types": ["subscriptions"]}')
    elif how == "end":
        for subscription in subscribers.listed():
            subscribers.service.end(subscription)
    else:
        cluster.clock.advance(200)
        assert subscribers.service.tidy() == (2, True)
    assert all_stored(cluster) == 0
    asked = cluster.wires["far"].calls - calls_before
    assert asked.total() == 1


def test_a_queue_is_not_deleted_while_its_store_does_not_answer() -> None:
    """The request fails, changes nothing and can be repeated."""
    cluster = PooledCluster("far")
    subscribers = Subscribers(cluster)
    id_ = subscribers.subscribe()

    def fail() -> None:
        raise StoreUnavailable

    cluster.wires["far"].before("queues.drop", fail)
    with pytest.raises(StoreUnavailable):
        subscribers.worker.queues.delete(QUEUE_NAME)
    row = cluster.row()
    assert row is not None
    assert [subscription.id for subscription in subscribers.listed()] == [id_]
    assert delivered_to(cluster, cluster.stores["far"], row.uid, id_) == [id_]
    subscribers.worker.queues.delete(QUEUE_NAME)
    assert cluster.row() is None
    assert all_stored(cluster) == 0
    assert delivered_to(cluster, cluster.stores["far"], row.uid, id_) == []
