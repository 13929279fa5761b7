# SPDX-License-Identifier: Apache-2.0
"""The cost of numbers for monitoring and limits: volume, usage, counts of subscriptions and queues, connections."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pymongo import monitoring

from tests import servers
from tests.conformance.mongodb.conftest import DATABASE
from tests.conformance.mongodb.test_cost_at_any_size import SLACK, Meter, fill
from tests.conformance.mongodb.test_cost_at_any_size import meter as meter
from tests.conformance.mongodb.test_transactions import recorded_queue
from tests.conformance.notifier_client import NotifierClient, SubscriptionBacklog
from tests.conformance.queue_client import QueueClient, new_claim_id, new_queue
from tests.conformance.subscription_client import SubscriptionClient
from zaqar.model import DEAD, DONE, WAITING, Claim, DeadLetters, Volume
from zaqar.storage.mongodb import volume
from zaqar.storage.mongodb.delivery_documents import DELIVERIES, delivery_document
from zaqar.storage.mongodb.management import MongoManagementStore
from zaqar.storage.mongodb.store import MongoMessageStore

MANY = 2000
BOUND = 100


@pytest.fixture
def management(meter: Meter) -> Iterator[MongoManagementStore]:
    assert meter.client.address is not None
    host, port = meter.client.address
    store = MongoManagementStore.from_settings({"uri": f"mongodb://{host}:{port}/?replicaSet=zaqar"})
    store.ping()
    yield store
    store.close()


def more(now: Volume, before: Volume) -> tuple[int, int, int]:
    return now.free - before.free, now.claimed - before.claimed, now.delayed - before.delayed


# -- volume: messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["ready", "claimed", "delayed", "expired", "due", "claim is over"])
def test_the_volume_examines_as_much_beside_many_messages(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(volume, "MAX_CORRECTED", BOUND)
    orders = QueueClient(meter.store)
    alone = meter.examined(orders.volume)
    before = orders.volume()
    fill(orders, {"due": "delayed", "claim is over": "claimed"}.get(state, state), MANY)
    orders.clock.advance({"due": 900, "claim is over": 3600}.get(state, 0))
    beside_many = meter.examined(orders.volume)
    for few, many in zip(alone, beside_many, strict=True):
        assert many <= few + 2 * BOUND + SLACK, (alone, beside_many)
    expected = {
        "ready": (MANY, 0, 0),
        "claimed": (0, MANY, 0),
        "delayed": (0, 0, MANY),
        # The driver says of these how much they may be off by.
        "expired": (MANY - BOUND, 0, 0),
        "due": (BOUND, 0, MANY - BOUND),
        "claim is over": (BOUND, MANY - BOUND, 0),
    }
    assert more(orders.volume(), before) == expected[state]
    orders.drop()


def test_the_volume_reads_queues_in_pages(members: servers.MongoSet, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded_queue(members) as (orders, commands):
        queue_clients = [orders.beside(f"q{n}") for n in range(12)]
        for n, each in enumerate(queue_clients):
            each.post(*["x"] * (n % 4))
        for each in queue_clients[:3]:
            each.drop()
        whole = orders.volume()
        assert commands.of(orders.volume) == ["aggregate", "find", "aggregate", "aggregate"]
        monkeypatch.setattr(volume, "PAGE", 2)
        assert orders.volume() == whole
        assert commands.of(orders.volume).count("aggregate") > 6
        for each in queue_clients[3:]:
            each.drop()


def test_the_oldest_message_is_alive_or_in_a_queue_that_has_others(store: MongoMessageStore) -> None:
    orders = QueueClient(store)
    orders.clock.advance(-(10.0**8))
    began = orders.now
    orders.post("a", ttl=60)
    assert orders.volume().oldest == began
    orders.clock.advance(60)
    assert orders.volume().oldest != began
    orders.post("b", delay=30)
    assert orders.volume().oldest != began
    orders.clock.advance(30)
    assert orders.volume().oldest in (began, began + 60)
    while store.sweep(now=orders.now, limit=1000).removed:
        pass
    assert orders.volume().oldest == began + 60
    orders.claim(1, ttl=60)
    assert orders.volume().oldest == began + 60
    orders.drop()


# -- volume: deliveries -----------------------------------------------------------------------------------------------


def test_the_volume_counts_deliveries_in_an_index_up_to_a_bound(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume, "MAX_COUNTED", BOUND)
    notifier = NotifierClient(meter.store)
    backlog = SubscriptionBacklog(notifier, notifier.open_queue().queue.uid)
    backlogs = [backlog, backlog.beside(), backlog.beside()]
    stored = meter.client["zaqar"][DELIVERIES]
    stored.delete_many({})

    def store(state: str, count: int) -> None:
        first = stored.estimated_document_count()
        some = [
            replace(backlogs[n % 3].new(first + n), state=state, created=(1000.0 if state == WAITING else 0.0) + n)
            for n in range(count)
        ]
        stored.insert_many(map(delivery_document, some))

    def counted() -> tuple[int, int, float | None]:
        found = meter.store.volume(now=notifier.now)
        return found.waiting, found.dead, found.oldest_waiting

    assert counted() == (0, 0, None)
    store(WAITING, BOUND - 1)
    assert counted() == (BOUND - 1, 0, 1000.0)
    store(WAITING, MANY)
    store(DEAD, BOUND - 1)
    store(DONE, 10)
    assert counted() == (BOUND - 1 + MANY, BOUND - 1, 1000.0)
    keys, documents = meter.examined(lambda: meter.store.volume(now=notifier.now))
    # The waiting ones up to the bound, and the dead and the done ones, without a look at the other waiting ones.
    assert keys <= 2 * BOUND + SLACK
    store(DEAD, MANY)
    assert counted()[1] == BOUND
    beside_many = meter.examined(lambda: meter.store.volume(now=notifier.now))
    assert beside_many[0] <= keys + SLACK
    assert documents <= SLACK
    assert beside_many[1] <= SLACK
    stored.delete_many({})
    notifier.close()


# -- usage ------------------------------------------------------------------------------------------------------------


def test_the_usage_examines_no_more_messages_than_it_counts(meter: Meter) -> None:
    orders = QueueClient(meter.store)
    fill(orders, "expired", MANY)
    fill(orders, "claimed", MANY)
    fill(orders, "ready", MANY)
    usage = meter.store.queues.usage
    keys, documents = meter.examined(lambda: usage(queue=orders.queue, now=orders.now, most=BOUND))
    assert keys <= BOUND + SLACK
    assert documents <= BOUND + SLACK
    assert usage(queue=orders.queue, now=orders.now, most=BOUND).messages == BOUND
    assert usage(queue=orders.queue, now=orders.now, most=0) == (0, 0)
    orders.drop()


def test_the_usage_is_one_command(members: servers.MongoSet) -> None:
    with recorded_queue(members) as (orders, commands):
        orders.post("x")
        usage = orders.store.queues.usage
        assert commands.of(lambda: usage(queue=orders.queue, now=orders.now, most=10)) == ["aggregate"]


# -- counts for limits ------------------------------------------------------------------------------------------------


def test_counts_of_a_project_examine_no_more_keys_than_they_count(
    meter: Meter, management: MongoManagementStore
) -> None:
    """Subscriptions that have expired are not passed over, however many there are."""
    project = secrets.token_hex(8)
    one = SubscriptionClient(management)
    for n in range(60):
        one.create(f"http://example.com/{n}", ttl=60 if n < 30 else 3600, project=project)
        management.queue_records.create(queue=new_queue(f"q{n}", project=project))
    now = one.clock.advance(60)
    subscriptions, records = management.subscriptions, management.queue_records
    counts = {
        "of a queue": lambda most: subscriptions.count(queue_uid=one.uid, now=now, most=most),
        "of a project": lambda most: subscriptions.count_of_project(project=project, now=now, most=most),
        "queues": lambda most: records.count(project=project, kind="queue", most=most),
    }
    for name, count in counts.items():
        assert [count(most) for most in (0, 10)] == [0, 10], name
        keys, documents = meter.examined(lambda count=count: count(10))  # type: ignore[misc]
        # The server looks at some documents of its own.
        assert keys <= 10 + 10, name
        assert documents <= 5, name
    assert [counts[name](100) for name in counts] == [30, 30, 60]


# -- claims -----------------------------------------------------------------------------------------------------------


def test_a_claim_counts_what_it_moved_in_several_transactions(
    orders: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zaqar.storage.mongodb import dead_letters, first_free

    for module in (dead_letters, first_free):
        monkeypatch.setattr(module, "BATCH", 3)
    dead = orders.beside("dead-letters")
    orders.post(*"abcdefgh")
    orders.claim_and_release(8, times=1)
    orders.post("alive")
    lease = Claim(new_claim_id(), 60, 60, orders.now)
    rules = DeadLetters(dead.queue, 1)
    result = orders.store.claims.claim(queue=orders.queue, claim=lease, limit=5, now=orders.now, dead_letters=rules)
    assert (len(result.messages), result.dead_lettered) == (1, 8)
    assert dead.stats().free == 8


# -- connections ------------------------------------------------------------------------------------------------------


def test_the_store_tells_how_many_connections_it_uses(members: servers.MongoSet) -> None:
    seen: list[dict[str, int]] = []

    class Look(monitoring.CommandListener):
        def started(self, event: monitoring.CommandStartedEvent) -> None:
            seen.append(dict(store.connections()))

        def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
            return

        def failed(self, event: monitoring.CommandFailedEvent) -> None:
            return

    store = MongoMessageStore.from_settings({"uri": members.uri, "database": DATABASE, "connections": 7})
    store.ping()
    assert store.connections() == {"used": 0, "idle": 1, "max": 7}
    store.close()
    assert store.connections() == {}
    look = Look()
    monitoring.register(look)
    try:
        store = MongoMessageStore.from_settings({"uri": f"{members.uri}&maxPoolSize=0", "database": DATABASE})
    finally:
        monitoring._LISTENERS.command_listeners.remove(look)
    seen.clear()
    store.ping()
    # Without a limit there is no number of it.
    assert seen == [{"used": 1, "idle": 0}]
    store.close()


def test_the_numbers_of_a_client_without_a_server_are_known() -> None:
    store = MongoMessageStore.from_settings({"uri": "mongodb://127.0.0.1:1/?replicaSet=none"})
    assert store.connections() == {"used": 0, "idle": 0, "max": 50}
    store.close()
