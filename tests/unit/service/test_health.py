# SPDX-License-Identifier: Apache-2.0
"""Health: what is reported of stores that answer, are away, or come and go while they are looked at."""

from __future__ import annotations

import logging

import pytest

from tests.unit.workers import ADDRESS, Cluster
from zaqar.errors import StoreUnavailable
from zaqar.service.health import Health
from zaqar.storage.placement import Placement

OPERATIONS = {
    "create_queue": "open_queue",
    "post_messages": "post",
    "list_messages": "list_messages",
    "claim_messages": "claim",
    "delete_claim": "release_claim",
    "delete_messages": "delete_message",
    "bulk_delete_messages": "delete_messages",
    "delete_queue": "drop_queue",
}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def health(cluster: Cluster) -> Health:
    return Health(management=cluster.management, placement=Placement(cluster.store), clock=cluster.clock)


def away() -> None:
    raise StoreUnavailable


def failed(report: dict[str, dict[str, dict[str, object]]]) -> set[str]:
    return {name for name, status in report["operation_status"].items() if not status["succeeded"]}


def test_all_is_well(cluster: Cluster, health: Health) -> None:
    worker = cluster.worker()
    worker.post("a", "b", "c")
    worker.claims.create(ADDRESS, b"", limit=1)
    report = health.report()
    assert report["storage_reachable"] is report["catalog_reachable"] is True
    assert set(report["operation_status"]) == set(OPERATIONS)
    assert failed(report) == set()
    for status in report["operation_status"].values():
        assert status["seconds"] >= 0
        assert status["ref"] is None
    assert report["message_volume"] == {"free": 2, "claimed": 1, "total": 3}
    (store,) = report["message_stores"]
    assert store == {"name": None, "reachable": True, "durability": dict(cluster.store.durability())}


def test_it_leaves_no_trace(cluster: Cluster, health: Health) -> None:
    cluster.worker().post("a")
    before = cluster.shelves()
    for _ in range(3):
        health.report()
    assert cluster.shelves() == before
    assert cluster.store._tombstones == {}
    assert cluster.management.count_queues(project="", kind="queue") == 0


@pytest.mark.parametrize(("name", "method"), OPERATIONS.items())
def test_an_operation_fails_once(
    cluster: Cluster, health: Health, caplog: pytest.LogCaptureFixture, name: str, method: str
) -> None:
    """Those after it are not tried, but for the one that leaves no trace; there is a report all the same."""
    cluster.fences.before(method, away)
    with caplog.at_level(logging.ERROR):
        report = health.report()
    if name != "delete_queue":
        assert cluster.shelves() == set()
    assert name in failed(report)
    reference = report["operation_status"][name]["ref"]
    assert any(reference in record.getMessage() for record in caplog.records)
    assert report["storage_reachable"] is False
    tried = list(OPERATIONS)[: list(OPERATIONS).index(name)]
    assert failed(report).isdisjoint(tried)
    assert failed(health.report()) == set()


def test_a_message_store_that_is_away(cluster: Cluster, health: Health) -> None:
    cluster.worker().post("a")
    for method in (*OPERATIONS.values(), "ping"):
        cluster.fences.before(method, away)
    before = sum(cluster.fences.calls.values())
    report = health.report()
    assert failed(report) == set(OPERATIONS)
    assert report["storage_reachable"] is False
    assert report["catalog_reachable"] is True
    assert report["message_volume"] == {"free": 0, "claimed": 0, "total": 0}
    assert report["message_stores"] == [{"name": None, "reachable": False, "durability": None}]
    assert len({status["ref"] for status in report["operation_status"].values()}) == 1
    # It is waited for once.
    assert sum(cluster.fences.calls.values()) == before + 1


def test_a_management_store_that_is_away(cluster: Cluster, health: Health) -> None:
    cluster.rows.before("ping", away)
    report = health.report()
    assert report["catalog_reachable"] is False
    assert report["storage_reachable"] is True
    assert failed(report) == set()


@pytest.mark.parametrize("which", ["rows", "fences"])
def test_ping_asks_every_store(cluster: Cluster, health: Health, which: str) -> None:
    health.ping()
    assert cluster.rows.calls["ping"] == cluster.fences.calls["ping"] == 1
    getattr(cluster, which).before("ping", away)
    with pytest.raises(StoreUnavailable):
        health.ping()
    health.ping()


def test_an_error_that_nobody_expected_is_not_hidden(cluster: Cluster, health: Health) -> None:
    def fault() -> None:
        raise ZeroDivisionError

    cluster.fences.before("post", fault)
    with pytest.raises(ZeroDivisionError):
        health.report()
