# SPDX-License-Identifier: Apache-2.0
"""The counters of each fence, and the number at which searches begin, are right after any sequence of operations."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.conformance.queue_client import ALL, QueueClient, new_queue
from tests.conformance.sqlalchemy.tracing import commits_of, traced
from zaqar.errors import ClientError
from zaqar.model import Claim, DeadLetters
from zaqar.storage.memory import MemoryMessageStore
from zaqar.storage.sqlalchemy import claims, core, dead_letters, exhausted_messages, queues, sweep
from zaqar.storage.sqlalchemy.client.conflicts import TransactionConflict
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.core import SKEW, Fence, StoreCore
from zaqar.storage.sqlalchemy.sqlite import messages
from zaqar.storage.sqlalchemy.states import CLAIMED, DELAYED, READY
from zaqar.storage.sqlalchemy.store import SqlMessageStore


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches so small that most operations take several."""
    for module in (claims, core, dead_letters, exhausted_messages, queues, sweep):
        monkeypatch.setattr(module, "BATCH", 3)
    monkeypatch.setattr(core, "FAR", 2)
    monkeypatch.setattr(messages, "FAR", 2)
    monkeypatch.setattr(messages, "TIDY_EVERY", 4)
    monkeypatch.setattr(sweep, "QUEUES_AT_ONCE", 2)


def recount(database: Database, now: float) -> None:
    with database.read() as connection:
        rows = connection.execute(
            "SELECT segment, ready, claimed, delayed, ready_from, next_sequence FROM fences WHERE segment IS NOT NULL"
        ).fetchall()
        for segment, ready, claimed, delayed, ready_from, next_sequence in rows:
            found = connection.execute(f"SELECT state, count(*) FROM messages WHERE segment = {segment} GROUP BY state")
            counts = dict(found.fetchall())
            assert counts == {
                state: count for state, count in ((READY, ready), (CLAIMED, claimed), (DELAYED, delayed)) if count
            }
            (hidden,) = connection.execute(
                f"SELECT count(*) FROM messages WHERE segment = {segment} AND state = {READY} "
                f"AND sequence < {ready_from} AND expires > {now}"
            ).fetchone()
            assert hidden == 0
            assert ready_from <= next_sequence


def step(random: Random, queue_clients: list[QueueClient], models: list[QueueClient]) -> None:
    """Run one operation on the store and on the memory driver. Both must return the same."""
    side = random.randrange(2)
    here, model, limit = queue_clients[side], models[side], random.randint(1, 9)
    texts = [str(random.random()) for _ in range(random.randint(1, 9))]
    ttl, delay = random.choice([60, 61, 90, 3600]), random.choice([0, 0, 0, 5, 60])
    act = random.choice(
        ["post"] * 5 + ["claim"] * 4 + ["dead letters", "pop", "delete", "release", "list", "purge", "sweep"]
    )
    if act == "post":
        assert here.post(*texts, ttl=ttl, delay=delay) == model.post(*texts, ttl=ttl, delay=delay)
    elif act in ("claim", "dead letters"):
        span = random.choice([10, 60])
        rules = [
            DeadLetters(pair[1 - side].queue, 1, random.choice([None]) or None) if act == "dead letters" else None
            for pair in (queue_clients, models)
        ]
        taken = here.claim(limit, ttl=span, grace=1, dead_letters=rules[0])
        same = model.claim(limit, ttl=span, grace=1, dead_letters=rules[1])
        assert [message.sequence for message in taken[1]] == [message.sequence for message in same[1]]
        model.clock.claims.append((side, taken[0], same[0]))  # type: ignore[attr-defined]
    elif act == "pop":
        assert [m.sequence for m in here.pop(limit)] == [m.sequence for m in model.pop(limit)]
    elif act == "delete":
        there = [message.sequence for message in model.list_everything()]
        chosen = random.sample(there, min(len(there), limit))
        here.delete_many(*chosen)
        model.delete_many(*chosen)
    elif act == "release" and model.clock.claims:  # type: ignore[attr-defined]
        owner, mine, other = random.choice(model.clock.claims)  # type: ignore[attr-defined]
        queue_clients[owner].release(mine)
        models[owner].release(other)
    elif act == "list":
        after = random.randrange(50)
        assert [m.sequence for m in here.listing(after, limit)] == [m.sequence for m in model.listing(after, limit)]
    elif act == "purge" and random.random() < 0.3:
        here.purge()
        model.purge()
    elif act == "sweep":
        here.store.sweep(now=here.now, limit=random.randint(1, 20))


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("seed", range(8))
def test_counters_are_exact_after_any_sequence_of_operations(
    database: Database, store: SqlMessageStore, seed: int
) -> None:
    random, memory = Random(seed), MemoryMessageStore()
    queue_clients = [QueueClient(store, queue=new_queue(str(n))) for n in range(2)]
    clock = queue_clients[0].clock
    clock.claims = []  # type: ignore[attr-defined]
    queue_clients[1].clock = clock
    models = [QueueClient(memory, clock, orders.queue) for orders in queue_clients]
    for _ in range(250):
        try:
            step(random, queue_clients, models)
        except ClientError as exc:
            raise AssertionError from exc
        if random.random() < 0.3:
            clock.advance(random.choice([0.125, 1, 5, 30, 61]))
        recount(database, clock.now)
        # Before the statistics, which make due messages READY.
        volume, same_volume = queue_clients[0].volume(), models[0].volume()
        assert (volume.free, volume.claimed, volume.delayed) == (
            same_volume.free,
            same_volume.claimed,
            same_volume.delayed,
        )
        for orders, model in zip(queue_clients, models, strict=True):
            usage, same_usage = (
                each.store.queues.usage(queue=each.queue, now=clock.now, most=ALL) for each in (orders, model)
            )
            assert usage == same_usage
            mine, same = orders.stats(), model.stats()
            assert (mine.free, mine.claimed) == (same.free, same.claimed)
            assert (mine.oldest and mine.oldest.sequence) == (same.oldest and same.oldest.sequence)
            assert (mine.newest and mine.newest.sequence) == (same.newest and same.newest.sequence)
        recount(database, clock.now)


