# SPDX-License-Identifier: Apache-2.0
"""The queue cache and the fence: every race of docs/contributor/fence.rst in a fixed order."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import secrets
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.workers import CALLER, QUEUE_NAME, Cluster, Killed, Worker, die, make_limits
from zaqar.bounded_cache import BoundedCache
from zaqar.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from zaqar.model import TOPIC, Queue, QueueName, Subscription
from zaqar.schemas.queues import QueueFilter, make_filter
from zaqar.service import queue_cache, queue_listing
from zaqar.service.queue_listing import QueuePage
from zaqar.storage.base import TOMBSTONE_LIFETIME


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def patch(**values: Any) -> bytes:
    """A JSON patch that adds the values."""
    return json.dumps([{"op": "add", "path": f"/metadata/{key}", "value": v} for key, v in values.items()]).encode()


def store_does_not_answer() -> None:
    raise StoreUnavailable


# -- the steady state ------------------------------------------------------------------------------------------------


def test_warm_operations_read_no_row(cluster: Cluster) -> None:
    """Each operation makes one call of the message store and none of the management store."""
    worker = cluster.worker()
    (kept, _) = worker.post("kept", "other")
    claimed = worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now()
    operations: dict[str, Callable[[], object]] = {
        "messages.post": lambda: worker.post("more"),
        "messages.list_after": worker.bodies,
        "messages.get": lambda: worker.messages.get(QUEUE_NAME, kept),
        "claims.claim": lambda: worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now(),
        "claims.get": lambda: worker.claims.get(QUEUE_NAME, claimed.claim.id),
        "claims.renew": lambda: worker.claims.renew(QUEUE_NAME, claimed.claim.id, b"{}"),
        "messages.delete": lambda: worker.messages.delete(QUEUE_NAME, kept, claim_id=claimed.claim.id),
        "messages.delete_many": lambda: worker.messages.delete_many(QUEUE_NAME, [kept], claim_ids=None),
        "claims.release": lambda: worker.claims.release(QUEUE_NAME, claimed.claim.id),
        "messages.pop": lambda: worker.messages.prepare_pop(QUEUE_NAME, limit=1).answer_now(),
        "queues.stats": lambda: worker.queues.stats(QUEUE_NAME),
        "queues.purge": lambda: worker.queues.purge(QUEUE_NAME, b'{"resource_types":["messages"]}'),
    }
    for method, operation in operations.items():
        cluster.forget_counts()
        operation()
        assert dict(cluster.fences.calls) == {method: 1}
        assert not cluster.rows.calls


def test_a_worker_with_an_empty_cache_reads_the_row_once(cluster: Cluster) -> None:
    cluster.worker().post("a")
    cold = cluster.worker()
    cluster.forget_counts()
    assert cold.bodies() == ["a"]
    assert dict(cluster.rows.calls) == {"queue_records.get": 1}
    assert dict(cluster.fences.calls) == {"messages.list_after": 1}


def test_after_a_change_another_worker_reads_the_row_once(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.post("a")
    two.queues.patch(QUEUE_NAME, patch(a=1))
    cluster.forget_counts()
    one.post("b")
    assert dict(cluster.rows.calls) == {"queue_records.get": 1}
    assert dict(cluster.fences.calls) == {"messages.post": 2, "queues.open": 1}


def test_a_missing_queue_is_neither_cached_nor_created(cluster: Cluster) -> None:
    worker = cluster.worker()
    assert worker.bodies() == []
    assert worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now().messages == []
    assert worker.messages.prepare_pop(QUEUE_NAME, limit=1).answer_now().messages == []
    assert worker.queues.stats(QUEUE_NAME)[0].total == 0
    worker.queues.purge(QUEUE_NAME, b"")
    worker.queues.delete(QUEUE_NAME)
    worker.messages.delete(QUEUE_NAME, "0" * 36, claim_id=None)
    worker.claims.release(QUEUE_NAME, "0" * 24)
    assert cluster.row() is None
    assert not cluster.fences.calls
    cluster.worker().post("a")
    assert worker.bodies() == ["a"]


def test_queues_of_other_kinds_and_projects_are_separate(cluster: Cluster) -> None:
    worker = cluster.worker()
    for queue_name in (QUEUE_NAME, QUEUE_NAME._replace(kind=TOPIC), QUEUE_NAME._replace(project="other")):
        worker.post(f"{queue_name.project} {queue_name.kind}", queue_name=queue_name)
    worker.queues.delete(QUEUE_NAME._replace(kind=TOPIC))
    assert worker.bodies() == ["shop queue"]
    assert worker.bodies(QUEUE_NAME._replace(project="other")) == ["other queue"]
    assert worker.bodies(QUEUE_NAME._replace(kind=TOPIC)) == []


# -- the cache -------------------------------------------------------------------------------------------------------


def entry_bytes(cluster: Cluster) -> int:
    """Return the bytes that the cache counts for a queue with a short name and without metadata."""
    worker = cluster.worker()
    worker.post("a", queue_name=QUEUE_NAME._replace(name="qx"))
    return worker.queues._cache.size


def test_the_cache_is_bounded_and_removes_the_oldest_first(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_cache, "CACHE_BYTES", 3 * entry_bytes(cluster))
    worker = cluster.worker()
    queue_names = [QUEUE_NAME._replace(name=f"q{number}") for number in range(5)]
    for queue_name in queue_names:
        worker.post("a", queue_name=queue_name)
        assert len(worker.queues._cache) <= 3
    assert list(worker.queues._cache) == queue_names[2:]
    # An entry that is cached already removes no other.
    worker.queues.refresh(queue_names[3], create=False)
    assert set(worker.queues._cache) == set(queue_names[2:])
    cluster.forget_counts()
    for queue_name in queue_names:
        assert worker.bodies(queue_name) == ["a"]
    assert cluster.rows.calls["queue_records.get"] > 0


def test_a_full_cache_is_safe_for_threads(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding the oldest entry fails while another thread adds or removes one."""
    monkeypatch.setattr(queue_cache, "CACHE_BYTES", 4 * entry_bytes(cluster) + 100)
    worker = cluster.worker()
    queue_names = [QUEUE_NAME._replace(name=f"q{number}") for number in range(12)]

    def churn(first: int) -> None:
        for step in range(400):
            queue_name = queue_names[(first + 7 * step) % len(queue_names)]
            worker.queues.refresh(queue_name, create=True)

    with threads_switch_often(), ThreadPoolExecutor(8) as pool:
        list(pool.map(churn, range(8)))
    assert 0 < len(worker.queues._cache) <= 4


