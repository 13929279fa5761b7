# SPDX-License-Identifier: Apache-2.0
"""The pages of the exporter: formats, sums over processes, numbers of stores, liveness."""

from __future__ import annotations

import gzip
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.clock import FakeClock
from zaqar.errors import StoreUnavailable
from zaqar.metrics import pages as pages_module
from zaqar.metrics.cells import Snapshot
from zaqar.metrics.collector import HostCollector
from zaqar.metrics.exporter import Answerer, Reply, Request
from zaqar.metrics.families import (
    BUILD_INFO,
    DELIVERIES_SETTLED,
    HTTP_DURATION,
    HTTP_REQUESTS,
    NOTIFIER_SLOTS,
    Families,
)
from zaqar.metrics.pages import Stores, make_pages
from zaqar.metrics.processes import WorkerNumbers, read_usage
from zaqar.metrics.recorder import Recorder
from zaqar.metrics.store_collectors import StoreCollector
from zaqar.model import Draft, Queue, Volume
from zaqar.storage.memory.management import MemoryManagementStore
from zaqar.storage.memory.store import MemoryMessageStore
from zaqar.storage.pools import Placement

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples_of(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def ask(page: Answerer, query: str = "", accept: str = "", encoding: str = "") -> Reply:
    return page(Request("/metrics", query, accept, encoding))


def read(page: Answerer, query: str = "") -> Samples:
    reply = ask(page, query)
    assert reply.status == 200, reply.body
    return samples_of(reply.body.decode())


def host_page(folder: Path, clock: Callable[[], float] = time.time) -> Answerer:
    return make_pages(folder, clock, None, shows_queues=True)["/metrics"]


def recorders(folder: Path) -> list[Recorder]:
    made = [Recorder(folder, "api"), Recorder(folder, "api"), Recorder(folder, "notifier")]
    for number, recorder in enumerate(made, 1):
        recorder.add(HTTP_REQUESTS, ("GET", "/", "300"), number)
        recorder.observe(HTTP_DURATION, ("GET", "/"), 0.002 * number)
        recorder.set(NOTIFIER_SLOTS, (), 10)
    return made


def test_numbers_of_all_processes_are_added(tmp_path: Path) -> None:
    made = recorders(tmp_path)
    found = read(host_page(tmp_path))
    assert found["zaqar_http_requests_total", (("code", "300"), ("method", "GET"), ("route", "/"))] == 6
    assert found["zaqar_notifier_slots", ()] == 30
    name, labels = "zaqar_http_request_duration_seconds", (("method", "GET"), ("route", "/"))
    assert found[f"{name}_count", labels] == 3
    assert found[f"{name}_sum", labels] == pytest.approx(0.012)
    buckets = {
        le: found[f"{name}_bucket", (("le", le), *labels)] for le in ("0.001", "0.0025", "0.005", "0.01", "+Inf")
    }
    assert buckets == {"0.001": 0, "0.0025": 1, "0.005": 2, "0.01": 3, "+Inf": 3}
    assert len(made) == 3


def test_counters_without_labels_and_known_outcomes_are_shown_before_they_are_counted(tmp_path: Path) -> None:
    """Prometheus does not take the first value of a series for an increase."""
    found = read(host_page(tmp_path))
    assert found["zaqar_messages_dead_lettered_total", ()] == 0
    assert found["zaqar_deliveries_settled_total", (("outcome", "dead"),)] == 0
    recorder = Recorder(tmp_path, "notifier")
    recorder.add(DELIVERIES_SETTLED, ("dead",))
    assert read(host_page(tmp_path))["zaqar_deliveries_settled_total", (("outcome", "dead"),)] == 1


def test_both_formats_and_gzip_are_those_of_the_library(tmp_path: Path) -> None:
    made = recorders(tmp_path)
    page = host_page(tmp_path)
    text = ask(page)
    assert text.content_type == "text/plain; version=0.0.4; charset=utf-8"
    openmetrics = ask(page, accept=OPENMETRICS)
    assert openmetrics.content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name for family in parse_openmetrics(openmetrics.body.decode())}
    assert families >= set(Families.by_name)
    packed = ask(page, encoding="gzip, deflate")
    assert packed.headers == (("Content-Encoding", "gzip"),)
    assert samples_of(gzip.decompress(packed.body).decode()).keys() == samples_of(text.body.decode()).keys()
    only = samples_of(ask(page, "name[]=zaqar_notifier_slots").body.decode())
    assert only == {("zaqar_notifier_slots", ()): 30}
    assert len(made) == 3


def test_the_version_is_shown_once_for_all_workers(tmp_path: Path) -> None:
    for _ in range(2):
        Recorder(tmp_path, "api").set(BUILD_INFO, ("1", "3.11", "gevent"), 1)
    made = [Recorder(tmp_path, "api") for _ in range(2)]
    for recorder in made:
        recorder.set(BUILD_INFO, ("2", "3.11", "gevent"), 1)
    labels = (("python", "3.11"), ("server", "gevent"), ("version", "2"))
    found = {key: value for key, value in read(host_page(tmp_path)).items() if key[0] == "zaqar_build_info"}
    assert found == {("zaqar_build_info", labels): 1}


