# SPDX-License-Identifier: Apache-2.0
"""What each operation costs, and transactions that somebody else is in the way of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from bson import ObjectId
from pymongo import monitoring

from tests import servers
from tests.conformance.mongodb.conftest import DATABASE
from tests.conformance.scene import Scene, at_once, bodies
from zaqar.errors import StoreUnavailable
from zaqar.model import Draft, Queue
from zaqar.storage.mongodb import transactions
from zaqar.storage.mongodb.documents import fence_id
from zaqar.storage.mongodb.fences import FAR
from zaqar.storage.mongodb.messages import MongoMessageStore
from zaqar.storage.mongodb.statements import statement
from zaqar.storage.mongodb.transactions import Turns, _batches


class Commands(monitoring.CommandListener):
    """The names of the commands that were sent, and the last command of each name."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.last: dict[str, Mapping[str, Any]] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.names.append(event.command_name)
        self.last[event.command_name] = event.command

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        return

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        return

    def of(self, operation: Callable[[], object]) -> list[str]:
        self.names.clear()
        operation()
        return list(self.names)


@contextmanager
def overheard() -> Iterator[Commands]:
    """The commands of stores that are opened inside."""
    commands = Commands()
    monitoring.register(commands)
    try:
        yield commands
    finally:
        monitoring._LISTENERS.command_listeners.remove(commands)


@contextmanager
def listening(members: servers.MongoSet) -> Iterator[tuple[Scene, Commands]]:
    """A scene on a store whose commands are heard."""
    with overheard() as commands:
        store = MongoMessageStore.from_settings({"uri": members.uri, "database": DATABASE})
    yield Scene(store), commands
    store.close()


LIMITS: dict[str, tuple[int, Callable[[Scene], object]]] = {
    "post": (2, lambda scene: scene.post("x")),
    "post ten": (2, lambda scene: scene.post(*"0123456789")),
    "list": (1, lambda scene: scene.listing(limit=10)),
    "get": (1, lambda scene: scene.get(5, 6)),
    "stats": (1, lambda scene: scene.stats()),
    "delete a free one": (2, lambda scene: scene.delete(9)),
    # A read of what is free, a change of several documents, a commit: before MongoDB 8.0 no command is all of them.
    "claim": (3, lambda scene: scene.claim(2)),
    "pop": (3, lambda scene: scene.pop(1)),
}


def test_round_trips_of_a_claim_in_vain(members: servers.MongoSet) -> None:
    with listening(members) as (scene, commands):
        scene.listing()
        commands.names.clear()
        assert scene.claim()[1] == []
        assert commands.names == ["aggregate"]


@pytest.mark.parametrize("name", LIMITS)
def test_round_trips_of_a_warm_operation(members: servers.MongoSet, name: str) -> None:
    most, operation = LIMITS[name]
    with listening(members) as (scene, commands):
        scene.post(*"0123456789abcdef")
        scene.post("warm")
        scene.listing(limit=1)
        commands.names.clear()
        operation(scene)
        assert len(commands.names) <= most, commands.names


@pytest.mark.parametrize("many", [1, 5])
def test_round_trips_of_a_delete_under_a_claim(members: servers.MongoSet, many: int) -> None:
    with listening(members) as (scene, commands):
        scene.post(*"0123456789abcdef")
        claim_id, taken = scene.claim(many)
        commands.names.clear()
        if many == 1:
            scene.delete(taken[0].sequence, claim_id)
        else:
            scene.delete_many(*(message.sequence for message in taken), claim_ids=[claim_id])
        assert commands.names == ["update", "commitTransaction"]


def test_a_guess_that_others_spoil_is_given_up_for_a_while(members: servers.MongoSet, store: MongoMessageStore) -> None:
    with listening(members) as (scene, commands):
        other = Scene(store, queue=scene.queue)
        scene.post("a")
        for n in range(20):
            other.post(f"other {n}")
            scene.post(f"mine {n}")
        guesses = commands.names.count("abortTransaction")
        assert guesses <= 5
        assert len(scene.listing()) == 41


