# SPDX-License-Identifier: Apache-2.0
"""Dead letters that are moved to a dead letter queue on another pool, also if a worker is killed in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.workers import CALLER, QUEUE_NAME, Killed, PooledCluster, Worker, die
from zaqar.errors import StoreUnavailable
from zaqar.model import Message
from zaqar.service import dead_letters

DEAD = QUEUE_NAME._replace(name="dead")


@pytest.fixture
def cluster() -> PooledCluster:
    """Queue ``orders`` on pool 'one' and ``dead`` on pool 'two'."""
    return PooledCluster("one", "two")


def prepare(cluster: PooledCluster, *bodies: str, **metadata: Any) -> Worker:
    """Post messages and claim them as often as their queue allows; return the worker."""
    worker = cluster.worker()
    reserved = {"_max_claim_count": 1, "_dead_letter_queue": "dead", **metadata}
    cluster.next_pool = "one"
    worker.queues.create(QUEUE_NAME, json.dumps(reserved).encode())
    cluster.next_pool = "two"
    worker.queues.create(DEAD, b"")
    worker.post(*bodies)
    claimed = worker.claims.prepare(QUEUE_NAME, b"", limit=len(bodies)).answer_now()
    assert len(claimed.messages) == len(bodies)
    worker.claims.release(QUEUE_NAME, claimed.claim.id)
    return worker


def claim(worker: Worker, limit: int = 10) -> list[str]:
    return [
        json.loads(message.body)
        for message in worker.claims.prepare(QUEUE_NAME, b"", limit=limit).answer_now().messages
    ]


def dead_letters_of(worker: Worker) -> list[Message]:
    page = worker.messages.prepare_list(
        CALLER, DEAD, marker=None, limit=100, echo=True, include_claimed=True, include_delayed=True
    ).answer_now()
    return page.messages


def test_dead_letters_arrive_with_their_origin(cluster: PooledCluster) -> None:
    worker = prepare(cluster, "a", "b")
    ids = [message.id for message in worker.messages.prepare_list(
        CALLER, QUEUE_NAME, marker=None, limit=10, echo=True, include_claimed=True, include_delayed=True
    ).answer_now().messages]  # fmt: skip
    worker.post("c")
    assert claim(worker) == ["c"]
    arrived = dead_letters_of(worker)
    assert [json.loads(dead_letter.body) for dead_letter in arrived] == ["a", "b"]
    assert [
        (dead_letter.origin.queue, dead_letter.origin.claim_count) for dead_letter in arrived if dead_letter.origin
    ] == [("orders", 1)] * 2
    assert [dead_letter.origin.message_id for dead_letter in arrived if dead_letter.origin] == ids
    assert [(dead_letter.claim_id, dead_letter.claim_count) for dead_letter in arrived] == [(None, 0)] * 2
    assert worker.queues.stats(QUEUE_NAME)[0].total == 1
    assert (cluster.held("one"), cluster.held("two")) == (1, 2)


def test_dead_letters_get_the_ttl_of_the_rule(cluster: PooledCluster) -> None:
    worker = prepare(cluster, "a", _dead_letter_queue_messages_ttl=5000)
    cluster.clock.advance(100)
    claim(worker)
    (dead_letter,) = dead_letters_of(worker)
    assert (dead_letter.ttl, dead_letter.created) == (5000, cluster.clock.now)


def test_without_a_ttl_in_the_rule_dead_letters_keep_their_expiry(cluster: PooledCluster) -> None:
    worker = prepare(cluster, "a")
    created = cluster.clock.now
    cluster.clock.advance(100)
    claim(worker)
    (dead_letter,) = dead_letters_of(worker)
    assert (dead_letter.ttl, dead_letter.created) == (3600, created)


def test_within_one_store_the_claim_itself_moves_exhausted_messages(cluster: PooledCluster) -> None:
    worker = prepare(cluster, "a", "b")
    worker.queues.delete(DEAD)
    cluster.next_pool = "one"
    worker.queues.create(DEAD, b"")
    for _ in range(3):
        assert claim(worker) == []
    before = cluster.wires["one"].calls["dead_letters.set_aside"]
    for _ in range(3):
        worker.post("x")
        claimed = worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now()
        worker.claims.release(QUEUE_NAME, claimed.claim.id)
        assert claim(worker) == []
    assert cluster.wires["one"].calls["dead_letters.set_aside"] == before
    assert [json.loads(dead_letter.body) for dead_letter in dead_letters_of(worker)] == ["a", "b", "x", "x", "x"]


def leave_dead_letters_set_aside(cluster: PooledCluster) -> Worker:
    """Kill a worker after it has set dead letters aside, and return another worker."""
    prepare(cluster, "a", "b")
    cluster.wires["two"].before("dead_letters.receive", die)
    with pytest.raises(Killed):
        claim(cluster.worker())
    return cluster.worker()


def test_messages_set_aside_arrive_if_the_dead_letter_queue_moves_to_the_same_store(cluster: PooledCluster) -> None:
    worker = leave_dead_letters_set_aside(cluster)
    worker.queues.delete(DEAD)
    cluster.next_pool = "one"
    worker.queues.create(DEAD, b"")
    assert claim(worker) == []
    assert [json.loads(dead_letter.body) for dead_letter in dead_letters_of(worker)] == ["a", "b"]


def test_messages_set_aside_arrive_in_the_new_queue_if_the_rule_changes(cluster: PooledCluster) -> None:
    worker = leave_dead_letters_set_aside(cluster)
    cluster.next_pool = "one"
    worker.queues.patch(QUEUE_NAME, b'[{"op":"replace","path":"/metadata/_dead_letter_queue","value":"grave"}]')
    assert claim(worker) == []
    assert worker.bodies(QUEUE_NAME._replace(name="grave")) == ["a", "b"]
    assert dead_letters_of(worker) == []


@pytest.mark.parametrize("key", ["_dead_letter_queue", "_max_claim_count"])
def test_messages_set_aside_return_to_their_queue_if_the_rule_is_removed(cluster: PooledCluster, key: str) -> None:
    worker = leave_dead_letters_set_aside(cluster)
    worker.queues.patch(QUEUE_NAME, f'[{{"op":"remove","path":"/metadata/{key}"}}]'.encode())
    assert claim(worker) == ["a", "b"]
    assert claim(worker) == []
    assert dead_letters_of(worker) == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("pool", "step"),
    [
        ("one", "dead_letters.set_aside"),
        ("two", "dead_letters.receive"),
        ("one", "dead_letters.forget"),
        ("one", "claims.claim"),
    ],
)
def test_each_dead_letter_arrives_once_if_a_worker_is_killed_at_any_step(
    cluster: PooledCluster, pool: str, step: str, when: str
) -> None:
    prepare(cluster, "a", "b", "c")
    getattr(cluster.wires[pool], when)(step, die)
    with pytest.raises(Killed):
        claim(cluster.worker())
    assert cluster.wires[pool].all_sprung
    other = cluster.worker()
    assert claim(other) == []
    assert claim(other) == []
    assert [json.loads(dead_letter.body) for dead_letter in dead_letters_of(other)] == ["a", "b", "c"]
    assert other.queues.stats(QUEUE_NAME)[0].total == 0


def test_each_dead_letter_arrives_once_if_workers_are_killed_repeatedly(cluster: PooledCluster) -> None:
    prepare(cluster, "a", "b", "c")
    for pool, step in (("one", "dead_letters.set_aside"), ("two", "dead_letters.receive")) * 3:
        cluster.wires[pool].after(step, die)
        with pytest.raises(Killed):
            claim(cluster.worker())
    worker = cluster.worker()
    assert claim(worker) == []
    assert [json.loads(dead_letter.body) for dead_letter in dead_letters_of(worker)] == ["a", "b", "c"]


def test_two_concurrent_claims_move_each_dead_letter_once(cluster: PooledCluster) -> None:
    prepare(cluster, "a", "b")
    two = cluster.worker()
    for step, pool in (("dead_letters.receive", "two"), ("dead_letters.forget", "one"), ("claims.claim", "one")):
        cluster.wires[pool].before(step, lambda: claim(two))
    assert claim(cluster.worker()) == []
    assert [json.loads(dead_letter.body) for dead_letter in dead_letters_of(two)] == ["a", "b"]


PATCH = b'[{"op":"add","path":"/metadata/a","value":1}]'


def patch_source(worker: Worker) -> None:
    worker.queues.patch(QUEUE_NAME, PATCH)


def patch_dead(worker: Worker) -> None:
    worker.queues.patch(DEAD, PATCH)


def recreate_dead(worker: Worker) -> None:
    worker.queues.delete(DEAD)
    worker.queues.create(DEAD, b"")


def delete_dead(worker: Worker) -> None:
    worker.queues.delete(DEAD)


@pytest.mark.parametrize("change", [patch_source, patch_dead, recreate_dead, delete_dead])
@pytest.mark.parametrize(
    ("pool", "step"), [("one", "dead_letters.set_aside"), ("two", "dead_letters.receive"), ("one", "claims.claim")]
)
def test_dead_letters_arrive_if_a_queue_changes_during_the_hand_over(
    cluster: PooledCluster, change: Callable[[Worker], None], pool: str, step: str
) -> None:
    prepare(cluster, "a", "b")
    other = cluster.worker()
    # A deleted queue loses its messages, so these changes happen before the first dead letter has arrived.
    if step == "claims.claim" and change in (recreate_dead, delete_dead):
        return
    cluster.wires[pool].before(step, lambda: change(other))
    assert claim(cluster.worker()) == []
    assert [json.loads(dead_letter.body) for dead_letter in dead_letters_of(other)] == ["a", "b"]


def test_the_dead_letter_queue_is_created_on_another_pool(cluster: PooledCluster) -> None:
    worker = prepare(cluster, "a")
    worker.queues.delete(DEAD)
    assert claim(worker) == []
    assert [json.loads(dead_letter.body) for dead_letter in dead_letters_of(worker)] == ["a"]
    assert cluster.held("two") == 1


def store_does_not_answer() -> None:
    raise StoreUnavailable


def test_other_messages_are_claimed_while_the_store_of_the_dead_letter_queue_does_not_answer(
    cluster: PooledCluster,
) -> None:
    worker = prepare(cluster, "a")
    worker.post("b")
    cluster.wires["two"].before("dead_letters.receive", *[store_does_not_answer] * 5)
    assert claim(worker) == ["b"]
    worker.post("c")
    assert claim(worker) == ["c"]
    assert cluster.wires["two"].calls["dead_letters.receive"] == 1, "it is not waited for by each claim"
    cluster.monotonic.advance(60)
    cluster.wires["two"].forget_plan()
    assert claim(worker) == []
    assert [json.loads(dead_letter.body) for dead_letter in dead_letters_of(worker)] == ["a"]


def test_a_claim_succeeds_if_the_dead_letter_queue_cannot_be_created(cluster: PooledCluster) -> None:
    worker = prepare(cluster, "a")
    worker.queues.delete(DEAD)
    worker.post("b")
    cluster.wires["two"].before("ping", store_does_not_answer)
    cluster.next_pool = "two"
    cluster.only_next_pool = True
    assert claim(worker) == ["b"]
    cluster.monotonic.advance(60)
    assert claim(worker) == []
    assert [json.loads(dead_letter.body) for dead_letter in dead_letters_of(worker)] == ["a"]


def test_one_claim_moves_a_bounded_number_of_dead_letters(
    cluster: PooledCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zaqar.storage.memory.dead_letters.BATCH", 2)
    monkeypatch.setattr(dead_letters, "_MOST_BATCHES", 3)
    worker = prepare(cluster, *map(str, range(10)))
    worker.post("alive")
    assert claim(worker, limit=20) == ["alive"]
    assert len(dead_letters_of(worker)) == 6
    assert claim(worker, limit=20) == []
    assert [json.loads(dead_letter.body) for dead_letter in dead_letters_of(worker)] == [
        str(number) for number in range(10)
    ]
