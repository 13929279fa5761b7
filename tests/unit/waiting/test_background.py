# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import threading

import pytest

from tests.unit.waiting.processes import until
from zaqar.errors import StoreUnavailable
from zaqar.waiting import background
from zaqar.waiting.background import Background, Job


class Counting(Job):
    name = "counting"

    def __init__(self) -> None:
        super().__init__()
        self.steps = self.closed = 0
        self.errors: list[Exception] = []
        self.needed = True

    def is_needed(self) -> bool:
        return self.needed

    def step(self) -> float:
        self.steps += 1
        if self.errors:
            raise self.errors.pop()
        return 60.0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def job() -> Counting:
    return Counting()


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LONGEST_BACK_OFF_SECONDS", 0.01)
    monkeypatch.setattr(background, "LINGER_SECONDS", 0.05)


def end(jobs: Background, job: Counting) -> None:
    job.needed = False
    jobs.end()
    until(lambda: jobs.get("key") is None)


def test_one_thread_for_each_job(job: Counting) -> None:
    jobs = Background()
    for _ in range(3):
        jobs.start("key", lambda: job)
    until(lambda: job.steps == 1)
    job.nudge()
    until(lambda: job.steps == 2)
    assert [thread.name for thread in threading.enumerate()].count("counting") == 1
    end(jobs, job)
    until(lambda: job.closed == 1)


def test_a_job_that_is_needed_again_has_a_thread_again(job: Counting) -> None:
    jobs = Background()
    for _ in range(2):
        job.needed = True
        jobs.start("key", lambda: job)
        job.needed = False
        while jobs.get("key") is not None:
            job.nudge()
    assert job.closed >= 1


def test_errors_are_logged_once_and_end_no_thread(job: Counting, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    jobs = Background()
    job.errors = [StoreUnavailable(), StoreUnavailable(), ZeroDivisionError(), ZeroDivisionError()]
    jobs.start("key", lambda: job)
    until(lambda: job.steps == 5)
    # An outage of a store is logged by its driver.
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "counting" in caplog.text
    assert job.closed == 4
    end(jobs, job)


def test_a_post_succeeds_if_no_thread_can_start_and_a_later_one_starts_it(
    job: Counting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A post does not fail because the system has no thread left, and a later one tries again."""
    jobs = Background()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        jobs.start("key", lambda: job)
    assert jobs.get("key") is None
    assert "can't start new thread" in caplog.text
    jobs.start("key", lambda: job)
    until(lambda: job.steps == 1)
    end(jobs, job)
