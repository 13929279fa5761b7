# SPDX-License-Identifier: Apache-2.0
"""What ended processes have counted is kept, counted once, and takes a bounded number of files."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.forks import in_a_fork
from zaqar.metrics import retirement
from zaqar.metrics.cells import SUFFIX
from zaqar.metrics.families import HTTP_DURATION, HTTP_REQUESTS, IN_PROGRESS, MESSAGES_POSTED
from zaqar.metrics.recorder import Recorder, note_end_of_process
from zaqar.metrics.retirement import RETIRED, Totals, read_all, retire

pytestmark = pytest.mark.child_process

LABELS = ("POST", "/v2/queues", "201")


def count(folder: Path, part: str = "api", *, posted: int = 1, killed: bool = True) -> None:
    """Count in a process of its own, which then ends: without a sign if it is killed."""

    def work() -> None:
        recorder = Recorder(folder, part)
        recorder.add(MESSAGES_POSTED, (), posted)
        recorder.add(HTTP_REQUESTS, LABELS)
        recorder.observe(HTTP_DURATION, LABELS[:2], 0.002)
        recorder.add(IN_PROGRESS, (), 5)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        note_end_of_process()

    assert in_a_fork(work) == (-signal.SIGKILL if killed else 0)


def posted_in(totals: Totals) -> float:
    return totals.series[MESSAGES_POSTED, ()][0]


def cell_files(folder: Path) -> list[Path]:
    return list(folder.glob(f"*{SUFFIX}"))


def test_counts_of_ended_processes_are_added_and_their_files_removed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "api")
    recorder.add(MESSAGES_POSTED, (), 100)
    recorder.add(IN_PROGRESS, (), 2)
    for posted in (1, 20):
        count(tmp_path, posted=posted)
    before = read_all(tmp_path)
    retire(tmp_path)
    after = read_all(tmp_path)
    assert before.totals == after.totals
    assert posted_in(after.totals) == 121
    assert after.totals.series[HTTP_REQUESTS, LABELS] == [2.0]
    assert after.totals.series[HTTP_DURATION, LABELS[:2]][1] == 2.0
    assert after.totals.series[HTTP_DURATION, LABELS[:2]][-1] == pytest.approx(0.004)
    assert [each.pid for each in after.running] == [os.getpid()]
    assert len(cell_files(tmp_path)) == 1


def test_gauges_end_with_their_process(tmp_path: Path) -> None:
    count(tmp_path)
    assert (IN_PROGRESS, ()) not in read_all(tmp_path).totals.series
    retire(tmp_path)
    assert (IN_PROGRESS, ()) not in read_all(tmp_path).totals.series


def test_only_processes_that_were_not_told_to_end_count_as_failures(tmp_path: Path) -> None:
    count(tmp_path, "api", killed=True)
    count(tmp_path, "api", killed=False)
    count(tmp_path, "notifier", killed=False)
    assert read_all(tmp_path).totals.failures == {"api": 1, "notifier": 0}
    retire(tmp_path)
    count(tmp_path, "notifier", killed=True)
    assert read_all(tmp_path).totals.failures == {"api": 1, "notifier": 1}


def test_a_normal_exit_of_the_interpreter_is_no_failure(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from zaqar.metrics.recorder import Recorder, note_failure_of_process;"
        "from zaqar.metrics.families import MESSAGES_POSTED;"
        "recorder = Recorder(Path(sys.argv[1]), 'api'); recorder.add(MESSAGES_POSTED);"
        "sys.argv[2] == 'stuck' and note_failure_of_process()"
    )
    for how in ("normal", "stuck"):
        arguments = [sys.executable, "-c", program, str(tmp_path), how]
        assert in_a_fork(lambda: os.execv(sys.executable, arguments)) == 0  # noqa: B023
    assert read_all(tmp_path).totals.failures == {"api": 1}


def test_a_normal_end_of_a_process_of_multiprocessing_is_no_failure(tmp_path: Path) -> None:
    """As of a worker of granian. The exit handlers of the interpreter do not run there."""

    def work() -> None:
        Recorder(tmp_path, "api").add(MESSAGES_POSTED)
        kept.append(Recorder(tmp_path, "api"))
        kept[0].add(MESSAGES_POSTED)

    kept: list[Recorder] = []
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert read_all(tmp_path).totals == Totals({(MESSAGES_POSTED, ()): [2.0]}, {"api": 0})


def test_closing_while_an_exception_ends_the_process_counts_as_a_failure(tmp_path: Path) -> None:
    def fail(recorder: Recorder) -> None:
        try:
            raise RuntimeError
        finally:
            recorder.close()

    for part, error in (("notifier", RuntimeError), ("sweeper", None)):
        recorder = Recorder(tmp_path, part)
        recorder.add(MESSAGES_POSTED)
        if error is None:
            recorder.close()
        else:
            with pytest.raises(error):
                fail(recorder)
    assert read_all(tmp_path).totals.failures == {"notifier": 1, "sweeper": 0}


def test_a_recorder_that_is_dropped_lets_go_of_its_file(tmp_path: Path) -> None:
    Recorder(tmp_path, "api").add(MESSAGES_POSTED)
    assert read_all(tmp_path).running == []
    assert read_all(tmp_path).totals.failures == {"api": 0}


def kill_at(step: int, folder: Path) -> bool:
    """Merge in a process that is killed at the given call to the system. Returns whether it was."""

    def work() -> None:
        calls = 0

        def see(frame: FrameType, event: str, called: Any) -> None:
            nonlocal calls
            is_system_call = getattr(called, "__module__", None) in ("posix", "fcntl", "_io")
            is_method = getattr(called, "__qualname__", "").startswith(("TextIOWrapper", "BufferedWriter"))
            if event in ("c_call", "c_return") and (is_system_call or is_method):
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1

        sys.setprofile(see)
        retire(folder)
        sys.setprofile(None)

    status = in_a_fork(work)
    assert status in (0, -signal.SIGKILL)
    return status != 0


def test_a_kill_at_any_step_of_a_merge_loses_no_count_and_counts_nothing_twice(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "sweeper")
    recorder.add(MESSAGES_POSTED, (), 1000)
    posted = 1000
    steps = []
    for step in range(500):
        retire(tmp_path)
        for _ in range(2):
            count(tmp_path, posted=7)
            posted += 7
        was_killed = kill_at(step, tmp_path)
        assert posted_in(read_all(tmp_path).totals) == posted, f"after step {step}"
        steps.append((len(cell_files(tmp_path)), (tmp_path / f"{RETIRED}.new").exists()))
        if not was_killed:
            break
    retire(tmp_path)
    assert posted_in(read_all(tmp_path).totals) == posted
    assert len(cell_files(tmp_path)) == 1
    assert read_all(tmp_path).totals.failures["api"] == 2 * len(steps)
    # The kills came before the new file, while it was written, between its rename and the removals, and after them.
    assert len(steps) > 30
    assert set(steps) == {(3, False), (3, True), (2, False), (1, False)}


def test_a_reader_beside_a_merge_sees_each_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge between the list of files and their reading makes the reader begin again."""
    count(tmp_path, posted=7)
    count(tmp_path, posted=7)
    listed = retirement._files

    def list_then_merge(folder: Path) -> list[Path]:
        found = listed(folder)
        monkeypatch.undo()
        retire(tmp_path)
        return found

    monkeypatch.setattr(retirement, "_files", list_then_merge)
    assert posted_in(read_all(tmp_path).totals) == 14
    assert cell_files(tmp_path) == []


