# SPDX-License-Identifier: Apache-2.0
"""An outage is a line in the log when it begins, one when it ends, and a count each minute between."""

from __future__ import annotations

import logging
import os
import threading
from types import SimpleNamespace

import pytest

from zaqar.errors import StoreUnavailable
from zaqar.storage.base import Outage, outages
from zaqar.storage.base.outages import COUNT_SECONDS, QUIET_SECONDS


class Watched:
    """An outage in time that the test moves on; ``lines`` is what the log has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str) -> None:
        self.now = 1000.0
        self._caplog = caplog
        monkeypatch.setattr(outages, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.outage = Outage.of(name)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records if record.levelno > logging.DEBUG]

    def fail(self, reason: Exception | str = "no route to host") -> StoreUnavailable:
        return self.outage.failed(reason)

    def answer(self) -> None:
        # As the drivers do on the path of every request.
        if self.outage.since is not None:
            self.outage.succeeded()


@pytest.fixture
def watched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> Watched:
    return Watched(monkeypatch, caplog, f"The store of {request.node.name}")


def test_a_thousand_refusals_are_two_lines(watched: Watched) -> None:
    watched.answer()
    assert watched.lines == []
    for _ in range(1000):
        assert watched.fail(OSError("no route\nto host.")).is_logged
        watched.now += 0.01
    name = watched.outage.name
    assert watched.lines == [f"{name} is not available: no route to host. What needs it is refused until it is."]
    watched.now += QUIET_SECONDS
    for _ in range(3):
        watched.answer()
    assert watched.lines[1:] == [f"{name} is available again, after 9 s; 1000 operations were refused."]


def test_a_long_one_is_counted_each_minute(watched: Watched) -> None:
    for _ in range(int(3 * COUNT_SECONDS) + 1):
        watched.fail("first" if watched.now < 1001 else "later")
        watched.now += 1
    assert len(watched.lines) == 1 + 3
    assert watched.lines[-1] == (
        f"{watched.outage.name} is not available for 180 s now; 181 operations were refused, the last one for: later."
    )


def test_failures_among_successes_are_one_outage(watched: Watched) -> None:
    for _ in range(40):
        watched.fail()
        watched.now += QUIET_SECONDS / 3
        watched.answer()
    assert len([line for line in watched.lines if "again" in line]) == 0
    watched.now += QUIET_SECONDS
    watched.answer()
    assert [line for line in watched.lines if "again" in line] == watched.lines[-1:]


def test_the_next_one_begins_with_a_line_and_counts_anew(watched: Watched) -> None:
    for refused in (3, 5):
        for _ in range(refused):
            watched.fail()
        watched.now += QUIET_SECONDS
        watched.answer()
        assert f"; {refused} operations" in watched.lines[-1]
    assert len(watched.lines) == 4


def test_all_who_work_with_a_store_share_its_outage(watched: Watched) -> None:
    other = Outage.of(watched.outage.name)
    other.failed("a")
    watched.fail()
    assert len(watched.lines) == 1
    Outage.of("The other store").failed("b")
    assert len(watched.lines) == 2


def test_threads_that_fail_at_once_are_one_line(watched: Watched) -> None:
    barrier = threading.Barrier(8)

    def fail() -> None:
        barrier.wait(60)
        watched.fail()

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(watched.lines) == 1


def test_a_reason_without_words_and_one_that_is_long(watched: Watched) -> None:
    watched.fail(TimeoutError())
    assert ": TimeoutError." in watched.lines[0]
    Outage.of("The wordy store").failed("x" * 100_000)
    assert len(watched.lines[1]) < 1000


def test_the_traceback_is_there_for_who_asks(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        watched.fail(OSError("why"))
    assert [record.exc_info is not None for record in caplog.records] == [False, True]


@pytest.mark.child_process
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_can_note_one_though_the_parent_was_about_to(watched: Watched) -> None:
    with watched.outage._lock:
        pid = os.fork()
        if pid == 0:
            watched.fail()
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
