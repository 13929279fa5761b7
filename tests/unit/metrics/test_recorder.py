# SPDX-License-Identifier: Apache-2.0
"""The recorder and its cells: what a process counts can be read by others, also after it was killed."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.queue_client import at_once
from zaqar.metrics import cells as cells_module
from zaqar.metrics.cells import SUFFIX, ReadableCells, Series, Snapshot
from zaqar.metrics.families import (
    HTTP_DURATION,
    HTTP_REQUESTS,
    IN_PROGRESS,
    MESSAGES_POSTED,
    WAITING_CLIENTS,
    Families,
    Histogram,
)
from zaqar.metrics.recorder import Recorder


def snapshots(folder: Path) -> list[Snapshot]:
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with ReadableCells(path) as file:
            snapshot = file.read()
            assert snapshot is not None
            found.append(snapshot)
    return found


def series_of(folder: Path) -> list[Series]:
    (snapshot,) = snapshots(folder)
    return snapshot.series


def test_the_first_number_of_a_process_may_be_a_gauge_that_is_set(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "api")
    recorder.set(WAITING_CLIENTS, ("claim",), 7)
    assert series_of(tmp_path) == [(WAITING_CLIENTS, ("claim",), (7.0,))]


def test_counts_can_be_read_by_name_and_label(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "api")
    for code in ("201", "201", "400"):
        recorder.add(HTTP_REQUESTS, ("POST", "/v2/queues", code))
    recorder.add(MESSAGES_POSTED, amount=20)
    recorder.add(IN_PROGRESS, (), 2)
    recorder.add(IN_PROGRESS, (), -1)
    recorder.set(WAITING_CLIENTS, ("claim",), 7)
    assert series_of(tmp_path) == [
        (HTTP_REQUESTS, ("POST", "/v2/queues", "201"), (2.0,)),
        (HTTP_REQUESTS, ("POST", "/v2/queues", "400"), (1.0,)),
        (MESSAGES_POSTED, (), (20.0,)),
        (IN_PROGRESS, (), (1.0,)),
        (WAITING_CLIENTS, ("claim",), (7.0,)),
    ]


def test_a_histogram_counts_a_value_in_the_first_bucket_that_holds_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "api")
    for value in (0.0005, 0.001, 0.0011, 10.0, 11.0):
        recorder.observe(HTTP_DURATION, ("GET", "/"), value)
    ((family, _, counted),) = series_of(tmp_path)
    assert isinstance(family, Histogram)
    by_bound = dict(zip([*family.buckets, "larger"], counted, strict=False))
    assert {bound: count for bound, count in by_bound.items() if count} == {0.001: 2, 0.0025: 1, 10.0: 1, "larger": 1}
    assert counted[-1] == pytest.approx(21.0026)


def test_a_process_that_counts_nothing_makes_no_file(tmp_path: Path) -> None:
    Recorder(tmp_path / "metrics", "api")
    assert not (tmp_path / "metrics").exists()


@pytest.mark.child_process
def test_a_child_counts_in_a_file_of_its_own_and_its_counts_survive_kill_9(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "api")
    recorder.add(MESSAGES_POSTED, amount=3)
    child = os.fork()
    if not child:
        recorder.add(MESSAGES_POSTED, amount=4)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    recorder.add(MESSAGES_POSTED, amount=5)
    counted = {snapshot.pid: snapshot.series[0].cells for snapshot in snapshots(tmp_path)}
    assert counted == {os.getpid(): (8.0,), child: (4.0,)}


@pytest.mark.child_process
def test_a_reader_knows_whether_the_process_is_over(tmp_path: Path) -> None:
    """Also after a fork: the child of a living process must not make it look dead, nor keep it alive."""
    recorder = Recorder(tmp_path, "api")
    recorder.add(MESSAGES_POSTED)
    child = os.fork()
    if not child:
        recorder.add(MESSAGES_POSTED)
        os._exit(0)
    os.waitpid(child, 0)
    over = {}
    for path in tmp_path.glob(f"*{SUFFIX}"):
        with ReadableCells(path) as file:
            over[int(path.name.split(".")[1])] = file.is_over()
    assert over == {os.getpid(): False, child: True}


@pytest.fixture
def hurried_threads() -> Iterator[None]:
    """Threads are switched as often as the interpreter allows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hurried_threads")
def test_threads_lose_no_count(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "api")

    def work() -> None:
        for _ in range(5000):
            recorder.add(MESSAGES_POSTED)
            recorder.observe(HTTP_DURATION, ("GET", "/"), 0.5)

    at_once(*[work] * 8)
    posted, durations = series_of(tmp_path)
    assert posted.cells == (40_000.0,)
    assert sum(durations.cells[:-1]) == 40_000
    assert durations.cells[-1] == 20_000.0


@pytest.mark.usefixtures("hurried_threads")
def test_threads_begin_a_series_only_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "api")
    at_once(*[lambda: recorder.add(HTTP_REQUESTS, ("GET", "/", "200"))] * 20)
    assert series_of(tmp_path) == [(HTTP_REQUESTS, ("GET", "/", "200"), (20.0,))]


