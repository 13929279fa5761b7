# SPDX-License-Identifier: Apache-2.0
"""The health report on stores that answer, that do not answer, and that fail during the report."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from tests.unit.workers import QUEUE_NAME, Cluster, PooledCluster
from zaqar.errors import KeystoneUnavailable, StoreUnavailable
from zaqar.service.health import Health
from zaqar.storage.pools import Placement

OPERATIONS = {
    "create_queue": "queues.open",
    "post_messages": "messages.post",
    "list_messages": "messages.list_after",
    "claim_messages": "claims.claim",
    "delete_claim": "claims.release",
    "delete_messages": "messages.delete",
    "bulk_delete_messages": "messages.delete_many",
    "delete_queue": "queues.drop",
}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def health(cluster: Cluster) -> Health:
    return Health(management=cluster.management, placement=Placement(cluster.store), clock=cluster.clock)


def store_does_not_answer() -> None:
    raise StoreUnavailable


def failed(report: dict[str, dict[str, dict[str, object]]]) -> set[str]:
    return {name for name, status in report["operation_status"].items() if not status["succeeded"]}


def test_a_store_that_answers_but_refuses_writes_is_shown_as_not_writable(
    cluster: Cluster, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.store.messages, "post", lambda **_: store_does_not_answer())
    monkeypatch.setattr(cluster.management.queue_records, "create", lambda **_: store_does_not_answer())
    report = health.report()
    assert (report["catalog_reachable"], report["catalog_writable"]) == (True, False)
    (store,) = report["message_stores"]
    assert store["writable"] is False


def test_a_report_leaves_nothing_in_the_management_store(cluster: Cluster, health: Health) -> None:
    for _ in range(2):
        health.report()
    assert cluster.management.queue_records.list_names(project="", kind="queue", after="", limit=10) == []


def test_if_all_stores_answer_the_report_has_no_failures(cluster: Cluster, health: Health) -> None:
    worker = cluster.worker()
    worker.post("a", "b", "c")
    worker.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now()
    report = health.report()
    assert report["storage_reachable"] is report["catalog_reachable"] is True
    assert set(report["operation_status"]) == set(OPERATIONS)
    assert failed(report) == set()
    for status in report["operation_status"].values():
        assert status["seconds"] >= 0
        assert status["ref"] is None
    assert report["message_volume"] == {"free": 2, "claimed": 1, "total": 3}
    assert report["catalog_writable"] is True
    (store,) = report["message_stores"]
    durability = dict(cluster.store.durability())
    assert store == {"name": None, "reachable": True, "writable": True, "durability": durability, "failed": []}
    assert report["failed"] == []


def test_the_report_leaves_no_queue_in_the_stores(cluster: Cluster, health: Health) -> None:
    cluster.worker().post("a")
    before = cluster.shelves()
    for _ in range(3):
        health.report()
    assert cluster.shelves() == before
    assert cluster.store.data.tombstones == {}
    assert cluster.management.queue_records.count(project="", kind="queue") == 0


@pytest.mark.parametrize(("name", "method"), OPERATIONS.items())
def test_after_a_failed_operation_the_next_ones_are_not_tried(
    cluster: Cluster, health: Health, caplog: pytest.LogCaptureFixture, name: str, method: str
) -> None:
    """Only the deletion of the queue is still tried. The report is complete."""
    cluster.fences.before(method, store_does_not_answer)
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


def test_the_report_of_a_message_store_that_does_not_answer(cluster: Cluster, health: Health) -> None:
    cluster.worker().post("a")
    for method in (*OPERATIONS.values(), "ping", "volume", "durability"):
        cluster.fences.before(method, store_does_not_answer)
    before = sum(cluster.fences.calls.values())
    report = health.report()
    assert failed(report) == set(OPERATIONS)
    assert report["storage_reachable"] is False
    assert report["catalog_reachable"] is True
    assert report["message_volume"] == {"free": 0, "claimed": 0, "total": 0}
    parts = [*OPERATIONS, "message_volume", "durability"]
    assert report["message_stores"] == [
        {"name": None, "reachable": False, "writable": False, "durability": None, "failed": parts}
    ]
    assert report["failed"] == ["operation_status", "message_volume", "durability"]
    assert len({status["ref"] for status in report["operation_status"].values()}) == 1
    # Two calls, in parallel: the first operation, and the durability.
    assert sum(cluster.fences.calls.values()) == before + 2


def test_the_report_of_a_management_store_that_does_not_answer(cluster: Cluster, health: Health) -> None:
    cluster.rows.before("ping", store_does_not_answer)
    report = health.report()
    assert report["catalog_reachable"] is False
    assert report["storage_reachable"] is True
    assert report["failed"] == ["catalog"]
    assert failed(report) == set()


PARTS = {"volume": "message_volume", "durability": "durability"}


@pytest.mark.parametrize(("method", "part"), PARTS.items())
@pytest.mark.parametrize("how", ["unavailable", "silent"])
def test_a_failed_part_is_named_and_the_other_parts_are_reported(
    cluster: Cluster,
    health: Health,
    monkeypatch: pytest.MonkeyPatch,
    silence: threading.Event,
    method: str,
    part: str,
    how: str,
) -> None:
    cluster.worker().post("a", "b")
    whole = health.report()
    monkeypatch.setattr("zaqar.service.health.REPORT_SECONDS", 0.25)
    cluster.fences.before(method, store_does_not_answer if how == "unavailable" else silence.wait)
    report = health.report()
    assert report["failed"] == [part]
    (store,) = report["message_stores"]
    assert (store["reachable"], store["failed"]) == (True, [part])
    assert report["storage_reachable"] is report["catalog_reachable"] is True
    assert failed(report) == set()
    if part == "message_volume":
        assert report["message_volume"] == {"free": 0, "claimed": 0, "total": 0}
        assert store["durability"] == whole["message_stores"][0]["durability"]
    else:
        assert store["durability"] is None
        assert report["message_volume"] == whole["message_volume"]
    assert report.keys() == whole.keys()


@pytest.fixture
def silence() -> Iterator[threading.Event]:
    """An event that blocks its waiters until the test ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize(("name", "method"), OPERATIONS.items())