def test_only_one_process_merges_at_a_time(tmp_path: Path) -> None:
    count(tmp_path)
    with retirement._locked(tmp_path) as is_locked:
        assert is_locked
        retire(tmp_path)
        assert len(cell_files(tmp_path)) == 1
    retire(tmp_path)
    assert cell_files(tmp_path) == []


def test_a_host_without_an_exporter_does_not_collect_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retirement, "_MANY", 5)
    for _ in range(12):
        count(tmp_path)
        assert len(cell_files(tmp_path)) <= 6
    assert posted_in(read_all(tmp_path).totals) == 12


def test_more_files_than_a_step_takes_are_merged_in_several_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retirement, "_MOST_AT_ONCE", 2)
    for _ in range(5):
        count(tmp_path)
    retire(tmp_path)
    assert cell_files(tmp_path) == []
    assert posted_in(read_all(tmp_path).totals) == 5


def test_families_of_another_version_are_left_out(tmp_path: Path) -> None:
    content = {
        "merged": [],
        "failures": {"api": 3},
        "series": [
            ["zaqar_messages_posted", [], [5.0]],
            ["zaqar_gone", [], [5.0]],
            ["zaqar_delivery_lag_seconds", [], [1.0, 2.0]],
        ],
    }
    (tmp_path / RETIRED).write_text(json.dumps(content))
    assert read_all(tmp_path).totals == Totals({(MESSAGES_POSTED, ()): [5.0]}, {"api": 3})
    (tmp_path / f"api.1.0{SUFFIX}").write_bytes(b"another form")
    assert posted_in(read_all(tmp_path).totals) == 5
    retire(tmp_path)
    assert cell_files(tmp_path) == []
    assert posted_in(read_all(tmp_path).totals) == 5


def test_a_damaged_file_costs_the_merged_counts_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    count(tmp_path, posted=3)
    (tmp_path / RETIRED).write_text('{"merged": [')
    with caplog.at_level(logging.WARNING):
        assert posted_in(read_all(tmp_path).totals) == 3
    assert caplog.messages == [f"{tmp_path / RETIRED} is damaged; what processes that are over have counted is lost."]
    retire(tmp_path)
    caplog.clear()
    assert posted_in(read_all(tmp_path).totals) == 3
    assert caplog.messages == []


def test_a_file_that_was_never_named_is_removed_when_it_is_old(tmp_path: Path) -> None:
    for name, age in (("api.1.aa.new", 120), ("api.2.bb.new", 1)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    retire(tmp_path)
    assert [path.name for path in tmp_path.glob("*.new")] == ["api.2.bb.new"]
