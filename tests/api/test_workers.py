# SPDX-License-Identifier: Apache-2.0
"""Several workers, each with a cache of its own, over one store: no worker acts on a stale copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.api.client import Api
from tests.api.marks import on_every_store
from tests.api.test_common import assert_error
from tests.conformance.drivers import Driver
from zaqar.model import QUEUE

pytestmark = on_every_store


@pytest.fixture
def workers(driver: Driver, make_api: Callable[..., Api]) -> tuple[Api, Api]:
    one, two = make_api(), make_api()
    if not driver.shared:
        # Workers share the same object of a store that cannot be opened twice.
        two.parts.queues._management = one.parts.management
        two.parts.queues._placement = two.parts.queues._cache._placement = one.parts.placement
    two.project = one.project
    return one, two


def test_after_a_patch_no_worker_uses_old_metadata(workers: tuple[Api, Api]) -> None:
    one, two = workers
    one.put("/v2/queues/q", {"_default_message_ttl": 100})
    for worker in workers:
        worker.post("/v2/queues/q/messages", {"messages": [{"body": 1}]})
    two.patch_queue("q", {"op": "replace", "path": "/metadata/_default_message_ttl", "value": 200})
    (href,) = one.post("/v2/queues/q/messages", {"messages": [{"body": 2}]}).json["resources"]
    assert one.get(href).json["ttl"] == 200


def test_no_worker_refuses_a_request_because_of_old_metadata(workers: tuple[Api, Api]) -> None:
    one, two = workers
    one.put("/v2/queues/q", {"_max_messages_post_size": 30})
    post = {"messages": [{"body": "x" * 100}]}
    assert_error(one.post("/v2/queues/q/messages", post), 400)
    two.patch_queue("q", {"op": "remove", "path": "/metadata/_max_messages_post_size"})
    assert one.post("/v2/queues/q/messages", post).status_code == 201


def test_a_worker_notices_that_a_queue_was_deleted_and_created_again(workers: tuple[Api, Api]) -> None:
    one, two = workers
    one.send("q", "old")
    assert two.bodies("q") == ["old"]
    two.delete("/v2/queues/q")
    assert one.bodies("q") == []
    assert one.claim("q") == ("", [])
    assert one.counts("q") == (0, 0, 0)
    one.send("q", "new")
    assert two.bodies("q") == one.bodies("q") == ["new"]


def test_the_next_request_finishes_an_interrupted_delete(workers: tuple[Api, Api]) -> None:
    one, two = workers
    one.send("q", "old")
    row = one.parts.management.queue_records.get(project=one.project, kind=QUEUE, name="q")
    assert row is not None
    # The state after a worker is killed in the middle of a delete.
    next(one.parts.stores()).queues.drop(queue=row, now=one.clock())
    assert two.bodies("q") == []
    assert two.get("/v2/queues").json["queues"] == []
    assert two.put("/v2/queues/q").status_code == 201
    one.send("q", "new")
    assert two.bodies("q") == ["new"]


def test_a_put_finishes_an_interrupted_delete_and_creates_the_queue(workers: tuple[Api, Api]) -> None:
    one, two = workers
    one.put("/v2/queues/q", {"old": 1})
    row = one.parts.management.queue_records.get(project=one.project, kind=QUEUE, name="q")
    assert row is not None
    next(one.parts.stores()).queues.drop(queue=row, now=one.clock())
    assert two.put("/v2/queues/q", {"new": 1}).status_code == 201
    assert one.get("/v2/queues/q").json["new"] == 1


def test_an_interrupted_change_of_metadata_reaches_the_fence_later(workers: tuple[Api, Api]) -> None:
    one, two = workers
    one.put("/v2/queues/q", {"_default_message_ttl": 100})
    one.send("q", 1)
    row = one.parts.management.queue_records.get(project=one.project, kind=QUEUE, name="q")
    assert row is not None
    changed = replace(row, metadata={"_default_message_ttl": 200}, generation=row.generation + 1)
    # The state after a worker is killed between the change of the row and that of the fence.
    assert one.parts.management.queue_records.replace(queue=changed)
    for worker in (two, one):
        (href,) = worker.post("/v2/queues/q/messages", {"messages": [{"body": 2}]}).json["resources"]
        assert worker.get(href).json["ttl"] == 200


def test_a_management_store_restored_from_a_backup_overtakes_the_fence(workers: tuple[Api, Api]) -> None:
    one, two = workers
    one.put("/v2/queues/q")
    row = one.parts.management.queue_records.get(project=one.project, kind=QUEUE, name="q")
    assert row is not None
    next(one.parts.stores()).queues.open(queue=replace(row, generation=row.generation + 40), now=one.clock())
    two.send("q", 1)
    one.send("q", 2)
    assert one.bodies("q") == [1, 2]


def test_a_worker_notices_that_a_dead_letter_queue_was_created_again(workers: tuple[Api, Api]) -> None:
    one, two = workers
    one.put("/v2/queues/q", {"_max_claim_count": 1, "_dead_letter_queue": "dead"})
    one.send("q", "a", "b")
    claim_id, _ = one.claim("q", limit=2)
    one.delete(f"/v2/queues/q/claims/{claim_id}")
    two.delete("/v2/queues/dead")
    two.put("/v2/queues/dead", {"mine": 1})
    assert one.claim("q") == ("", [])
    assert two.bodies("dead") == ["a", "b"]
    assert two.get("/v2/queues/dead").json["mine"] == 1