def test_processes_are_shown_by_part_and_number(tmp_path: Path) -> None:
    made = recorders(tmp_path)
    found = read(host_page(tmp_path))
    # The recorders of a part are in one process here.
    for part in ("api", "notifier"):
        labels = (("part", part), ("worker", "0"))
        assert found["process_resident_memory_bytes", labels] > 1_000_000
        assert found["process_cpu_seconds_total", labels] > 0
        assert found["process_open_fds", labels] > 2
        assert 0 <= time.time() - found["process_start_time_seconds", labels] < 86400
        assert found["zaqar_process_restarts_total", (("part", part),)] == 0
    assert len(made) == 3


def snapshot(pid: int, *, part: str = "api", started: float | None = None) -> Snapshot:
    began = time.time() if started is None else started
    return Snapshot(f"{part}.{pid}.aa.cells", part, pid, began, began, 0.0, [])


def test_a_process_keeps_its_number_while_others_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = read_usage(os.getpid())
    assert usage is not None
    monkeypatch.setattr("zaqar.metrics.processes.read_usage", lambda pid: usage._replace(open_files=pid))
    numbers = WorkerNumbers()

    def assign(*pids: int) -> dict[int, int]:
        running = [snapshot(pid, started=time.time() + pid) for pid in pids]
        return {process.usage.open_files: process.worker for process in numbers.assign(running)}

    assert assign(11, 12, 13) == {11: 0, 12: 1, 13: 2}
    assert assign(12, 13) == {12: 1, 13: 2}
    assert assign(12, 13, 14, 15) == {12: 1, 13: 2, 14: 0, 15: 3}


def test_a_pid_of_another_process_is_left_out() -> None:
    """In a folder that containers share, the pid may be that of a process that began after the cells."""
    assert WorkerNumbers().assign([snapshot(os.getpid(), started=1000.0)]) == []
    assert WorkerNumbers().assign([snapshot(2**22 + 1)]) == []
    assert len(WorkerNumbers().assign([snapshot(os.getpid()), snapshot(os.getpid())])) == 1


@pytest.mark.parametrize(("part", "status"), [("notifier", 503), ("sweeper", 503), ("api", 200), ("websocket", 200)])
def test_livez_is_503_when_a_background_part_is_silent(tmp_path: Path, part: str, status: int) -> None:
    clock = FakeClock(time.time())
    page = make_pages(tmp_path, clock, None, shows_queues=False)["/livez"]
    assert ask(page) == Reply(200, b"ok\n")
    recorder = Recorder(tmp_path, part)
    recorder.beat()
    clock.advance(29)
    assert ask(page).status == 200
    clock.advance(10)
    reply = ask(page)
    assert reply.status == status
    if status == 503:
        assert reply.body.decode().startswith(f"The {part} (process {os.getpid()}) has not reported for 39 s.")
    recorder.close()
    assert ask(page).status == 200


