# SPDX-License-Identifier: Apache-2.0
"""The cost of the outbox and of deliveries on MongoDB, and transactions that a killed notifier leaves behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from tests import servers
from tests.conformance.mongodb.test_flat import Meter
from tests.conformance.mongodb.test_flat import meter as meter
from tests.conformance.mongodb.test_transactions import recorded_scene
from tests.conformance.outbox import LEASE, Lane, Outbox, deliveries_of, numbers
from tests.conformance.scene import Scene, new_queue
from tests.conformance.test_dropped_deliveries import drop_lanes
from tests.conformance.test_sweep import sweep_clean
from tests.conformance.test_undelivered_before import crowd_in_order, is_held
from zaqar.model import DEAD, DONE, WAITING, Delivery, Draft, PostPosition
from zaqar.storage.base import MOST_PASSED, TOMBSTONE_LIFETIME
from zaqar.storage.mongodb.delivery_documents import DELIVERIES, delivery_document
from zaqar.storage.mongodb.documents import MESSAGES
from zaqar.storage.mongodb.store import MongoMessageStore
from zaqar.storage.mongodb.tombstones import TOMBSTONES

FEW, MANY = 100, 5000
SLACK = 20


@pytest.mark.parametrize(("notify", "size"), [(False, 1), (True, 1), (False, 10), (True, 10)])
def test_a_post_with_subscribers_is_one_command_and_the_commit_too(
    members: servers.MongoSet, notify: bool, size: int
) -> None:
    with recorded_scene(members) as (scene, commands):
        scene.queue = new_queue(notify=notify)
        scene.open()
        scene.post("warm")
        commands.names.clear()
        scene.post(*["x"] * size)
        assert commands.names == ["update", "commitTransaction"]
        outbox = Outbox(scene.store, scene.clock)
        commands.names.clear()
        assert len(outbox.take_posted()) == 2 * notify
        assert commands.names == (["find", "find", "update", "find"] if notify else ["find"])
        commands.names.clear()
        assert outbox.take() == []
        assert commands.names == ["find"], "an idle notifier"
        outbox.clock.advance(LEASE)
        outbox.drain()


def test_an_expansion_is_one_transaction(members: servers.MongoSet) -> None:
    with recorded_scene(members) as (scene, commands):
        scene.queue = new_queue(notify=True)
        scene.open()
        outbox = Outbox(scene.store, scene.clock)
        scene.post(*"0123456789")
        (posted,) = outbox.take_posted()
        commands.names.clear()
        outbox.expand(posted, deliveries_of(posted, *(f"s{n}" for n in range(20))))
        assert commands.names == ["delete", "find", "insert", "commitTransaction"]
        outbox.drain()


def test_a_post_larger_than_a_document(store: MongoMessageStore, scene: Scene) -> None:
    scene.queue = new_queue(notify=True)
    scene.open()
    outbox = Outbox(store, scene.clock)
    drafts = [Draft(bytes([65 + n]) * 5_000_000, 60) for n in range(3)]
    assert store.messages.post(queue=scene.queue, drafts=drafts, client_id="c", now=scene.now) == range(1, 4)
    posts = outbox.take_posted()
    assert [(posted.first, len(posted.drafts)) for posted in posts] == [(1, 2), (3, 1)]
    assert [draft for posted in posts for draft in posted.drafts] == drafts
    lane = Lane(outbox, scene.queue.uid)
    for posted in posts:
        outbox.expand(posted, deliveries_of(posted, lane.subscription_id))
    assert numbers(lane.listing()) == [3, 2, 1]
    outbox.drain()


def test_a_post_is_taken_after_a_notifier_was_killed_while_it_expanded(store: MongoMessageStore, scene: Scene) -> None:
    """If its transaction were not ended, every notifier would wait for it for a minute."""
    scene.queue = new_queue(notify=True)
    scene.open()
    outbox = Outbox(store, scene.clock)
    scene.post("a")
    (posted,) = outbox.take_posted("killed")
    connection = store.core.replica_set.connection
    session = connection.client.start_session()
    session.start_transaction()
    connection.main.majority.delete_one({"queue": posted.queue_uid}, session=session)
    outbox.clock.advance(LEASE)
    begun = time.monotonic()
    assert outbox.take_posted("me") == [posted]
    assert time.monotonic() - begun < 4
    session.abort_transaction()
    outbox.expand(posted)


def test_a_number_that_was_not_given_out_is_held(store: MongoMessageStore) -> None:
    """A member that is behind may show a moment before the number was given out."""
    outbox = Outbox(store)
    scene = outbox.new_scene()
    lane = Lane(outbox, scene.queue.uid)
    scene.post("a", "b")
    (posted,) = [each for each in outbox.take_all_posted() if each.queue_uid == lane.queue_uid]
    assert outbox.expand(posted)
    assert [is_held(lane, number) for number in (1, 2, 3)] == [False, False, True]
    assert is_held(Lane(outbox), 1)


# -- however many there are -------------------------------------------------------------------------------------------


def fill(meter: Meter, lane: Lane, count: int, change: Callable[[Delivery], Delivery]) -> None:
    made = [change(lane.new(n)) for n in range(1, count + 1)]
    deliveries = meter.client["zaqar"][DELIVERIES]
    deliveries.insert_many([delivery_document(each) for each in made])


CHANGES: dict[str, Callable[[Delivery], Delivery]] = {
    "waiting": lambda each: each,
    "due later": lambda each: replace(each, due=each.due + 60),
    "leased": lambda each: replace(each, owner="other", due=each.due + LEASE),
    "done": lambda each: replace(each, state=DONE, keep_until=each.due + 600),
    "dead": lambda each: replace(each, state=DEAD, keep_until=each.due + 600),
}


def a_round(meter: Meter, lane: Lane, other: Lane) -> Iterator[tuple[str, Callable[[], object]]]:
    outbox = lane.outbox
    taken: list[Delivery] = []
    yield "take", lambda: taken.extend(outbox.take(limit=10, most_of_one=5))
    assert len([each for each in taken if each.subscription_id == other.subscription_id]) == 3
    yield "extend", lambda: outbox.extend(taken, outbox.now + 5)
    yield "settle", lambda: outbox.retry_at(outbox.now + 60, taken)
    yield "list", lambda: lane.listing(limit=5)
    yield "list the dead", lambda: lane.listing(DEAD, limit=5)
    yield "list those that wait", lambda: lane.listing(WAITING, before=50, limit=5)
    yield "send one again", lambda: lane.resend(7)
    yield "send some again", lambda: lane.resend_dead(5)
    yield "sweep", lambda: meter.store.sweep(now=outbox.now, limit=100)


@pytest.mark.parametrize("name", CHANGES)
def test_a_subscription_with_many_costs_as_much_as_one_with_few(meter: Meter, name: str) -> None:
    seen = []
    for size in (FEW, MANY):
        meter.client["zaqar"][DELIVERIES].delete_many({})
        lane = Lane(Outbox(meter.store))
        other = Lane(lane.outbox)
        fill(meter, lane, size, CHANGES[name])
        other.fill(3)
        seen.append({step: meter.examined(operation) for step, operation in a_round(meter, lane, other)})
    few, many = seen
    for step in few:
        for beside_few, beside_many in zip(few[step], many[step], strict=True):
            assert beside_many <= beside_few + SLACK, (step, few[step], many[step])


@pytest.mark.parametrize("later", [None, 60.0])
def test_a_question_about_the_order_costs_the_same_beside_many(meter: Meter, later: float | None) -> None:
    """Many deliveries are settled before the number, wait after it, and are in the outbox."""
    outbox = Outbox(meter.store)
    seen = []
    soon = None if later is None else outbox.now + later
    for size in (10, 400):
        scene, lane = crowd_in_order(outbox, size)
        seen.append([meter.examined(partial(is_held, lane, number, soon)) for number in (2 * size + 1, 2 * size + 2)])
        assert [is_held(lane, number, soon) for number in (2 * size + 1, 2 * size + 2)] == [False, True]
        outbox.discard(outbox.take_all())
        seen[-1].append(meter.examined(partial(is_held, lane, 4 * size, soon)))
        assert is_held(lane, 4 * size, soon)
        outbox.drain()
        scene.drop()
    # One document, the fence, and the one whose time is compared; of the others the index says enough.
    most = (5, 1) if soon is None else (7 + MOST_PASSED, 2)
    assert all(keys <= most[0] and documents <= most[1] for each in seen for keys, documents in each), seen


def test_which_are_due_is_read_from_the_index_alone(meter: Meter) -> None:
    outbox = Outbox(meter.store)
    meter.client["zaqar"][DELIVERIES].delete_many({})
    for _ in range(10):
        fill(meter, Lane(outbox), 50, CHANGES["leased"])
    _, documents = meter.examined(lambda: outbox.take(without=["a", "b"]))
    assert documents == 0
    scenes = [outbox.new_scene() for _ in range(3)]
    for scene in scenes:
        for n in range(10):
            scene.post(str(n))
    assert len(outbox.take_all_posted()) == 30
    _, documents = meter.examined(outbox.take_posted)
    assert documents == 0


def test_a_count_is_read_from_the_index_alone(meter: Meter) -> None:
    outbox = Outbox(meter.store)
    lane = Lane(outbox)
    fill(meter, lane, 1000, CHANGES["dead"])
    _, documents = meter.examined(lane.counts)
    assert lane.counts() == (0, 1000)
    assert documents <= 5


# -- dropped queues and subscriptions ----------------------------------------------------------------------------------


def left(meter: Meter) -> int:
    """Documents of posts, deliveries and tombstones."""
    database = meter.client["zaqar"]
    outbox = database[MESSAGES].count_documents({"queue": {"$exists": True}})
    return outbox + database[DELIVERIES].count_documents({}) + database[TOMBSTONES].count_documents({})


def drop(lane: Lane, scene: Scene, what: str) -> None:
    if what == "queue":
        scene.drop()
    else:
        drop_lanes(lane)


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_dropped_deliveries_cost_a_take_and_a_drop_nothing(meter: Meter, what: str) -> None:
    outbox = Outbox(meter.store)
    seen = []
    for size in (FEW, MANY):
        meter.client["zaqar"][DELIVERIES].delete_many({})
        scene, beside = outbox.new_scene(), outbox.new_scene()
        lane, other = Lane(outbox, scene.queue.uid), Lane(outbox, beside.queue.uid)
        for _ in range(size // 10):
            scene.post("x")
        outbox.take_all_posted()
        outbox.clock.advance(LEASE)
        fill(meter, lane, size, CHANGES["waiting"])
        other.fill(3)
        scene.purge()
        sweep_clean(meter.store, outbox.now)
        beside.post("a")
        steps: dict[str, Callable[[], object]] = {
            "drop": partial(drop, lane, scene, what),
            "take": partial(outbox.take, limit=10, most_of_one=1),
            "take again": partial(outbox.take, limit=10, most_of_one=1),
            "take posts": partial(outbox.take_posted, limit=10),
            "sweep": partial(meter.store.sweep, now=outbox.now, limit=10),
        }
        seen.append({step: meter.examined(operation) for step, operation in steps.items()})
        sweep_clean(meter.store, outbox.now)
        assert lane.counts() == (0, 0)
        outbox.drain()
    few, many = seen
    for step in few:
        for beside_few, beside_many in zip(few[step], many[step], strict=True):
            assert beside_many <= beside_few + SLACK, (step, few[step], many[step])


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_a_sweep_leaves_nothing_of_a_drop_but_the_tombstone(meter: Meter, what: str) -> None:
    outbox = Outbox(meter.store)
    outbox.drain()
    sweep_clean(meter.store, outbox.now + 10 * TOMBSTONE_LIFETIME)
    before = left(meter)
    scene = outbox.new_scene()
    lane = Lane(outbox, scene.queue.uid)
    for change in CHANGES.values():
        meter.client["zaqar"][DELIVERIES].delete_many({"queue": lane.queue_uid})
        fill(meter, lane, 300, change)
    scene.post("a")
    drop(lane, scene, what)
    for posted in outbox.take_posted():
        outbox.expand(posted)
    removed = sweep_clean(meter.store, outbox.now, limit=100)
    assert max(removed) <= 100
    assert left(meter) == before + 1, "the tombstone"
    outbox.clock.advance(TOMBSTONE_LIFETIME)
    sweep_clean(meter.store, outbox.now)
    assert left(meter) == before


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_deliveries_stored_at_the_moment_of_a_drop_are_not_taken_and_are_swept(meter: Meter, what: str) -> None:
    """A transaction that began before the drop may commit after it, and after the first look of a sweep."""
    outbox = Outbox(meter.store)
    outbox.drain()
    # Other tests leave something in the same database.
    sweep_clean(meter.store, outbox.now + 10 * TOMBSTONE_LIFETIME)
    before = left(meter)
    scene = outbox.new_scene()
    lane = Lane(outbox, scene.queue.uid)
    drop(lane, scene, what)
    sweep_clean(meter.store, outbox.now)
    fill(meter, lane, 3, CHANGES["waiting"])
    fill(meter, lane.beside() if what == "queue" else Lane(outbox, "x", "y"), 1, CHANGES["done"])
    assert outbox.take() == []
    outbox.clock.advance(TOMBSTONE_LIFETIME)
    assert outbox.take() == []
    sweep_clean(meter.store, outbox.now)
    assert left(meter) == before


def test_deliveries_of_a_queue_that_was_dropped_without_a_tombstone_are_swept(meter: Meter) -> None:
    """An earlier version left no such document. Notifiers find the subscriptions gone, and drop each."""
    outbox = Outbox(meter.store)
    outbox.drain()
    scene = outbox.new_scene()
    lanes = [Lane(outbox, scene.queue.uid) for _ in range(3)]
    for lane in lanes:
        fill(meter, lane, 50, CHANGES["waiting"])
    scene.drop()
    meter.client["zaqar"][TOMBSTONES].delete_many({})
    while taken := outbox.take(limit=1):
        drop_lanes(Lane(outbox, taken[0].queue_uid, taken[0].subscription_id))
    sweep_clean(meter.store, outbox.now)
    assert [lane.listing() for lane in lanes] == [[]] * 3


@pytest.mark.parametrize("killed", ["drop", "sweep", "expansion"])
def test_a_transaction_of_a_killed_process_does_not_hold_up_a_drop(meter: Meter, killed: str) -> None:
    """The drop ends the transaction, and a sweep finishes the rest."""
    outbox = Outbox(meter.store)
    outbox.drain()
    scene = outbox.new_scene()
    lane = Lane(outbox, scene.queue.uid)
    scene.post("a", "b")
    (posted,) = outbox.take_posted()
    outbox.expand(posted, deliveries_of(posted, lane.subscription_id), to=PostPosition("", "x", 1))
    connection = meter.store.core.replica_set.connection
    session = connection.client.start_session()
    session.start_transaction()
    if killed == "drop":
        connection[TOMBSTONES].majority.insert_one({"_id": scene.queue.uid, "look": 0}, session=session)
    elif killed == "expansion":
        connection.main.majority.update_one({"queue": scene.queue.uid}, {"$set": {"due": 1.0}}, session=session)
    else:
        connection[DELIVERIES].majority.delete_one({"queue": scene.queue.uid}, session=session)
    begun = time.monotonic()
    scene.drop()
    sweep_clean(meter.store, outbox.now)
    assert time.monotonic() - begun < 12
    session.abort_transaction()
    outbox.clock.advance(LEASE)
    assert outbox.take() == outbox.take_posted() == lane.listing() == []