def test_a_transaction_of_a_dead_process_is_ended(
    store: MongoMessageStore, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its two commands it would hold up everybody for a minute."""
    opened = store._set.opened
    session = opened.client.start_session()
    session.start_transaction()
    opened.collection.update_one({"_id": fence_id(scene.queue.uid)}, {"$inc": {"back": 1}}, session=session)
    begun = time.monotonic()
    assert scene.post("a") == [1]
    assert time.monotonic() - begun < 4
    assert bodies(scene.listing()) == ["a"]
    session.abort_transaction()


def test_a_live_transaction_of_others_is_left_alone(
    members: servers.MongoSet, store: MongoMessageStore, scene: Scene
) -> None:
    import pymongo

    with pymongo.MongoClient(members.uri, appname="somebody else") as client, client.start_session() as session:
        session.start_transaction()
        collection = client[DATABASE]["message_store"]
        collection.update_one({"_id": fence_id(scene.queue.uid)}, {"$inc": {"back": 1}}, session=session)
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            scene.post("a")
        assert 2.5 < time.monotonic() - begun < 5
        session.abort_transaction()
    assert scene.post("a") == [1]


def test_a_lost_transaction_changes_nothing(store: MongoMessageStore) -> None:
    key = f"x{ObjectId()}"
    statements = [statement({"_id": key}, {"$set": {"a": 1}}, upsert=True), statement({"_id": "absent"}, {"$set": {}})]
    turn = next(Turns(store._set))
    assert not turn.write(statements, expect=2)
    assert turn.write(statements, expect=1)

    def break_off() -> None:
        with turn.transaction() as transaction:
            transaction.update([statement({"_id": key}, {"$set": {"a": 2}})], expect=1)
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert turn.peek([{"$match": {"_id": key}}], expect=2) == [{"_id": key, "a": 1}]
    store._set.opened.collection.delete_one({"_id": key})


def test_turns_end(store: MongoMessageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "PATIENCE", 0.3)
    begun = time.monotonic()
    turns = Turns(store._set)
    with pytest.raises(StoreUnavailable):
        list(turns)
    assert time.monotonic() - begun < 1
    assert turns._attempts > 3


def test_what_is_too_large_for_one_command_is_sent_in_several() -> None:
    documents = [{"_id": n, "b": b"x" * 3_000_000} for n in range(7)]
    assert [[each["_id"] for each in batch] for batch in _batches(documents)] == [[0, 1], [2, 3], [4, 5], [6]]
    assert list(_batches([])) == []


def test_a_post_larger_than_a_command(scene: Scene) -> None:
    drafts = [Draft(bytes([65 + n]) * 4_000_000, 60) for n in range(6)]
    numbers = scene.store.messages.post(queue=scene.queue, drafts=drafts, client_id="c", now=scene.now)
    assert numbers == range(1, 7)
    assert [len(message.body) for message in scene.listing()] == [4_000_000] * 6


def test_queues_keep_apart_in_the_memory_of_a_process(
    store: MongoMessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zaqar.storage.mongodb import fences

    monkeypatch.setattr(fences, "MOST_HINTS", 3)
    scenes = [Scene(store) for _ in range(5)]
    for scene in scenes:
        scene.post("a")
    assert len(store._hints) <= 3
    assert isinstance(scenes[0].queue, Queue)
    assert all(bodies(scene.listing()) == ["a"] for scene in scenes)


def test_takes_of_many_threads_are_dealt_out_once_and_in_order(store: MongoMessageStore, scene: Scene) -> None:
    """More takers than messages: some are dealt to in an attempt that fails, and must not believe it."""
    scene.post(*(f"{n:03}" for n in range(60)))
    others = [Scene(store, queue=scene.queue), Scene(MongoMessageStore(store._set), queue=scene.queue)]
    taken: list[list[str]] = []

    def take(number: int) -> None:
        own = others[number % 2]
        for turn in range(6):
            got = own.pop(2) if (number + turn) % 3 == 0 else own.claim(2)[1]
            assert bodies(got) == sorted(bodies(got))
            taken.append(bodies(got))

    at_once(*(partial(take, number) for number in range(12)))
    assert sorted(text for texts in taken for text in texts) == [f"{n:03}" for n in range(60)]
    assert scene.stats().free == 0
    assert scene.claim()[1] == []


def test_what_brings_messages_back_does_not_wait_for_posts(members: servers.MongoSet, scene: Scene) -> None:
    """In a queue with many posts it would lose against each of them."""
    import pymongo

    scene.post(*"abc")
    claim_id, _ = scene.claim(1, ttl=600)
    scene.claim(1, ttl=60)
    with pymongo.MongoClient(members.uri, appname="somebody who posts") as client, client.start_session() as session:
        session.start_transaction()
        collection = client[DATABASE]["message_store"]
        collection.update_one({"_id": fence_id(scene.queue.uid)}, {"$inc": {"next": 1}}, session=session)
        scene.renew(claim_id, ttl=600)
        scene.release(claim_id)
        scene.clock.advance(60)
        assert bodies(scene.listing()) == ["a", "b", "c"]
        session.abort_transaction()


def test_what_comes_back_is_found_below_where_scans_began(store: MongoMessageStore, scene: Scene) -> None:
    many = 2 * FAR
    scene.post(*(f"{n:04}" for n in range(many + 2)))
    first, _ = scene.claim(3, ttl=600)
    scene.claim(3, ttl=60)
    scene.claim(many - 6, ttl=600)
    assert bodies(scene.claim(1, ttl=600)[1]) == [f"{many:04}"]
    fence = store._set.opened.collection.find_one({"_id": fence_id(scene.queue.uid)})
    assert fence is not None
    assert fence["from"] == many + 2
    scene.release(first)
    assert bodies(scene.listing()) == ["0000", "0001", "0002", f"{many + 1:04}"]
    scene.clock.advance(60)
    assert bodies(scene.listing(limit=6)) == [f"{n:04}" for n in range(6)]