class Silent:
    """A store that answers when it is told to."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked = 0

    def volume(self, *, now: float) -> Volume:
        self.asked += 1
        self.answer.wait(30)
        return Volume(free=7)


class Broken:
    def volume(self, *, now: float) -> Volume:
        raise StoreUnavailable


class Ref:
    name = None

    def __init__(self, store: Any) -> None:
        self.store = store


def store_page(
    stores: dict[str, Any], *, ping: Callable[[], object] = lambda: None, **options: Any
) -> Callable[[], Samples]:
    refs = {label: Ref(store) for label, store in stores.items()}
    clock = FakeClock(1000.0)
    collector = StoreCollector(
        management=("management", ping),
        stores=lambda: refs,
        clock=clock,
        answer_seconds=0.2,
        **options,  # type: ignore[arg-type, return-value]
    )
    return lambda: read(pages_module._page_of(collector))


def test_a_store_that_does_not_answer_is_down_and_has_no_numbers() -> None:
    silent = Silent()
    page = store_page({"good": MemoryMessageStore(), "silent": silent, "broken": Broken()}, cache_seconds=0.1)
    for _ in range(3):
        found = page()
        up = {labels[0][1]: value for (name, labels), value in found.items() if name == "zaqar_store_up"}
        assert up == {"management": 1, "good": 1, "silent": 0, "broken": 0}
        assert {dict(labels)["store"] for name, labels in found if name == "zaqar_messages"} == {"good"}
    # A store that hangs is not asked again, so threads do not pile up.
    assert silent.asked == 1
    silent.answer.set()
    found = page()
    assert found["zaqar_messages", (("state", "free"), ("store", "silent"))] == 7
    assert found["zaqar_store_up", (("store", "silent"),)] == 1


def test_a_management_store_that_is_away_is_down() -> None:
    def ping() -> None:
        raise StoreUnavailable

    assert store_page({}, ping=ping)() == {("zaqar_store_up", (("store", "management"),)): 0}


def test_an_answer_is_shown_again_for_some_seconds() -> None:
    silent = Silent()
    silent.answer.set()
    page = store_page({"one": silent}, cache_seconds=60.0)
    for _ in range(3):
        assert page()["zaqar_messages", (("state", "free"), ("store", "one"))] == 7
    assert silent.asked == 1


def test_ages_are_shown_unless_the_store_does_not_tell_them() -> None:
    class Fixed:
        def __init__(self, volume: Volume) -> None:
            self.found = volume

        def volume(self, *, now: float) -> Volume:
            return self.found

    found = store_page(
        {
            "old": Fixed(Volume(free=1, oldest=900.0, waiting=1, oldest_waiting=400.0)),
            "empty": Fixed(Volume()),
            "untold": Fixed(Volume(claimed=1, waiting=1)),
        }
    )()
    ages = {
        (name, dict(labels)["store"]): value for (name, labels), value in found.items() if name.endswith("_age_seconds")
    }
    assert ages == {
        ("zaqar_oldest_message_age_seconds", "old"): 100,
        ("zaqar_oldest_waiting_delivery_age_seconds", "old"): 600,
        ("zaqar_oldest_message_age_seconds", "empty"): 0,
        ("zaqar_oldest_waiting_delivery_age_seconds", "empty"): 0,
    }


class Shop:
    """A store with queues of two projects, and the page about them."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock(1000.0)
        self.management = MemoryManagementStore()
        self.store = MemoryMessageStore()
        placement = Placement(self.store)
        stores = Stores("management", lambda: self.management, lambda: placement, lambda _: "default")
        self.page = make_pages(folder, self.clock, stores, shows_queues=True)["/metrics/queues"]

    def post(self, project: str, name: str, count: int) -> None:
        queue = self.management.queue_records.create(
            queue=Queue(uid=f"{project}{name}".ljust(24, "0")[:24], project=project, name=name)
        )
        self.store.queues.open(queue=queue, now=self.clock())
        drafts = [Draft(b"1", ttl=300)] * count
        self.store.messages.post(queue=queue, drafts=drafts, client_id="c", now=self.clock())

    def names(self, query: str) -> set[str]:
        found = read(self.page, query)
        return {dict(labels)["queue"] for name, labels in found if name == "zaqar_queue_messages"}


def test_numbers_of_queues_are_those_of_one_project(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    for number in range(5):
        shop.post("demo", f"q{number}", number + 1)
    shop.post("other", "secret", 1)
    shop.clock.advance(50)
    labels = (("project", "demo"), ("queue", "q3"))
    found = read(shop.page, "project=demo")
    assert found["zaqar_queue_messages", (*labels, ("state", "free"))] == 4
    assert found["zaqar_queue_oldest_message_age_seconds", labels] == 50
    assert found["zaqar_queue_posted_messages_total", labels] == 4
    assert shop.names("project=demo") == {f"q{number}" for number in range(5)}
    assert shop.names("project=demo&limit=2") == {"q0", "q1"}
    assert shop.names("project=demo&name=q4&name=q1&name=absent") == {"q1", "q4"}
    assert shop.names("project=") == set()
    assert shop.names("project=nobody") == set()


@pytest.mark.parametrize(
    "query",
    [
        "",
        "name=q",
        "project=a&project=b",
        "project=a&limit=0",
        "project=a&limit=-1",
        "project=a&limit=1001",
        "project=a&limit=x",
        "project=a&limit=1&limit=2",
        "project=a&limit=" + "9" * 9000,
    ],
)
def test_a_request_for_queues_that_is_wrong_or_unbounded_is_refused(tmp_path: Path, query: str) -> None:
    assert ask(Shop(tmp_path).page, query).status == 400


def test_an_unfit_store_refuses_queues_and_one_request_is_answered_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path)
    shop.post("demo", "q", 1)
    monkeypatch.setattr(pages_module, "ANSWER_SECONDS", 0.2)
    hanging = threading.Event()

    def stats(**_: Any) -> None:
        hanging.wait(30)
        raise StoreUnavailable

    monkeypatch.setattr(shop.store.queues, "stats", stats)
    assert ask(shop.page, "project=demo").body.startswith(b"A store has not answered")
    assert ask(shop.page, "project=demo").body == b"Another request for queues is being answered.\n"
    hanging.set()
    until = time.monotonic() + 30
    while ask(shop.page, "project=demo").body.startswith(b"Another"):
        assert time.monotonic() < until
    assert ask(shop.page, "project=demo").status == 503


def test_without_the_option_there_is_no_page_of_queues(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    placement = Placement(shop.store)
    stores = Stores("management", lambda: shop.management, lambda: placement, lambda _: "default")
    assert set(make_pages(tmp_path, shop.clock, stores, shows_queues=False)) == {"/metrics", "/livez", "/metrics/store"}
    assert set(make_pages(tmp_path, shop.clock, None, shows_queues=True)) == {"/metrics", "/livez"}


def test_every_family_is_described_and_shown(tmp_path: Path) -> None:
    collector = HostCollector(tmp_path)
    described = {metric.name for metric in collector.describe()}
    assert described == {metric.name for metric in collector.collect()}
    assert described > set(Families.by_name)
