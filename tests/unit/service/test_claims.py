# SPDX-License-Identifier: Apache-2.0
"""Claims: terms and their defaults, and the two queues that dead letters need."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.workers import CALLER, QUEUE_NAME, Cluster, Killed, Worker, die, make_limits
from zaqar.errors import InvalidInput, NotFound, StoreUnavailable
from zaqar.model import Message

DEAD = QUEUE_NAME._replace(name="dead")


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(limits=make_limits(default_claim_ttl=111, default_claim_grace=222))


@pytest.fixture
def worker(cluster: Cluster) -> Worker:
    return cluster.worker()


# -- terms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "ttl", "grace"),
    [(b"", 111, 222), (b"{}", 111, 222), (b'{"ttl":60}', 60, 222), (b'{"grace":61,"ttl":62}', 62, 61)],
)
def test_a_missing_field_gets_the_default(worker: Worker, raw: bytes, ttl: int, grace: int) -> None:
    worker.post("a")
    claim = worker.claims.prepare(QUEUE_NAME, raw, limit=1).answer_now().claim
    assert (claim.ttl, claim.grace) == (ttl, grace)
    found = worker.claims.get(QUEUE_NAME, claim.id)
    assert (found.claim, len(found.messages)) == (claim, 1)


def test_each_claim_has_its_own_id(worker: Worker) -> None:
    worker.post("a", "b")
    ids = {worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now().claim.id for _ in range(2)}
    assert len(ids) == 2
    assert all(len(id_) == 24 for id_ in ids)


@pytest.mark.parametrize("raw", [b" ", b"[]", b'{"ttl":59}', b'{"grace":true}', b'{"ttl":60', b"\xff"])
def test_bad_terms_claim_nothing(cluster: Cluster, worker: Worker, raw: bytes) -> None:
    worker.post("a")
    cluster.forget_counts()
    with pytest.raises(InvalidInput):
        worker.claims.prepare(QUEUE_NAME, raw, limit=1).answer_now()
    with pytest.raises(InvalidInput):
        worker.claims.renew(QUEUE_NAME, "0" * 24, raw)
    assert not cluster.fences.calls
    assert not cluster.rows.calls


def test_a_renewal_keeps_the_fields_that_it_leaves_out(cluster: Cluster, worker: Worker) -> None:
    worker.post("a")
    claim = worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now().claim
    cluster.clock.advance(100)
    for raw, ttl, grace in ((b"{}", 111, 222), (b'{"ttl":300}', 300, 222), (b'{"grace":400}', 300, 400)):
        worker.claims.renew(QUEUE_NAME, claim.id, raw)
        renewed = worker.claims.get(QUEUE_NAME, claim.id).claim
        assert (renewed.ttl, renewed.grace, renewed.started) == (ttl, grace, cluster.clock.now)


def test_an_absent_claim_is_not_found_and_its_release_is_no_error(worker: Worker) -> None:
    for _ in range(2):
        with pytest.raises(NotFound):
            worker.claims.get(QUEUE_NAME, "0" * 24)
        with pytest.raises(NotFound):
            worker.claims.renew(QUEUE_NAME, "0" * 24, b"{}")
        worker.claims.release(QUEUE_NAME, "0" * 24)
        worker.post("a")


def test_a_claim_that_is_retried_makes_one_claim(cluster: Cluster, worker: Worker) -> None:
    worker.post("a", "b")
    other = cluster.worker()
    cluster.fences.before(
        "claims.claim", lambda: other.queues.patch(QUEUE_NAME, b'[{"op":"add","path":"/metadata/a","value":1}]')
    )
    claimed = worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now()
    assert cluster.fences.calls["claims.claim"] == 2
    assert [message.claim_id for message in claimed.messages] == [claimed.claim.id]
    assert worker.queues.stats(QUEUE_NAME)[0].claimed == 1


# -- dead letters ----------------------------------------------------------------------------------------------------


def prepare(worker: Worker, *bodies: str, count: int = 1, **metadata: Any) -> None:
    """Post messages and claim them as often as their queue allows."""
    reserved = {"_max_claim_count": count, "_dead_letter_queue": "dead", **metadata}
    worker.queues.create(QUEUE_NAME, json.dumps(reserved).encode())
    worker.post(*bodies)
    for _ in range(count):
        claimed = worker.claims.prepare(QUEUE_NAME, b"", limit=10).answer_now()
        assert len(claimed.messages) == len(bodies)
        worker.claims.release(QUEUE_NAME, claimed.claim.id)


def claim(worker: Worker) -> list[Message]:
    return worker.claims.prepare(QUEUE_NAME, b"", limit=10).answer_now().messages


@pytest.mark.parametrize("metadata", [{"_max_claim_count": 1}, {"_dead_letter_queue": "dead"}])
def test_an_incomplete_rule_creates_no_dead_letter_queue(
    cluster: Cluster, worker: Worker, metadata: dict[str, Any]
) -> None:
    worker.queues.create(QUEUE_NAME, json.dumps(metadata).encode())
    worker.post("a")
    assert len(claim(worker)) == 1
    assert cluster.row(DEAD) is None


def test_a_claim_on_a_missing_queue_creates_no_dead_letter_queue(cluster: Cluster, worker: Worker) -> None:
    prepare(worker, "a")
    worker.queues.delete(DEAD)
    cluster.worker().queues.delete(QUEUE_NAME)
    assert claim(cluster.worker()) == []
    assert cluster.row(DEAD) is None


def test_the_claim_creates_the_dead_letter_queue(cluster: Cluster, worker: Worker) -> None:
    prepare(worker, "a", "b")
    assert claim(worker) == []
    assert worker.bodies(DEAD) == ["a", "b"]
    assert worker.bodies() == []


def delete_dead(worker: Worker) -> None:
    worker.queues.delete(DEAD)


def recreate_dead(worker: Worker) -> None:
    worker.queues.delete(DEAD)
    worker.queues.create(DEAD, b'{"mine":1}')


def patch_dead(worker: Worker) -> None:
    worker.queues.create(DEAD, b"")
    worker.queues.patch(DEAD, b'[{"op":"add","path":"/metadata/a","value":1}]')


@pytest.mark.parametrize("change", [delete_dead, recreate_dead, patch_dead])
@pytest.mark.parametrize("warm", [True, False])
def test_a_claim_succeeds_if_its_dead_letter_queue_changes_meanwhile(cluster: Cluster, change: Any, warm: bool) -> None:
    one, two = cluster.worker(), cluster.worker()
    prepare(one, "a", "b")
    claimant = one if warm else cluster.worker()
    cluster.fences.before("claims.claim", lambda: change(two))
    assert claim(claimant) == []
    assert cluster.fences.all_sprung
    assert two.bodies(DEAD) == claimant.bodies(DEAD) == ["a", "b"]
    assert two.bodies() == []


def test_after_a_change_of_the_dead_letter_queue_a_claim_reads_one_row(cluster: Cluster) -> None:
    """Only the row of the dead letter queue is read again."""
    one, two = cluster.worker(), cluster.worker()
    prepare(one, "a")
    patch_dead(two)
    cluster.forget_counts()
    claim(one)
    assert dict(cluster.rows.calls) == {"queue_records.get": 1}
    assert dict(cluster.fences.calls) == {"claims.claim": 2, "queues.open": 1}


def test_a_claim_succeeds_if_both_queues_change_meanwhile(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    prepare(one, "a")

    def change_both() -> None:
        recreate_dead(two)
        two.queues.patch(QUEUE_NAME, b'[{"op":"add","path":"/metadata/a","value":1}]')

    cluster.fences.before("claims.claim", change_both, change_both)
    assert claim(one) == []
    assert two.bodies(DEAD) == ["a"]


def test_a_new_dead_letter_queue_is_used_after_the_patch_is_acknowledged(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    prepare(one, "a")
    patch = b'[{"op":"replace","path":"/metadata/_dead_letter_queue","value":"other"}]'
    cluster.fences.before("claims.claim", lambda: two.queues.patch(QUEUE_NAME, patch))
    assert claim(one) == []
    assert two.bodies(DEAD) == []
    assert two.bodies(QUEUE_NAME._replace(name="other")) == ["a"]


def test_after_the_rule_is_removed_no_message_moves(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    prepare(one, "a")
    patch = b'[{"op":"remove","path":"/metadata/_max_claim_count"}]'
    cluster.fences.before("claims.claim", lambda: two.queues.patch(QUEUE_NAME, patch))
    assert [message.body for message in claim(one)] == [b'"a"']
    assert cluster.fences.all_sprung
    assert two.bodies() == ["a"]
    assert two.bodies(DEAD) == []


def test_if_the_dead_letter_queue_keeps_changing_no_message_moves(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    prepare(one, "a")
    cluster.fences.before("claims.claim", *[lambda: delete_dead(two)] * 100)
    with pytest.raises(StoreUnavailable):
        claim(one)
    assert two.bodies() == ["a"]


@pytest.mark.parametrize("point", ["queue_records.create", "queues.open", "claims.claim"])
def test_a_worker_killed_before_the_claim_moves_no_message(cluster: Cluster, point: str) -> None:
    one, two = cluster.worker(), cluster.worker()
    prepare(one, "a")
    two.queues.delete(DEAD)
    wires = cluster.rows if point == "queue_records.create" else cluster.fences
    wires.before(point, *([lambda: None, die] if point == "claims.claim" else [die]))
    with pytest.raises(Killed):
        claim(one)
    assert two.bodies() == ["a"]
    assert claim(cluster.worker()) == []
    assert two.bodies(DEAD) == ["a"]


def test_a_lowered_limit_bounds_the_ttl_of_dead_letters(cluster: Cluster, worker: Worker) -> None:
    prepare(worker, "a", _dead_letter_queue_messages_ttl=5000)
    lowered = cluster.worker(limits=make_limits(max_message_ttl=1000, default_message_ttl=600))
    assert claim(lowered) == []
    page = lowered.messages.prepare_list(
        CALLER, DEAD, marker=None, limit=1, echo=True, include_claimed=False, include_delayed=False
    ).answer_now()
    assert [message.ttl for message in page.messages] == [1000]
