# SPDX-License-Identifier: Apache-2.0
"""The parts of message operations that the service adds to the store: markers, ids, and deletes that need a claim."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.workers import CALLER, QUEUE_NAME, Cluster, Worker, make_limits
from zaqar.context import Context
from zaqar.errors import ClaimOver, Forbidden, InvalidInput, NotFound
from zaqar.model import message_id
from zaqar.service.messages import MessagePage


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def worker(cluster: Cluster) -> Worker:
    return cluster.worker()


def page(worker: Worker, *, caller: Context = CALLER, **changes: Any) -> MessagePage:
    wanted = {"marker": None, "limit": 10, "echo": True, "include_claimed": False, "include_delayed": False, **changes}
    return worker.messages.prepare_list(caller, QUEUE_NAME, **wanted).answer_now()


def bodies(found: MessagePage) -> list[str]:
    return [message.body.decode() for message in found.messages]


def test_ids_are_in_the_order_of_the_post(worker: Worker) -> None:
    ids = worker.post("a", "b") + worker.post("c")
    assert ids == sorted(ids)
    assert [message.id for message in page(worker).messages] == ids


def test_all_messages_of_a_page_have_the_ages_of_one_moment(cluster: Cluster, worker: Worker) -> None:
    worker.post("a")
    cluster.fences.before("messages.list_after", lambda: cluster.clock.advance(10))
    found = page(worker)
    assert found.messages[0].age(found.now) == 0


def test_a_retried_operation_keeps_the_time_of_its_start(cluster: Cluster, worker: Worker) -> None:
    """A message that expires between two tries is shown, because it was live when the client asked."""
    worker.post("a")
    other = cluster.worker()

    def patch_and_wait() -> None:
        other.queues.patch(QUEUE_NAME, b'[{"op":"add","path":"/metadata/a","value":1}]')
        cluster.clock.advance(cluster.limits.default_message_ttl)

    cluster.fences.before("messages.list_after", patch_and_wait)
    assert bodies(page(worker)) == ['"a"']
    assert bodies(page(worker)) == []


def test_the_age_of_a_message_counts_from_the_retry_that_stores_it(cluster: Cluster, worker: Worker) -> None:
    cluster.rows.before("queue_records.get", lambda: cluster.clock.advance(10))
    worker.post("a")
    assert page(worker).messages[0].created == cluster.clock.now


# -- markers ---------------------------------------------------------------------------------------------------------


def test_a_page_begins_after_its_marker(worker: Worker) -> None:
    ids = worker.post("a", "b", "c")
    worker.messages.delete(QUEUE_NAME, ids[1], claim_id=None)
    assert bodies(page(worker, marker=ids[1])) == ['"c"']
    assert bodies(page(worker, marker=ids[2])) == []
    assert bodies(page(worker, marker=message_id(ids[0][:24], 0))) == ['"a"', '"c"']


def test_a_marker_of_an_earlier_queue_begins_at_the_start(cluster: Cluster, worker: Worker) -> None:
    """Also if the worker still has the earlier queue in its cache."""
    marker = worker.post("old", "old")[1]
    other = cluster.worker()
    other.queues.delete(QUEUE_NAME)
    other.post("new")
    assert bodies(page(worker, marker=marker)) == ['"new"']


@pytest.mark.parametrize("marker", ["", "x", "0" * 35, "0" * 37, "0" * 36 + "\n", "G" * 36, "A" * 36, "-1"])
def test_a_marker_has_the_form_of_an_id(worker: Worker, marker: str) -> None:
    for _ in range(2):
        with pytest.raises(InvalidInput, match=r"^marker: must be the id of a message$"):
            page(worker, marker=marker)
        worker.post("a")


# -- scoping ---------------------------------------------------------------------------------------------------------


def test_ids_of_another_queue_reach_no_store_operation(cluster: Cluster, worker: Worker) -> None:
    other = QUEUE_NAME._replace(name="other")
    (foreign,) = worker.post("theirs", queue_name=other)
    (own,) = worker.post("mine")
    assert foreign[24:] == own[24:], "the same sequence number, so that only the uid tells them apart"
    with pytest.raises(NotFound):
        worker.messages.get(QUEUE_NAME, foreign)
    assert [message.id for message in worker.messages.get_many(QUEUE_NAME, [foreign, own, "x"]).messages] == [own]
    worker.messages.delete(QUEUE_NAME, foreign, claim_id=None)
    worker.messages.delete_many(QUEUE_NAME, [foreign, "nonsense"], claim_ids=None)
    assert worker.bodies() == ["mine"]
    assert worker.bodies(other) == ["theirs"]


def test_a_delete_of_a_malformed_id_calls_no_store(cluster: Cluster, worker: Worker) -> None:
    worker.post("a")
    cluster.forget_counts()
    worker.messages.delete(QUEUE_NAME, "nonsense", claim_id="nonsense")
    assert not cluster.fences.calls


def test_echo_compares_client_ids_and_not_users(worker: Worker) -> None:
    worker.post("a")
    assert bodies(page(worker, echo=False)) == []
    assert bodies(page(worker, caller=Context("shop", "consumer"), echo=False)) == ['"a"']
    assert bodies(page(worker, caller=Context("shop", "producer", user_id="x"), echo=False)) == []


@pytest.mark.parametrize("delay", [0, 5])
def test_a_page_says_whether_the_queue_delays(worker: Worker, delay: int) -> None:
    worker.queues.create(QUEUE_NAME, b'{"_default_message_delay":%d}' % delay)
    assert page(worker).delays is (delay > 0)


# -- many at once ----------------------------------------------------------------------------------------------------


def test_a_list_of_ids_is_limited_to_the_messages_of_a_page() -> None:
    worker = Cluster(limits=make_limits(max_messages_per_page=2)).worker()
    ids = worker.post("a", "b", "c")
    assert len(worker.messages.get_many(QUEUE_NAME, ids[:2]).messages) == 2
    for too_many in (
        lambda: worker.messages.get_many(QUEUE_NAME, ids),
        lambda: worker.messages.delete_many(QUEUE_NAME, ids, claim_ids=None),
    ):
        with pytest.raises(InvalidInput, match=r"^ids: must hold at most 2"):
            too_many()
    with pytest.raises(InvalidInput, match=r"^claim_ids: must hold at most 2"):
        worker.messages.delete_many(QUEUE_NAME, ids[:1], claim_ids=["a", "b", "c"])
    assert worker.bodies() == ["a", "b", "c"]


# -- deletes under a claim only --------------------------------------------------------------------------------------


@pytest.fixture
def strict_worker(cluster: Cluster) -> Worker:
    return cluster.worker(limits=make_limits(message_delete_with_claim_id=True))


def test_with_message_delete_with_claim_id_a_delete_without_a_claim_is_refused(strict_worker: Worker) -> None:
    held, free = strict_worker.post("held", "free")
    claim_id = strict_worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now().claim.id
    with pytest.raises(ClaimOver):
        strict_worker.messages.delete(QUEUE_NAME, free, claim_id=None)
    with pytest.raises(Forbidden):
        strict_worker.messages.delete(QUEUE_NAME, held, claim_id=None)
    with pytest.raises(InvalidInput, match=r"^claim_ids"):
        strict_worker.messages.delete_many(QUEUE_NAME, [held], claim_ids=None)
    with pytest.raises(ClaimOver):
        strict_worker.messages.delete_many(QUEUE_NAME, [held, free], claim_ids=[claim_id])
    assert strict_worker.bodies() == ["held", "free"]
    strict_worker.messages.delete(QUEUE_NAME, held, claim_id=claim_id)
    assert strict_worker.bodies() == ["free"]


def test_a_delete_of_an_absent_message_needs_no_claim(strict_worker: Worker) -> None:
    (id_,) = strict_worker.post("a")
    claim_id = strict_worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now().claim.id
    strict_worker.messages.delete(QUEUE_NAME, id_, claim_id=claim_id)
    strict_worker.messages.delete(QUEUE_NAME, id_, claim_id=None)
    strict_worker.messages.delete(QUEUE_NAME, "nonsense", claim_id=None)
    strict_worker.messages.delete(QUEUE_NAME._replace(name="absent"), id_, claim_id=None)


def test_a_message_that_is_released_during_its_delete_stays(cluster: Cluster, strict_worker: Worker) -> None:
    """The check and the delete are two steps, so the check must not allow a delete without a claim."""
    (id_,) = strict_worker.post("a")
    claim_id = strict_worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now().claim.id
    cluster.fences.after("messages.get", lambda: strict_worker.claims.release(QUEUE_NAME, claim_id))
    with pytest.raises(Forbidden):
        strict_worker.messages.delete(QUEUE_NAME, id_, claim_id=None)
    assert strict_worker.bodies() == ["a"]