def test_an_operation_that_never_answers_is_named(
    cluster: Cluster,
    health: Health,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    silence: threading.Event,
    name: str,
    method: str,
) -> None:
    """Earlier results are in the report, which does not wait. The queue is deleted after the store answers again."""
    monkeypatch.setattr("zaqar.service.health.REPORT_SECONDS", 0.25)
    cluster.fences.before(method, silence.wait)
    began = time.monotonic()
    with caplog.at_level(logging.ERROR):
        report = health.report()
    assert 0.25 <= time.monotonic() - began < 5
    position = list(OPERATIONS).index(name)
    assert failed(report) == set(list(OPERATIONS)[position:])
    assert report["operation_status"][name]["seconds"] >= 0.25
    assert report["failed"] == ["operation_status", "message_volume"]
    assert report["message_stores"][0]["durability"]
    assert report["operation_status"][name]["ref"] in caplog.text
    silence.set()
    end = time.monotonic() + 10
    while (cluster.shelves() or cluster.fences.calls["queues.drop"] == 0) and time.monotonic() < end:
        time.sleep(0.01)
    assert cluster.shelves() == set()
    # The operations after it were not tried.
    assert all(cluster.fences.calls[each] == 0 for each in list(OPERATIONS.values())[position + 1 : -1])


@pytest.mark.parametrize("method", ["ping", "catalog.get"])
def test_the_report_is_complete_if_the_management_store_never_answers(
    monkeypatch: pytest.MonkeyPatch, silence: threading.Event, method: str
) -> None:
    """With pools the management store also has the list of the stores."""
    monkeypatch.setattr("zaqar.service.health.REPORT_SECONDS", 0.6)
    monkeypatch.setattr("zaqar.service.health._LISTING_SECONDS", 0.3)
    cluster = PooledCluster("one", "two")
    health = Health(management=cluster.management, placement=cluster.placement(), clock=cluster.clock)
    cluster.rows.before(method, silence.wait)
    report = health.report()
    if method == "ping":
        assert report["failed"] == ["catalog"]
        assert report["catalog_reachable"] is False
        assert [store["reachable"] for store in report["message_stores"]] == [True, True]
    else:
        assert report["failed"] == ["message_stores"]
        assert report["catalog_reachable"] is True
        assert report["message_stores"] == []