def metadata_of(kind: str, size: int) -> dict[str, Any]:
    """Make metadata with about ``size`` bytes of JSON. Some kinds take far more bytes in memory."""
    match kind:
        case "one text":
            return {"text": "x" * size}
        case "many keys":
            return {f"{number:06}": number for number in range(size // 18)}
        case "empty lists":
            return {"lists": [[] for _ in range(size // 4)]}
        case "fractions":
            return {"numbers": [number / 7 for number in range(size // 20)]}
        case _:
            return {f"{number:06}": {"a": {"b": [number]}} for number in range(size // 32)}


@pytest.mark.parametrize("kind", ["one text", "many keys", "empty lists", "fractions", "nested"])
def test_metadata_of_tenants_take_no_more_memory_than_the_bound(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The limit is in bytes, so the number of cached queues depends on the metadata that tenants store."""
    bound = 384 * 1024
    monkeypatch.setattr(queue_cache, "CACHE_BYTES", bound)
    worker = cluster.worker()
    raw = json.dumps(metadata_of(kind, 10_000), separators=(",", ":"))
    assert 6_000 < len(raw) < 12_000
    cluster.management.queue_records.get = lambda project, kind, name: make_row(name, json.loads(raw))
    found = 0
    gc.collect()
    tracemalloc.start()
    try:
        while found < 2 * len(worker.queues._cache) + 3:
            assert worker.queues.find(QUEUE_NAME._replace(name=f"q{found}"), create=False) is not None
            found += 1
        remembered = len(worker.queues._cache)
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
        worker.queues._cache = BoundedCache(0)
        gc.collect()
        used -= tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0 < remembered < found
    assert bound / 10 < used < 1.1 * bound


def test_the_cache_holds_fifty_thousand_typical_queues(cluster: Cluster) -> None:
    """50,000 queues without metadata, or with a few, fit."""
    worker = cluster.worker()
    few = {"_default_message_ttl": 3600, "team": "payments"}
    for number in range(2000):
        cluster.management.queue_records.create(queue=make_row(f"q{number:04}", few if number % 2 else {}))
        worker.queues.find(QUEUE_NAME._replace(name=f"q{number:04}"), create=False)
    assert worker.queues._cache.size / 2000 * 50_000 < 1.5 * queue_cache.CACHE_BYTES
    assert len(worker.queues._cache) == 2000


def make_row(name: str, metadata: dict[str, Any]) -> Queue:
    return Queue(uid=secrets.token_hex(12), project=QUEUE_NAME.project, name=name, metadata=metadata)


@contextlib.contextmanager
def threads_switch_often() -> Iterator[None]:
    """Make threads switch after every few instructions, so that rare races happen."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


# -- creation --------------------------------------------------------------------------------------------------------


def test_concurrent_first_posts_create_one_queue(cluster: Cluster) -> None:
    workers = [cluster.worker() for _ in range(8)]
    meeting = threading.Barrier(8, timeout=30)

    def post(number: int) -> None:
        meeting.wait()
        workers[number].post(str(number))

    # All threads wait for each other after they have read that there is no row.
    cluster.rows.after("queue_records.get", *[meeting.wait] * 8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(post, range(8)))
    assert cluster.rows.all_sprung
    row = cluster.row()
    assert row is not None
    assert cluster.shelves() == {row.uid}
    for worker in workers:
        assert sorted(worker.bodies()) == [str(number) for number in range(8)]


def test_a_first_post_succeeds_if_a_put_creates_its_queue_meanwhile(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    cluster.rows.before("queue_records.create", lambda: two.queues.create(QUEUE_NAME, b'{"_default_message_ttl":77}'))
    one.post("a")
    assert cluster.rows.all_sprung
    (message,) = one.messages.get(QUEUE_NAME, one.post("b")[0]).messages
    assert message.ttl == 77
    page = two.messages.prepare_list(
        CALLER, QUEUE_NAME, marker=None, limit=9, echo=True, include_claimed=False, include_delayed=False
    ).answer_now()
    assert [message.ttl for message in page.messages] == [77, 77]


def test_one_of_two_concurrent_puts_creates_the_queue(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    answers = []
    cluster.rows.before("queue_records.create", lambda: answers.append(two.queues.create(QUEUE_NAME, b'{"by":"two"}')))
    answers.append(one.queues.create(QUEUE_NAME, b'{"by":"one"}'))
    assert answers == [True, False]
    assert one.queues.get(QUEUE_NAME)["by"] == "two"


def test_a_put_succeeds_if_its_queue_is_deleted_before_its_fence_is_raised(cluster: Cluster) -> None:
    """The delete is acknowledged before the put, so the queue exists afterwards."""
    one, two = cluster.worker(), cluster.worker()
    cluster.rows.after("queue_records.create", lambda: two.queues.delete(QUEUE_NAME))
    assert one.queues.create(QUEUE_NAME, b'{"mine":1}') is True
    assert one.queues.get(QUEUE_NAME)["mine"] == 1
    assert two.post("a")
    assert one.bodies() == ["a"]


def test_a_queue_whose_creator_was_killed_is_opened_by_the_next_request(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    cluster.fences.before("queues.open", die)
    with pytest.raises(Killed):
        one.queues.create(QUEUE_NAME, b'{"_default_message_ttl":77}')
    assert cluster.shelves() == set()
    assert two.bodies() == []
    (id_,) = two.post("a")
    assert two.messages.get(QUEUE_NAME, id_).messages[0].ttl == 77


REFUSED = [
    b"",
    b"[]",
    b'{"messages":[]}',
    b'{"messages":[{"body":1,"ttl":59}]}',
    b'{"messages":[{"body":1},{"body":1,"delay":901}]}',
    b'{"messages":[{"body":"%s"}]}' % (b"x" * 300_000),
]


@pytest.mark.parametrize("raw", REFUSED, ids=range(len(REFUSED)))
def test_a_refused_first_post_creates_no_queue(cluster: Cluster, raw: bytes) -> None:
    worker = cluster.worker()
    with pytest.raises(InvalidInput):
        worker.messages.post(CALLER, QUEUE_NAME, raw)
    assert cluster.row() is None
    assert cluster.shelves() == set()
    assert len(worker.queues._cache) == 0


# -- deletion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["queue_records.get", "messages.post"])
def test_a_post_succeeds_if_its_queue_is_deleted_before_the_store_operation(cluster: Cluster, point: str) -> None:
    """With any cached queue, an acknowledged message is in a queue that exists."""
    one, two = cluster.worker(), cluster.worker()
    two.post("old")
    old = cluster.row()
    if point == "queue_records.get":
        cluster.rows.after("queue_records.get", lambda: two.queues.delete(QUEUE_NAME))
    else:
        cluster.fences.before("messages.post", lambda: two.queues.delete(QUEUE_NAME))
    one.post("new")
    row = cluster.row()
    assert old is not None
    assert row is not None
    assert row.uid != old.uid
    assert one.bodies() == two.bodies() == ["new"]


def test_a_post_reaches_the_new_queue_if_its_queue_is_recreated_meanwhile(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    (old,) = two.post("old")

    def recreate() -> None:
        two.queues.delete(QUEUE_NAME)
        two.queues.create(QUEUE_NAME, b'{"_default_message_ttl":88}')

    cluster.rows.after("queue_records.get", recreate)
    (new,) = one.post("new")
    assert one.messages.get(QUEUE_NAME, new).messages[0].ttl == 88
    with pytest.raises(NotFound):
        one.messages.get(QUEUE_NAME, old)


@pytest.mark.parametrize("operation", ["list", "pop", "claim", "delete"])
def test_reads_of_a_queue_deleted_meanwhile_find_nothing(cluster: Cluster, operation: str) -> None:
    one, two = cluster.worker(), cluster.worker()
    (id_,) = one.post("a")
    points = {
        "list": "messages.list_after",
        "pop": "messages.pop",
        "claim": "claims.claim",
        "delete": "messages.delete",
    }
    cluster.fences.before(points[operation], lambda: two.queues.delete(QUEUE_NAME))
    found: dict[str, Callable[[], object]] = {
        "list": one.bodies,
        "pop": lambda: one.messages.prepare_pop(QUEUE_NAME, limit=1).answer_now().messages,
        "claim": lambda: one.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now().messages,
        "delete": lambda: one.messages.delete(QUEUE_NAME, id_, claim_id=None),
    }
    assert not found[operation]()
    assert cluster.fences.all_sprung
    assert cluster.row() is None


def kill_between_drop_and_row(cluster: Cluster) -> Queue:
    """Leave a row whose queue is dropped, like a worker that is killed in the middle of a delete."""
    victim = cluster.worker()
    victim.post("old")
    cluster.rows.before("queue_records.delete", die)
    with pytest.raises(Killed):
        victim.queues.delete(QUEUE_NAME)
    row = cluster.row()
    assert row is not None
    return row


def test_a_killed_delete_is_finished_by_a_read(cluster: Cluster) -> None:
    kill_between_drop_and_row(cluster)
    assert cluster.worker().bodies() == []
    assert cluster.row() is None


def test_a_killed_delete_is_finished_by_a_post(cluster: Cluster) -> None:
    left_over = kill_between_drop_and_row(cluster)
    worker = cluster.worker()
    worker.post("new")
    assert worker.bodies() == ["new"]
    row = cluster.row()
    assert row is not None
    assert row.uid != left_over.uid
    assert cluster.shelves() == {row.uid}


def test_a_killed_delete_is_finished_by_a_put(cluster: Cluster) -> None:
    kill_between_drop_and_row(cluster)
    worker = cluster.worker()
    assert worker.queues.create(QUEUE_NAME, b'{"new":1}') is True
    assert worker.queues.get(QUEUE_NAME)["new"] == 1


def test_a_killed_delete_is_finished_by_a_patch(cluster: Cluster) -> None:
    """The delete was never acknowledged, so it may take effect after the patch."""
    kill_between_drop_and_row(cluster)
    worker = cluster.worker()
    assert worker.queues.patch(QUEUE_NAME, patch(a=1))["a"] == 1
    assert cluster.row() is None


def test_a_killed_delete_is_finished_by_a_delete(cluster: Cluster) -> None:
    kill_between_drop_and_row(cluster)
    cluster.worker().queues.delete(QUEUE_NAME)
    assert cluster.row() is None


def test_a_delete_killed_long_ago_leaves_an_empty_queue(cluster: Cluster) -> None:
    left_over = kill_between_drop_and_row(cluster)
    cluster.clock.advance(TOMBSTONE_LIFETIME)
    worker = cluster.worker()
    assert worker.bodies() == []
    worker.post("new")
    assert worker.bodies() == ["new"]
    assert cluster.row() == left_over


@pytest.mark.parametrize("point", ["queues.drop", "queue_records.delete"])
def test_a_delete_can_be_repeated_after_an_outage(cluster: Cluster, point: str) -> None:
    worker = cluster.worker()
    worker.post("old")
    (cluster.fences if point == "queues.drop" else cluster.rows).before(point, store_does_not_answer)
    with pytest.raises(StoreUnavailable):
        worker.queues.delete(QUEUE_NAME)
    worker.queues.delete(QUEUE_NAME)
    assert cluster.row() is None
    assert cluster.shelves() == set()


@pytest.mark.parametrize("point", ["queues.drop", "queue_records.delete"])
def test_a_slow_delete_does_not_change_the_next_queue_with_the_name(cluster: Cluster, point: str) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.post("old")

    def recreate() -> None:
        two.queues.delete(QUEUE_NAME)
        two.post("new")

    (cluster.fences if point == "queues.drop" else cluster.rows).before(point, recreate)
    one.queues.delete(QUEUE_NAME)
    assert one.bodies() == two.bodies() == ["new"]


def test_two_concurrent_deletes_succeed(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.post("old")
    cluster.fences.after("queues.drop", lambda: two.queues.delete(QUEUE_NAME))
    one.queues.delete(QUEUE_NAME)
    assert cluster.row() is None


# -- patches ---------------------------------------------------------------------------------------------------------


def test_a_post_follows_a_patch_that_comes_before_the_store_operation(cluster: Cluster) -> None:
    """The queue was cached before the patch, and the patch was acknowledged before the operation."""
    for point in ("queue_records.get", "messages.post"):
        one, two = cluster.worker(), cluster.worker()
        two.queues.create(QUEUE_NAME, b'{"_default_message_ttl":100}')
        wires = cluster.rows if point == "queue_records.get" else cluster.fences
        (wires.after if point == "queue_records.get" else wires.before)(
            point, lambda two=two: two.queues.patch(QUEUE_NAME, patch(_default_message_ttl=200))
        )
        (id_,) = one.post("a")
        assert wires.all_sprung
        assert one.messages.get(QUEUE_NAME, id_).messages[0].ttl == 200
        one.queues.delete(QUEUE_NAME)


def test_removed_rules_refuse_no_post(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.queues.create(QUEUE_NAME, b'{"_max_messages_post_size":40}')
    one.post("a")
    two.queues.patch(QUEUE_NAME, patch(_max_messages_post_size=1000))
    one.post("b" * 100)
    with pytest.raises(InvalidInput, match="more than 1000"):
        one.post("c" * 1000)


def test_rules_of_a_deleted_queue_refuse_no_post(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.queues.create(QUEUE_NAME, b'{"_max_messages_post_size":40}')
    one.post("a")
    two.queues.delete(QUEUE_NAME)
    one.post("b" * 100)
    assert two.bodies() == ["b" * 100]


def test_a_post_refused_by_current_rules_reads_the_row_once(cluster: Cluster) -> None:
    worker = cluster.worker()
    worker.queues.create(QUEUE_NAME, b'{"_max_messages_post_size":10}')
    cluster.forget_counts()
    with pytest.raises(InvalidInput):
        worker.post("a")
    assert dict(cluster.rows.calls) == {"queue_records.get": 1}
    assert not cluster.fences.calls


def test_a_patch_killed_before_it_raised_the_fence_takes_effect_later(cluster: Cluster) -> None:
    """It was never acknowledged. The next request that reads the new row raises the fence for all workers."""
    one, two, three = cluster.worker(), cluster.worker(), cluster.worker()
    one.queues.create(QUEUE_NAME, b'{"_default_message_ttl":100}')
    one.post("a")
    cluster.fences.before("queues.open", die)
    with pytest.raises(Killed):
        three.queues.patch(QUEUE_NAME, patch(_default_message_ttl=200))

    def ttl(worker: Worker) -> int:
        return worker.messages.get(QUEUE_NAME, worker.post("x")[0]).messages[0].ttl

    assert one.queues.get(QUEUE_NAME)["_default_message_ttl"] == 200
    assert ttl(one) == 100
    assert ttl(two) == 200
    assert ttl(one) == 200


def test_a_patch_that_could_not_raise_the_fence_takes_effect_in_its_own_worker(cluster: Cluster) -> None:
    worker = cluster.worker()
    worker.post("a")
    cluster.fences.before("queues.open", store_does_not_answer)
    with pytest.raises(StoreUnavailable):
        worker.queues.patch(QUEUE_NAME, patch(_default_message_ttl=200))
    assert worker.messages.get(QUEUE_NAME, worker.post("b")[0]).messages[0].ttl == 200


def test_two_concurrent_patches_both_take_effect(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.queues.create(QUEUE_NAME, b'{"n":0}')
    cluster.rows.before("queue_records.replace", lambda: two.queues.patch(QUEUE_NAME, patch(b=2)))
    shown = one.queues.patch(QUEUE_NAME, patch(a=1))
    assert (shown["n"], shown["a"], shown["b"]) == (0, 1, 2)
    assert one.queues.get(QUEUE_NAME) == shown
    row = cluster.row()
    assert row is not None
    assert row.generation == 3


def test_the_slower_of_two_patches_may_conflict(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.queues.create(QUEUE_NAME, b'{"a":1}')
    remove = b'[{"op":"remove","path":"/metadata/a"}]'
    cluster.rows.before("queue_records.replace", lambda: two.queues.patch(QUEUE_NAME, remove))
    with pytest.raises(Conflict):
        one.queues.patch(QUEUE_NAME, remove)


@pytest.mark.parametrize("point", ["queue_records.replace", "queues.open"])
def test_a_patch_is_not_found_if_its_queue_is_deleted_meanwhile(cluster: Cluster, point: str) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.post("a")
    (cluster.rows if point == "queue_records.replace" else cluster.fences).before(
        point, lambda: two.queues.delete(QUEUE_NAME)
    )
    if point == "queue_records.replace":
        with pytest.raises(NotFound):
            one.queues.patch(QUEUE_NAME, patch(a=1))
    else:
        # The patch was stored first, and was deleted with the queue.
        assert one.queues.patch(QUEUE_NAME, patch(a=1))["a"] == 1
    assert cluster.row() is None
    assert one.bodies() == []


def test_a_delete_succeeds_if_its_queue_is_patched_meanwhile(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.post("a")
    cluster.rows.before("queue_records.delete", lambda: two.queues.patch(QUEUE_NAME, patch(a=1)))
    one.queues.delete(QUEUE_NAME)
    assert cluster.row() is None
    assert two.queues.get(QUEUE_NAME).get("a") is None


def test_a_patch_changes_the_new_queue_if_its_queue_is_recreated_meanwhile(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.queues.create(QUEUE_NAME, b'{"old":1}')

    def recreate() -> None:
        two.queues.delete(QUEUE_NAME)
        two.queues.create(QUEUE_NAME, b'{"new":1}')

    cluster.rows.before("queue_records.replace", recreate)
    shown = one.queues.patch(QUEUE_NAME, patch(a=1))
    assert "old" not in shown
    assert (shown["new"], shown["a"]) == (1, 1)


def test_a_bad_patch_changes_nothing(cluster: Cluster) -> None:
    worker = cluster.worker()
    worker.queues.create(QUEUE_NAME, b'{"a":1}')
    before = cluster.row()
    for values in ({"b": 2, "_default_message_ttl": 1}, {"_dead_letter_queue": "orders"}, {"big": "x" * 70_000}):
        with pytest.raises(InvalidInput):
            worker.queues.patch(QUEUE_NAME, patch(**values))
    with pytest.raises(NotFound):
        worker.queues.patch(QUEUE_NAME._replace(name="absent"), patch(a=1))
    assert cluster.row() == before


def test_a_patch_can_remove_metadata_that_lowered_limits_forbid(cluster: Cluster) -> None:
    worker = cluster.worker()
    worker.queues.create(QUEUE_NAME, b'{"_default_message_ttl":1000}')
    lowered = cluster.worker(limits=make_limits(max_message_ttl=500, default_message_ttl=300))
    assert lowered.messages.get(QUEUE_NAME, lowered.post("a")[0]).messages[0].ttl == 500
    with pytest.raises(InvalidInput, match=r"^_default_message_ttl"):
        lowered.queues.patch(QUEUE_NAME, patch(a=1))
    lowered.queues.patch(QUEUE_NAME, b'[{"op":"remove","path":"/metadata/_default_message_ttl"}]')
    assert lowered.messages.get(QUEUE_NAME, lowered.post("a")[0]).messages[0].ttl == 300


# -- fences and rows that lost each other ----------------------------------------------------------------------------


def test_a_stale_row_is_not_written_back(cluster: Cluster) -> None:
    """The row was changed after it was read."""
    one, two = cluster.worker(), cluster.worker()
    two.queues.create(QUEUE_NAME, b'{"n":0}')

    def change_twice() -> None:
        two.queues.patch(QUEUE_NAME, patch(n=1))
        two.queues.patch(QUEUE_NAME, patch(n=2))

    cluster.fences.before("queues.open", change_twice)
    one.queues.refresh(QUEUE_NAME, create=False)
    assert QUEUE_NAME not in one.queues._cache
    assert one.queues.get(QUEUE_NAME)["n"] == 2
    one.post("a")
    row = cluster.row()
    assert row is not None
    assert row.generation == 3


def test_a_row_from_a_backup_overtakes_the_fence(cluster: Cluster) -> None:
    worker = cluster.worker()
    worker.queues.create(QUEUE_NAME, b'{"n":0}')
    row = cluster.row()
    assert row is not None
    for n in (1, 2, 3):
        worker.queues.patch(QUEUE_NAME, patch(n=n))
    cluster.management.queue_records._records[QUEUE_NAME.project, QUEUE_NAME.kind, QUEUE_NAME.name] = row
    fresh = cluster.worker()
    fresh.post("a")
    caught_up = cluster.row()
    assert caught_up is not None
    assert caught_up == replace(row, generation=caught_up.generation)
    assert caught_up.generation >= 4


@pytest.mark.parametrize("behind", [2, 17, 100_000])
@pytest.mark.parametrize("operation", ["post", "patch", "put", "claim"])
def test_a_row_from_a_backup_overtakes_the_fence_in_one_write(cluster: Cluster, behind: int, operation: str) -> None:
    """The number of changes after the backup, by which the fence is ahead, does not matter."""
    cluster.worker().queues.create(QUEUE_NAME, b'{"n":0}')
    row = cluster.row()
    assert row is not None
    ahead = replace(row, generation=row.generation + behind)
    cluster.store.queues.open(queue=ahead, now=cluster.clock())
    # A worker that was not restarted has the queue of before the restore in its cache.
    remembers = cluster.worker()
    remembers.queues._cache.remember(QUEUE_NAME, ahead)
    worker = cluster.worker()
    cluster.forget_counts()
    operations: dict[str, Callable[[], object]] = {
        "post": lambda: worker.post("a"),
        "patch": lambda: worker.queues.patch(QUEUE_NAME, patch(n=1)),
        "put": lambda: worker.queues.create(QUEUE_NAME, b""),
        "claim": lambda: worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now(),
    }
    operations[operation]()
    # The patch itself is a write too.
    assert cluster.rows.calls["queue_records.replace"] == (2 if operation == "patch" else 1)
    assert sum(cluster.rows.calls.values()) + sum(cluster.fences.calls.values()) <= 8
    caught_up = cluster.row()
    assert caught_up is not None
    assert caught_up.generation == ahead.generation + 1
    cluster.forget_counts()
    remembers.post("b")
    assert cluster.rows.calls["queue_records.get"] == 1


def test_one_of_several_workers_writes_a_row_that_overtakes_the_fence(cluster: Cluster) -> None:
    cluster.worker().queues.create(QUEUE_NAME, b'{"n":0}')
    row = cluster.row()
    assert row is not None
    cluster.store.queues.open(queue=replace(row, generation=1000), now=cluster.clock())
    one, two = cluster.worker(), cluster.worker()
    cluster.rows.before("queue_records.replace", lambda: two.post("two"))
    one.post("one")
    assert cluster.rows.all_sprung
    assert one.bodies() == two.bodies() == ["two", "one"]
    caught_up = cluster.row()
    assert caught_up is not None
    assert caught_up.generation == 1001


def test_a_fence_that_the_message_store_lost_is_raised_again(cluster: Cluster) -> None:
    worker = cluster.worker()
    worker.post("a")
    cluster.store.data.queues.clear()
    assert worker.bodies() == []
    worker.post("b")
    assert worker.bodies() == ["b"]


def test_a_post_to_a_queue_that_keeps_changing_ends_in_503(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.post("a")
    cluster.fences.before("messages.post", *[lambda: two.queues.patch(QUEUE_NAME, patch(n=1))] * 100)
    with pytest.raises(StoreUnavailable):
        one.post("b")
    assert two.bodies() == ["a"]


def test_a_put_of_a_queue_that_keeps_changing_ends_in_503(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    cluster.rows.after("queue_records.create", *[lambda: two.queues.delete(QUEUE_NAME)] * 100)
    with pytest.raises(StoreUnavailable):
        one.queues.create(QUEUE_NAME, b"")
    with pytest.raises(StoreUnavailable):
        one.queues.ensure(QUEUE_NAME)
    assert cluster.row() is None


def test_a_patch_of_a_queue_that_keeps_changing_ends_in_503(cluster: Cluster) -> None:
    one = cluster.worker()
    one.queues.create(QUEUE_NAME, b'{"n":0}')

    def change() -> None:
        row = cluster.row()
        assert row is not None
        later = replace(row, generation=row.generation + 1)
        cluster.management.queue_records._records[QUEUE_NAME.project, QUEUE_NAME.kind, QUEUE_NAME.name] = later

    cluster.rows.before("queue_records.replace", *[change] * 100)
    with pytest.raises(StoreUnavailable):
        one.queues.patch(QUEUE_NAME, patch(n=1))
    assert one.queues.get(QUEUE_NAME)["n"] == 0


def test_a_post_succeeds_after_fewer_changes_than_tries(cluster: Cluster) -> None:
    one, two = cluster.worker(), cluster.worker()
    one.post("a")
    cluster.fences.before("messages.post", *[lambda: two.queues.patch(QUEUE_NAME, patch(n=1))] * 10)
    one.post("b")
    assert two.bodies() == ["a", "b"]


@pytest.mark.parametrize("point", ["queue_records.get", "queue_records.create", "queues.open", "messages.post"])
def test_operations_succeed_after_a_short_outage(cluster: Cluster, point: str) -> None:
    worker = cluster.worker()
    wires = cluster.fences if point in ("queues.open", "messages.post") else cluster.rows
    wires.before(point, store_does_not_answer)
    with pytest.raises(StoreUnavailable):
        worker.post("a")
    worker.post("b")
    assert worker.bodies() == ["b"]


def subscribe(cluster: Cluster, worker: Worker, queue_name: QueueName = QUEUE_NAME) -> None:
    row = worker.queues.ensure_row(queue_name)
    now = cluster.clock()
    cluster.management.subscriptions.create(
        subscription=Subscription(
            id="s",
            queue_uid=row.uid,
            project=queue_name.project,
            kind=queue_name.kind,
            source=queue_name.name,
            subscriber="mailto:a@example.org",
            ttl=3600,
            created=now,
            expires=now + 3600,
        ),
        now=now,
    )
    assert worker.queues.mark_subscribed(queue_name, row.uid, must_change=True)


def subscriptions(cluster: Cluster, queue_name: QueueName = QUEUE_NAME) -> tuple[list[str], bool]:
    """Return the ids of the subscriptions of the queue, and ``notify`` of its row."""
    row = cluster.row(queue_name)
    assert row is not None
    listed = cluster.management.subscriptions.list_after(queue_uid=row.uid, after="", limit=9, now=cluster.clock())
    return [subscription.id for subscription in listed], row.notify


@pytest.mark.parametrize(
    ("types", "bodies", "left"),
    [
        (["subscriptions"], ["a", "b"], ([], False)),
        (["messages"], [], (["s"], True)),
        (["messages", "subscriptions"], [], ([], False)),
        (["subscriptions", "messages"], [], ([], False)),
        ([], ["a", "b"], (["s"], True)),
        (None, [], ([], False)),
    ],
)
def test_a_purge_removes_what_it_names_and_leaves_the_rest(
    cluster: Cluster, types: list[str] | None, bodies: list[str], left: tuple[list[str], bool]
) -> None:
    worker, other = cluster.worker(), cluster.worker()
    beside = QUEUE_NAME._replace(name="beside")
    for queue_name in (QUEUE_NAME, beside):
        worker.post("a", queue_name=queue_name)
        subscribe(cluster, worker, queue_name)
        worker.post("b", queue_name=queue_name)
    worker.queues.purge(QUEUE_NAME, b"" if types is None else json.dumps({"resource_types": types}).encode())
    assert worker.bodies() == other.bodies() == bodies
    assert subscriptions(cluster) == left
    # Later posts are in the queue, and are noted for the remaining subscribers.
    assert worker.post("c")
    assert other.bodies() == [*bodies, "c"]
    assert worker.bodies(beside) == ["a", "b"]
    assert subscriptions(cluster, beside) == (["s"], True)


def test_a_purge_of_subscriptions_alone_does_not_ask_for_messages(cluster: Cluster) -> None:
    worker = cluster.worker()
    worker.post("a")
    cluster.forget_counts()
    worker.queues.purge(QUEUE_NAME, b'{"resource_types":["subscriptions"]}')
    assert not cluster.fences.calls


# -- listings --------------------------------------------------------------------------------------------------------


def listing(worker: Worker, **changes: Any) -> tuple[list[str], int | None]:
    page = page_of(worker, **changes)
    return page.names, page.count


def page_of(worker: Worker, **changes: Any) -> QueuePage:
    wanted = {"project": "shop", "kind": "queue", "after": "", "limit": 10, "keep": None, "with_count": True, **changes}
    return worker.queues.list_page(**wanted)


def fill(cluster: Cluster, total: int, *, kind: str = "queue", project: str = "shop") -> None:
    """Create ``total`` queues with large metadata. The last three have ``late`` in their names and metadata."""
    for number in range(total):
        late = number >= total - 3
        name = f"q{number:05}" + ("late" if late else "")
        metadata = {"late": late, "big": "x" * 1000}
        cluster.management.queue_records.create(queue=Queue(secrets.token_hex(12), project, name, kind, metadata))
    cluster.forget_counts()


FILTERS = {"by name": ("late$", {}), "by metadata": (None, {"late": "true"}), "by both": ("^q", {"late": "true"})}


@pytest.fixture(params=FILTERS.values(), ids=FILTERS)
def late(request: pytest.FixtureRequest) -> QueueFilter:
    """A filter that keeps the last three queues."""
    keep = make_filter(*request.param)
    assert keep is not None
    return keep


@pytest.mark.parametrize("kind", ["queue", TOPIC])
def test_filters_and_counts_look_at_all_queues(cluster: Cluster, late: QueueFilter, kind: str) -> None:
    """There are more queues than one read returns, and the last ones match."""
    worker = cluster.worker()
    total = (2 * queue_listing._ROWS_AT_A_TIME if late.needs_metadata else queue_listing._NAMES_AT_A_TIME) + 3
    fill(cluster, total, kind=kind)
    fill(cluster, 5, kind="queue" if kind == TOPIC else TOPIC)
    fill(cluster, 5, project="other", kind=kind)

    names = [f"q{total - left:05}late" for left in (3, 2, 1)]
    shown = functools.partial(listing, worker, kind=kind)
    assert shown(keep=late) == (names, 3)
    assert shown(keep=late, limit=2) == (names[:2], 3)
    assert shown(keep=late, after=names[0], limit=1) == (names[1:2], 3)
    assert shown(keep=late, after=names[2]) == ([], 3)
    assert shown(keep=make_filter("none", {})) == ([], 0)
    none_late = make_filter(None, {"late": "none"})
    assert shown(keep=none_late, kind="queue" if kind == TOPIC else TOPIC) == ([], 0)
    assert shown(keep=late, with_count=False) == (names, None)
    assert shown(limit=1) == (["q00000"], total)
    assert shown(limit=1, with_count=False) == (["q00000"], None)
    for with_count in (False, True):
        detailed = page_of(worker, kind=kind, keep=late, detailed=True, with_count=with_count)
        assert detailed.names == [queue.name for queue in detailed.queues] == names
        assert all(queue.metadata["late"] for queue in detailed.queues)


def test_a_listing_reads_rows_only_if_it_needs_metadata(cluster: Cluster) -> None:
    worker = cluster.worker()
    fill(cluster, 40)
    by_name = make_filter("[13579]$", {})
    for wanted in ({}, {"keep": by_name}, {"keep": by_name, "after": "q00020"}, {"keep": by_name, "limit": 3}):
        cluster.forget_counts()
        page = page_of(worker, with_count=False, **wanted)
        assert len(page.names) > 0
        assert page.queues == []
        assert dict(cluster.rows.calls) == {"queue_records.list_names": 1}
        # A count reads the names once more at most.
        cluster.forget_counts()
        assert page_of(worker, with_count=True, **wanted).count == (18 if "keep" in wanted else 40)
        assert set(cluster.rows.calls) <= {"queue_records.list_names", "queue_records.count"}
        assert cluster.rows.calls["queue_records.list_names"] == 1
    cluster.forget_counts()
    assert len(page_of(worker, detailed=True, with_count=False, limit=3).queues) == 3
    assert dict(cluster.rows.calls) == {"queue_records.list_after": 1}
    # Names are matched first, so only the rows of the page are read.
    cluster.forget_counts()
    assert len(page_of(worker, detailed=True, with_count=True, limit=3, keep=by_name).queues) == 3
    assert dict(cluster.rows.calls) == {"queue_records.list_names": 1, "queue_records.get": 3}


def test_a_page_leaves_out_a_queue_that_is_deleted_meanwhile(cluster: Cluster) -> None:
    worker = cluster.worker()
    fill(cluster, 4)
    first = QueueName("shop", "queue", "q00001late")
    cluster.rows.after("queue_records.list_names", lambda: cluster.worker().queues.delete(first))
    page = page_of(worker, detailed=True, keep=make_filter("late", {}))
    assert page.names == [queue.name for queue in page.queues] == ["q00002late", "q00003late"]


@pytest.mark.parametrize("with_count", [False, True])
def test_one_request_looks_at_a_bounded_number_of_queues(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, late: QueueFilter, with_count: bool
) -> None:
    """A page may be short or empty then. A client that follows all pages gets each match once."""
    monkeypatch.setattr(queue_listing, "MOST_NAMES", 60)
    monkeypatch.setattr(queue_listing, "MOST_ROWS", 60)
    monkeypatch.setattr(queue_listing, "_NAMES_AT_A_TIME", 20)
    monkeypatch.setattr(queue_listing, "_ROWS_AT_A_TIME", 20)
    worker = cluster.worker()
    fill(cluster, 200)
    names: list[str] = []
    after: str | None = ""
    pages = 0
    while after is not None:
        cluster.forget_counts()
        page = page_of(worker, keep=late, after=after, limit=2, with_count=with_count)
        pages += 1
        assert len(page.names) <= 2
        assert page.count is None, "more queues than one request looks at"
        # A count starts again at the first queue, and stops after the same number.
        assert sum(cluster.rows.calls.values()) <= (6 if with_count else 3)
        assert page.following is None or page.following > after
        names += page.names
        after = page.following
    assert names == ["q00197late", "q00198late", "q00199late"]
    assert pages <= 6


def test_the_whole_request_reads_few_rows_of_many(cluster: Cluster, late: QueueFilter) -> None:
    """With the default bounds."""
    read: list[int] = []
    worker = cluster.worker()
    fill(cluster, 700)
    list_queues = cluster.management.queue_records.list_after

    def counted(**arguments: Any) -> list[Queue]:
        rows: list[Queue] = list_queues(**arguments)
        read.append(len(rows))
        return rows

    cluster.management.queue_records.list_after = counted
    page = page_of(worker, keep=late, with_count=True)
    if late.needs_metadata:
        assert sum(read) == 2 * queue_listing.MOST_ROWS
        assert (page.names, page.count) == ([], None)
        assert page.following == f"q{queue_listing.MOST_ROWS - 1:05}"
        assert len(page_of(worker, keep=late, after=page.following, with_count=False).names) == 3
    else:
        assert sum(read) == 0
        assert page.count == 3


HOSTILE = "(.{0,60}){0,10}~"
"""An expression that takes long for each name and matches none."""


class SlowMatching:
    """A clock that advances by a millisecond for each matched name, so that the test does not depend on the machine."""

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        self._now = 0.0
        self.sleep = sleep

    def monotonic(self) -> float:
        self._now += 0.001
        return self._now


def make_queues(cluster: Cluster, many: int) -> None:
    for number in range(many):
        name = f"{'ab' * 28}{number:05}"
        cluster.management.queue_records.create(queue=Queue(secrets.token_hex(12), "shop", name))


def test_an_expression_that_takes_long_ends_the_page_early(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_listing, "WALK_SECONDS", 0.05)
    monkeypatch.setattr(queue_listing, "time", SlowMatching())
    worker = cluster.worker()
    make_queues(cluster, 400)
    keep = make_filter(HOSTILE, {})
    after: str | None = ""
    pages = 0
    while after is not None:
        page = page_of(worker, keep=keep, with_count=False, after=after)
        assert page.names == []
        assert page.following is None or page.following > after
        after = page.following
        pages += 1
    assert pages > 3
    assert page_of(worker, keep=keep, with_count=True).count is None


def test_an_expression_that_takes_long_leaves_turns_to_other_requests(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a gevent worker, also if the store never blocks."""
    gevent = pytest.importorskip("gevent")
    monkeypatch.setattr(queue_listing, "WALK_SECONDS", 0.3)
    monkeypatch.setattr(queue_listing, "time", SlowMatching(gevent.sleep))
    worker = cluster.worker()
    make_queues(cluster, 1000)
    listing = gevent.spawn(page_of, worker, keep=make_filter(HOSTILE, {}), with_count=False)
    turns = 0
    while not listing.dead:
        gevent.sleep(0)
        turns += 1
    assert listing.value.following is not None
    assert turns > 10


def test_a_page_reads_no_more_than_it_needs(cluster: Cluster, late: QueueFilter) -> None:
    worker = cluster.worker()
    fill(cluster, 300)
    listing(worker, keep=make_filter("q", {}), with_count=False, limit=20)
    assert dict(cluster.rows.calls) == {"queue_records.list_names": 1}
    cluster.forget_counts()
    listing(worker, keep=make_filter(None, {"late": "false"}), with_count=False, limit=20)
    assert dict(cluster.rows.calls) == {"queue_records.list_after": 1}
