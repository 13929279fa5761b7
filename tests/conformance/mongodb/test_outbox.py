# SPDX-License-Identifier: Apache-2.0
"""The cost of the outbox and of deliveries on MongoDB, and transactions that a killed notifier leaves behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import pytest

from tests import servers
from tests.conformance.mongodb.test_cost_at_any_size import Meter
from tests.conformance.mongodb.test_cost_at_any_size import meter as meter
from tests.conformance.mongodb.test_transactions import recorded_queue
from tests.conformance.notifier_client import LEASE, NotifierClient, SubscriptionBacklog, deliveries_of, numbers
from tests.conformance.queue_client import QueueClient, at_once, new_queue
from tests.conformance.test_delivery_order import fill_in_order, is_held
from tests.conformance.test_dropped_subscriptions import drop_backlogs
from tests.conformance.test_sweep import sweep_clean
from zaqar.model import DEAD, DONE, WAITING, Delivery, Draft, PostPosition
from zaqar.storage.base import MOST_PASSED, TOMBSTONE_LIFETIME
from zaqar.storage.mongodb.client.group_commit import GroupCommit, Request
from zaqar.storage.mongodb.delivery_documents import DELIVERIES, delivery_document
from zaqar.storage.mongodb.documents import MESSAGES
from zaqar.storage.mongodb.messages import MAX_GROUP_BYTES
from zaqar.storage.mongodb.store import MongoMessageStore
from zaqar.storage.mongodb.tombstones import TOMBSTONES

FEW, MANY = 100, 5000
SLACK = 20


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize(("notify", "size"), [(False, 1), (True, 1), (False, 10), (True, 10)])
def test_a_post_with_subscribers_is_one_command_and_one_commit(
    members: servers.MongoSet, notify: bool, size: int
) -> None:
    with recorded_queue(members) as (orders, commands):
        orders.queue = new_queue(notify=notify)
        orders.open()
        orders.post("warm")
        commands.names.clear()
        orders.post(*["x"] * size)
        assert commands.names == ["update", "commitTransaction"]
        notifier = NotifierClient(orders.store, orders.clock)
        commands.names.clear()
        assert len(notifier.take_posted()) == 2 * notify
        assert commands.names == (["find", "find", "update", "find"] if notify else ["find"])
        commands.names.clear()
        assert notifier.take() == []
        assert commands.names == ["find"], "an idle notifier"
        notifier.clock.advance(LEASE)
        notifier.drain()


def test_posts_that_share_a_transaction_keep_their_own_request_ids(members: servers.MongoSet) -> None:
    with recorded_queue(members) as (orders, commands):
        store = orders.store
        assert isinstance(store, MongoMessageStore)
        orders.queue = new_queue(notify=True)
        orders.open()
        orders.pop()  # The process knows the fence now.
        group: GroupCommit[Request] = store.core.group_commit(
            ("post", orders.queue.uid, orders.queue.generation), MAX_GROUP_BYTES
        )
        request_ids = [f"req-{n}" for n in range(8)]

        def lead(_: Sequence[Request]) -> None:
            """Keep the group busy until all posts wait, so that they go together into the next transaction."""
            wait_until(lambda: len(group._waiting) == len(request_ids))
            commands.names.clear()

        def post(request_id: str) -> None:
            wait_until(lambda: group._is_busy)
            drafts = [Draft(request_id.encode(), 60)]
            store.messages.post(queue=orders.queue, drafts=drafts, client_id="c", now=orders.now, request_id=request_id)

        leader = Request(size=MAX_GROUP_BYTES)
        at_once(lambda: group.submit(leader, lead), *(partial(post, each) for each in request_ids))
        assert commands.names == ["update", "commitTransaction"]
        notifier = NotifierClient(store, orders.clock)
        posts = notifier.take_posted()
        assert sorted(posted.request_id for posted in posts) == request_ids
        assert all(posted.drafts[0].body == posted.request_id.encode() for posted in posts)
        notifier.clock.advance(LEASE)
        notifier.drain()


def test_an_expansion_is_one_transaction(members: servers.MongoSet) -> None:
    with recorded_queue(members) as (orders, commands):
        orders.queue = new_queue(notify=True)
        orders.open()
        notifier = NotifierClient(orders.store, orders.clock)
        orders.post(*"0123456789")
        (posted,) = notifier.take_posted()
        commands.names.clear()
        notifier.expand(posted, deliveries_of(posted, *(f"s{n}" for n in range(20))))
        assert commands.names == ["delete", "find", "insert", "commitTransaction"]
        notifier.drain()


def test_a_post_larger_than_a_document_is_stored_and_expanded(store: MongoMessageStore, orders: QueueClient) -> None:
    orders.queue = new_queue(notify=True)
    orders.open()
    notifier = NotifierClient(store, orders.clock)
    drafts = [Draft(bytes([65 + n]) * 5_000_000, 60) for n in range(3)]
    assert store.messages.post(queue=orders.queue, drafts=drafts, client_id="c", now=orders.now) == range(1, 4)
    posts = notifier.take_posted()
    assert [(posted.first, len(posted.drafts)) for posted in posts] == [(1, 2), (3, 1)]
    assert [draft for posted in posts for draft in posted.drafts] == drafts
    backlog = SubscriptionBacklog(notifier, orders.queue.uid)
    for posted in posts:
        notifier.expand(posted, deliveries_of(posted, backlog.subscription_id))
    assert numbers(backlog.listing()) == [3, 2, 1]
    notifier.drain()


def test_a_post_is_taken_after_a_notifier_was_killed_while_it_expanded(
    store: MongoMessageStore, orders: QueueClient
) -> None:
    """If its transaction were not ended, every notifier would wait for it for a minute."""
    orders.queue = new_queue(notify=True)
    orders.open()
    notifier = NotifierClient(store, orders.clock)
    orders.post("a")
    (posted,) = notifier.take_posted("killed")
    connection = store.core.replica_set.connection
    session = connection.client.start_session()
    session.start_transaction()
    connection.main.majority.delete_one({"queue": posted.queue_uid}, session=session)
    notifier.clock.advance(LEASE)
    begun = time.monotonic()
    assert notifier.take_posted("me") == [posted]
    assert time.monotonic() - begun < 4
    session.abort_transaction()
    notifier.expand(posted)


def test_a_number_that_was_not_given_out_yet_is_held_back(store: MongoMessageStore) -> None:
    """A secondary that lags may show a moment before the number was given out."""
    notifier = NotifierClient(store)
    orders = notifier.open_queue()
    backlog = SubscriptionBacklog(notifier, orders.queue.uid)
    orders.post("a", "b")
    (posted,) = [each for each in notifier.take_all_posted() if each.queue_uid == backlog.queue_uid]
    assert notifier.expand(posted)
    assert [is_held(backlog, number) for number in (1, 2, 3)] == [False, False, True]
    assert is_held(SubscriptionBacklog(notifier), 1)


# -- cost at any size -------------------------------------------------------------------------------------------------


def fill(meter: Meter, backlog: SubscriptionBacklog, count: int, change: Callable[[Delivery], Delivery]) -> None:
    made = [change(backlog.new(n)) for n in range(1, count + 1)]
    deliveries = meter.client["zaqar"][DELIVERIES]
    deliveries.insert_many([delivery_document(each) for each in made])


CHANGES: dict[str, Callable[[Delivery], Delivery]] = {
    "waiting": lambda each: each,
    "due later": lambda each: replace(each, due=each.due + 60),
    "leased": lambda each: replace(each, owner="other", due=each.due + LEASE),
    "done": lambda each: replace(each, state=DONE, keep_until=each.due + 600),
    "dead": lambda each: replace(each, state=DEAD, keep_until=each.due + 600),
}


def one_of_each_operation(
    meter: Meter, backlog: SubscriptionBacklog, other: SubscriptionBacklog
) -> Iterator[tuple[str, Callable[[], object]]]:
    notifier = backlog.notifier
    taken: list[Delivery] = []
    yield "take", lambda: taken.extend(notifier.take(limit=10, most_of_one=5))
    assert len([each for each in taken if each.subscription_id == other.subscription_id]) == 3
    yield "extend", lambda: notifier.extend(taken, notifier.now + 5)
    yield "settle", lambda: notifier.retry_at(notifier.now + 60, taken)
    yield "list", lambda: backlog.listing(limit=5)
    yield "list the dead", lambda: backlog.listing(DEAD, limit=5)
    yield "list those that wait", lambda: backlog.listing(WAITING, before=50, limit=5)
    yield "send one again", lambda: backlog.resend(7)
    yield "send some again", lambda: backlog.resend_dead(5)
    yield "sweep", lambda: meter.store.sweep(now=notifier.now, limit=100).removed


@pytest.mark.parametrize("name", CHANGES)
def test_a_subscription_with_many_deliveries_costs_as_much_as_a_subscription_with_few(meter: Meter, name: str) -> None:
    seen = []
    for size in (FEW, MANY):
        meter.client["zaqar"][DELIVERIES].delete_many({})
        backlog = SubscriptionBacklog(NotifierClient(meter.store))
        other = SubscriptionBacklog(backlog.notifier)
        fill(meter, backlog, size, CHANGES[name])
        other.fill(3)
        seen.append(
            {step: meter.examined(operation) for step, operation in one_of_each_operation(meter, backlog, other)}
        )
    few, many = seen
    for step in few:
        for beside_few, beside_many in zip(few[step], many[step], strict=True):
            assert beside_many <= beside_few + SLACK, (step, few[step], many[step])


@pytest.mark.parametrize("later", [None, 60.0])
def test_has_undelivered_before_costs_the_same_beside_many_deliveries(meter: Meter, later: float | None) -> None:
    """Many deliveries are settled before the number, wait after it, and are in the outbox."""
    notifier = NotifierClient(meter.store)
    seen = []
    soon = None if later is None else notifier.now + later
    for size in (10, 400):
        orders, backlog = fill_in_order(notifier, size)
        seen.append(
            [meter.examined(partial(is_held, backlog, number, soon)) for number in (2 * size + 1, 2 * size + 2)]
        )
        assert [is_held(backlog, number, soon) for number in (2 * size + 1, 2 * size + 2)] == [False, True]
        notifier.discard(notifier.take_all())
        seen[-1].append(meter.examined(partial(is_held, backlog, 4 * size, soon)))
        assert is_held(backlog, 4 * size, soon)
        notifier.drain()
        orders.drop()
    # The fence, and the document whose time is compared. For the others the index is enough.
    most = (5, 1) if soon is None else (7 + MOST_PASSED, 2)
    assert all(keys <= most[0] and documents <= most[1] for each in seen for keys, documents in each), seen


def test_due_deliveries_are_found_by_the_index_alone(meter: Meter) -> None:
    notifier = NotifierClient(meter.store)
    meter.client["zaqar"][DELIVERIES].delete_many({})
    for _ in range(10):
        fill(meter, SubscriptionBacklog(notifier), 50, CHANGES["leased"])
    _, documents = meter.examined(lambda: notifier.take(without=["a", "b"]))
    assert documents == 0
    queue_clients = [notifier.open_queue() for _ in range(3)]
    for orders in queue_clients:
        for n in range(10):
            orders.post(str(n))
    assert len(notifier.take_all_posted()) == 30
    _, documents = meter.examined(notifier.take_posted)
    assert documents == 0


def test_deliveries_are_counted_by_the_index_alone(meter: Meter) -> None:
    notifier = NotifierClient(meter.store)
    backlog = SubscriptionBacklog(notifier)
    fill(meter, backlog, 1000, CHANGES["dead"])
    _, documents = meter.examined(backlog.counts)
    assert backlog.counts() == (0, 1000)
    assert documents <= 5


# -- dropped queues and subscriptions ----------------------------------------------------------------------------------


def left(meter: Meter) -> int:
    """The documents of posts, deliveries and tombstones."""
    database = meter.client["zaqar"]
    notifier = database[MESSAGES].count_documents({"queue": {"$exists": True}})
    return notifier + database[DELIVERIES].count_documents({}) + database[TOMBSTONES].count_documents({})


def drop(backlog: SubscriptionBacklog, orders: QueueClient, what: str) -> None:
    if what == "queue":
        orders.drop()
    else:
        drop_backlogs(backlog)


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_dropped_deliveries_do_not_slow_down_a_take_or_a_drop(meter: Meter, what: str) -> None:
    notifier = NotifierClient(meter.store)
    seen = []
    for size in (FEW, MANY):
        meter.client["zaqar"][DELIVERIES].delete_many({})
        orders, beside = notifier.open_queue(), notifier.open_queue()
        backlog, other = (
            SubscriptionBacklog(notifier, orders.queue.uid),
            SubscriptionBacklog(notifier, beside.queue.uid),
        )
        for _ in range(size // 10):
            orders.post("x")
        notifier.take_all_posted()
        notifier.clock.advance(LEASE)
        fill(meter, backlog, size, CHANGES["waiting"])
        other.fill(3)
        orders.purge()
        sweep_clean(meter.store, notifier.now)
        beside.post("a")
        steps: dict[str, Callable[[], object]] = {
            "drop": partial(drop, backlog, orders, what),
            "take": partial(notifier.take, limit=10, most_of_one=1),
            "take again": partial(notifier.take, limit=10, most_of_one=1),
            "take posts": partial(notifier.take_posted, limit=10),
            "sweep": partial(meter.store.sweep, now=notifier.now, limit=10),
        }
        seen.append({step: meter.examined(operation) for step, operation in steps.items()})
        sweep_clean(meter.store, notifier.now)
        assert backlog.counts() == (0, 0)
        notifier.drain()
    few, many = seen
    for step in few:
        for beside_few, beside_many in zip(few[step], many[step], strict=True):
            assert beside_many <= beside_few + SLACK, (step, few[step], many[step])


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_a_sweep_removes_everything_of_a_dropped_subscription_except_the_tombstone(meter: Meter, what: str) -> None:
    notifier = NotifierClient(meter.store)
    notifier.drain()
    sweep_clean(meter.store, notifier.now + 10 * TOMBSTONE_LIFETIME)
    before = left(meter)
    orders = notifier.open_queue()
    backlog = SubscriptionBacklog(notifier, orders.queue.uid)
    for change in CHANGES.values():
        meter.client["zaqar"][DELIVERIES].delete_many({"queue": backlog.queue_uid})
        fill(meter, backlog, 300, change)
    orders.post("a")
    drop(backlog, orders, what)
    for posted in notifier.take_posted():
        notifier.expand(posted)
    removed = sweep_clean(meter.store, notifier.now, limit=100)
    assert max(removed) <= 100
    assert left(meter) == before + 1, "the tombstone"
    notifier.clock.advance(TOMBSTONE_LIFETIME)
    sweep_clean(meter.store, notifier.now)
    assert left(meter) == before


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_deliveries_stored_at_the_moment_of_a_drop_are_not_taken_and_are_swept(meter: Meter, what: str) -> None:
    """A transaction that began before the drop may commit after it, and after the first look of a sweep."""
    notifier = NotifierClient(meter.store)
    notifier.drain()
    # Other tests leave documents in the same database.
    sweep_clean(meter.store, notifier.now + 10 * TOMBSTONE_LIFETIME)
    before = left(meter)
    orders = notifier.open_queue()
    backlog = SubscriptionBacklog(notifier, orders.queue.uid)
    drop(backlog, orders, what)
    sweep_clean(meter.store, notifier.now)
    fill(meter, backlog, 3, CHANGES["waiting"])
    fill(meter, backlog.beside() if what == "queue" else SubscriptionBacklog(notifier, "x", "y"), 1, CHANGES["done"])
    assert notifier.take() == []
    notifier.clock.advance(TOMBSTONE_LIFETIME)
    assert notifier.take() == []
    sweep_clean(meter.store, notifier.now)
    assert left(meter) == before


def test_deliveries_of_a_queue_that_was_dropped_without_a_tombstone_are_swept(meter: Meter) -> None:
    """An earlier version left no such document. Notifiers find the subscriptions gone, and drop each."""
    notifier = NotifierClient(meter.store)
    notifier.drain()
    orders = notifier.open_queue()
    backlogs = [SubscriptionBacklog(notifier, orders.queue.uid) for _ in range(3)]
    for backlog in backlogs:
        fill(meter, backlog, 50, CHANGES["waiting"])
    orders.drop()
    meter.client["zaqar"][TOMBSTONES].delete_many({})
    while taken := notifier.take(limit=1):
        drop_backlogs(SubscriptionBacklog(notifier, taken[0].queue_uid, taken[0].subscription_id))
    sweep_clean(meter.store, notifier.now)
    assert [backlog.listing() for backlog in backlogs] == [[]] * 3


@pytest.mark.parametrize("killed", ["drop", "sweep", "expansion"])
def test_a_transaction_of_a_killed_process_does_not_delay_a_drop(meter: Meter, killed: str) -> None:
    """The drop ends the transaction, and a sweep removes the rest."""
    notifier = NotifierClient(meter.store)
    notifier.drain()
    orders = notifier.open_queue()
    backlog = SubscriptionBacklog(notifier, orders.queue.uid)
    orders.post("a", "b")
    (posted,) = notifier.take_posted()
    notifier.expand(posted, deliveries_of(posted, backlog.subscription_id), to=PostPosition("", "x", 1))
    connection = meter.store.core.replica_set.connection
    session = connection.client.start_session()
    session.start_transaction()
    if killed == "drop":
        connection[TOMBSTONES].majority.insert_one({"_id": orders.queue.uid, "look": 0}, session=session)
    elif killed == "expansion":
        connection.main.majority.update_one({"queue": orders.queue.uid}, {"$set": {"due": 1.0}}, session=session)
    else:
        connection[DELIVERIES].majority.delete_one({"queue": orders.queue.uid}, session=session)
    begun = time.monotonic()
    orders.drop()
    sweep_clean(meter.store, notifier.now)
    assert time.monotonic() - begun < 12
    session.abort_transaction()
    notifier.clock.advance(LEASE)
    assert notifier.take() == notifier.take_posted() == backlog.listing() == []