@pytest.mark.parametrize("silent", [["one"], ["one", "two", "three"]])
def test_pools_that_never_answer_do_not_delay_the_results_of_others(
    monkeypatch: pytest.MonkeyPatch, silence: threading.Event, silent: list[str]
) -> None:
    monkeypatch.setattr("zaqar.service.health.REPORT_SECONDS", 0.25)
    cluster = PooledCluster("one", "two", "three", "four")
    health = Health(management=cluster.management, placement=cluster.placement(), clock=cluster.clock)
    for pool in silent:
        for method in ("queues.open", "durability"):
            cluster.wires[pool].before(method, silence.wait)
    began = time.monotonic()
    report = health.report()
    assert time.monotonic() - began < 5
    stores = {store["name"]: store for store in report["message_stores"]}
    assert {name for name, store in stores.items() if not store["reachable"]} == set(silent)
    for name, store in stores.items():
        assert (store["failed"] == []) is (name not in silent)
        assert (store["durability"] is None) is (name in silent)
    assert report["storage_reachable"] is False


@pytest.mark.parametrize("which", ["rows", "fences"])
def test_ping_fails_if_a_store_does_not_answer(cluster: Cluster, health: Health, which: str) -> None:
    health.ping()
    assert cluster.rows.calls["ping"] == cluster.fences.calls["ping"] == 1
    getattr(cluster, which).before("ping", store_does_not_answer)
    with pytest.raises(StoreUnavailable):
        health.ping()
    health.ping()


def test_an_unexpected_exception_is_raised(cluster: Cluster, health: Health) -> None:
    def fault() -> None:
        raise ZeroDivisionError

    cluster.fences.before("messages.post", fault)
    with pytest.raises(ZeroDivisionError):
        health.report()


# -- Keystone ----------------------------------------------------------------------------------------------------------


class Account:
    """A Keystone with a fixed answer about the service user."""

    def __init__(self, problem: str | StoreUnavailable | None = None) -> None:
        self.problem = problem
        self.may_answer = threading.Event()
        self.may_answer.set()

    def check(self) -> str | None:
        self.may_answer.wait(30)
        if isinstance(self.problem, StoreUnavailable):
            raise self.problem
        return self.problem


def health_with(cluster: Cluster, account: Account) -> Health:
    placement = Placement(cluster.store)
    return Health(management=cluster.management, placement=placement, clock=cluster.clock, keystone=account)


@pytest.mark.parametrize(
    ("problem", "reachable", "accepted"),
    [(None, True, True), ("It is locked.", True, False), (KeystoneUnavailable(), False, None)],
)
def test_the_report_has_the_answer_of_keystone(
    cluster: Cluster,
    caplog: pytest.LogCaptureFixture,
    problem: str | StoreUnavailable | None,
    reachable: bool,
    accepted: bool | None,
) -> None:
    report = health_with(cluster, Account(problem)).report()
    assert report["keystone"] == {"reachable": reachable, "service_user_accepted": accepted}
    assert report["failed"] == ([] if accepted else ["keystone"])
    assert report["storage_reachable"] is True
    assert ("It is locked." in caplog.text) == (problem == "It is locked.")


def test_without_keystone_the_report_does_not_mention_it(health: Health) -> None:
    assert "keystone" not in health.report()


def test_the_report_does_not_wait_for_a_keystone_that_never_answers(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zaqar.service.health.REPORT_SECONDS", 0.3)
    account = Account()
    account.may_answer.clear()
    try:
        report = health_with(cluster, account).report()
        assert report["keystone"] == {"reachable": False, "service_user_accepted": None}
        assert report["failed"] == ["keystone"]
    finally:
        account.may_answer.set()