def test_series_for_which_there_is_no_room_are_not_counted_and_spoil_no_other(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "api")
    recorder.add(MESSAGES_POSTED)
    for number in range(5000):
        recorder.observe(HTTP_DURATION, ("GET", f"/{number}"), 0.5)
        recorder.add(HTTP_REQUESTS, ("GET", f"/{number}", "200"))
    recorder.add(MESSAGES_POSTED)
    found = series_of(tmp_path)
    assert found[0] == (MESSAGES_POSTED, (), (2.0,))
    assert 1000 < len(found) < 10_000
    assert all(sum(series.cells[:-1] or series.cells) == 1.0 for series in found[1:])


def test_the_heartbeat_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tmp_path, "notifier")
    monkeypatch.setattr("zaqar.metrics.recorder.time.time", lambda: 1000.0)
    recorder.beat()
    monkeypatch.setattr("zaqar.metrics.recorder.time.time", lambda: 1030.5)
    recorder.beat()
    (snapshot,) = snapshots(tmp_path)
    assert (snapshot.part, snapshot.started, snapshot.heartbeat) == ("notifier", 1000.0, 1030.5)


def test_a_process_without_a_folder_for_its_file_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / "file", "api")
    with caplog.at_level(logging.WARNING):
        for code in ("200", "400"):
            recorder.add(HTTP_REQUESTS, ("GET", "/", code))
            recorder.observe(HTTP_DURATION, ("GET", "/"), 1.0)
            recorder.set(WAITING_CLIENTS, ("claim",), 7)
            recorder.beat()
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"This process is missing in the metrics, because it cannot write to {tmp_path / 'file'}"
    ]


def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / f"api.1.x{SUFFIX}"
    path.write_bytes(b"something else" * 100_000)
    with ReadableCells(path) as file:
        assert file.read() is None


def test_families_have_names_and_labels_as_prometheus_wants_them() -> None:
    assert cells_module.Families is Families
    for name, family in Families.by_name.items():
        assert name == family.name
        assert name.startswith("zaqar_")
        assert not name.endswith("_total")
        assert family.help.endswith(".")
        assert not {"queue", "project", "id", "url"}.intersection(family.labels)
        if isinstance(family, Histogram):
            assert name.endswith("_seconds")
            assert list(family.buckets) == sorted(family.buckets)


def test_gauges_of_what_is_not_counted_are_read_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.metrics.recorder.SAMPLE_SECONDS", 0.005)
    recorder = Recorder(tmp_path, "api")
    values = iter(range(1000))
    seen = threading.Event()

    def read(target: Recorder) -> None:
        if (value := next(values)) >= 3:
            seen.set()
        target.set(WAITING_CLIENTS, ("claim",), value)

    def fail(_: Recorder) -> None:
        raise ZeroDivisionError

    recorder.add_source(fail)
    recorder.add_source(read)
    assert not seen.wait(0.05)
    recorder.add(MESSAGES_POSTED)
    assert seen.wait(30)
    recorder.close()
    series = {each.family: each.cells[0] for each in series_of(tmp_path)}
    assert series[WAITING_CLIENTS] >= 2


def test_the_thread_that_reads_gauges_ends_with_the_recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.metrics.recorder.SAMPLE_SECONDS", 0.005)
    before = set(threading.enumerate())
    closed, forgotten = Recorder(tmp_path, "api"), Recorder(tmp_path, "api")
    for recorder in (closed, forgotten):
        recorder.add(MESSAGES_POSTED)
    (*threads,) = set(threading.enumerate()) - before
    assert len(threads) == 2
    closed.close()
    del forgotten, recorder
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_a_source_with_the_key_of_another_one_replaces_it(tmp_path: Path) -> None:
    recorder, called = Recorder(tmp_path, "api"), list[str]()

    def source(_: Recorder) -> None:
        called.append("by itself")

    for _ in range(2):
        recorder.add_source(source)
    recorder.add_source(lambda _: called.append("before"), key="gauges")
    recorder.add_source(lambda _: called.append("after"), key="gauges")
    recorder.sample()
    assert called == ["by itself", "after"]


def test_a_folder_that_others_can_open_fails_no_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir(0o755)
    folder.chmod(0o755)
    (folder / "of somebody else").touch()
    recorder = Recorder(folder, "api")
    for _ in range(2):
        recorder.add(MESSAGES_POSTED)
    (record,) = caplog.records
    assert "open to other users" in record.getMessage()


def test_the_file_has_its_place_on_the_disk_from_the_beginning(tmp_path: Path) -> None:
    """Otherwise a disk that becomes full would end the process at a count."""
    recorder = Recorder(tmp_path, "api")
    recorder.add(MESSAGES_POSTED)
    (path,) = tmp_path.glob(f"*{SUFFIX}")
    assert path.stat().st_blocks * 512 >= path.stat().st_size
    recorder.close()


def test_a_full_disk_leaves_no_file_and_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    recorder = Recorder(tmp_path, "api")
    for _ in range(3):
        recorder.add(MESSAGES_POSTED)
    assert list(tmp_path.iterdir()) == []
    assert len(caplog.records) == 1