@pytest.mark.usefixtures("small_batches")
def test_a_claim_counts_the_messages_that_it_moved_in_all_its_steps(
    store: SqlMessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the server rolls one of the steps back, which is then repeated."""
    orders = QueueClient(store)
    dead = orders.beside("dead-letters")
    orders.post(*"abcdefgh")
    orders.claim_and_release(8, times=1)
    orders.post("new")
    promote_due, calls = StoreCore.promote_due, []

    def conflict_once(self: StoreCore, *arguments: Any) -> Fence | None:
        calls.append(arguments)
        if len(calls) == 2:
            raise TransactionConflict
        return promote_due(self, *arguments)

    monkeypatch.setattr(StoreCore, "promote_due", conflict_once)
    lease = Claim("c" * 24, 60, 60, orders.now)
    result = store.claims.claim(
        queue=orders.queue, claim=lease, limit=1, now=orders.now, dead_letters=DeadLetters(dead.queue, 1)
    )
    assert len(calls) == 4
    assert result.dead_lettered == 8
    assert len(result.messages) == 1
    assert dead.stats().free == 8


# -- ready_from -------------------------------------------------------------------------------------------------------


def ready_from(database: Database, orders: QueueClient) -> int:
    with database.read() as connection:
        row = connection.execute("SELECT ready_from FROM fences WHERE uid = :uid", {"uid": orders.queue.uid}).fetchone()
    return int(row[0])


def test_searches_begin_after_expired_messages(database: Database, orders: QueueClient) -> None:
    orders.post(*["x"] * 1000, ttl=60)
    orders.post("alive", ttl=3600)
    orders.clock.advance(60 + SKEW)
    assert [message.sequence for message in orders.listing()] == [1001]
    assert ready_from(database, orders) == 1001
    with traced(database) as seen:
        assert [message.sequence for message in orders.listing()] == [1001]
    assert commits_of(seen) == 0
    claim_id, _ = orders.claim(1)
    assert ready_from(database, orders) == 1002
    orders.release(claim_id)
    assert ready_from(database, orders) == 1001
    orders.claim(1, ttl=60)
    orders.clock.advance(60)
    assert [message.sequence for message in orders.listing()] == [1001]


def test_a_claim_that_finds_only_expired_messages_moves_ready_from_once(
    database: Database, orders: QueueClient
) -> None:
    orders.post(*["x"] * 1000, ttl=60)
    orders.clock.advance(60 + SKEW)
    assert orders.claim()[1] == []
    assert ready_from(database, orders) == 1001
    with traced(database) as seen:
        assert orders.claim()[1] == []
    assert not any(statement.startswith("UPDATE fences") for statement in seen)
    orders.post("next")
    assert [message.sequence for message in orders.claim()[1]] == [1001]


def test_messages_hidden_as_an_echo_are_not_taken_for_expired(database: Database, orders: QueueClient) -> None:
    orders.post(*["mine"] * 500, client="me")
    orders.post("theirs", client="you")
    with traced(database) as seen:
        assert len(orders.listing(exclude="me")) == 1
    assert commits_of(seen) == 0
    assert ready_from(database, orders) == 1


def test_posts_remove_the_expired_messages_of_their_queue(database: Database, orders: QueueClient) -> None:
    orders.post(*["x"] * 2000, ttl=60)
    for _ in range(100):
        orders.clock.advance(10)
        orders.post(*["x"] * 40, ttl=60)
    with database.read() as connection:
        (rows,) = connection.execute("SELECT count(*) FROM messages").fetchone()
    assert rows <= 1000
    assert len(orders.listing(limit=ALL)) == 240
