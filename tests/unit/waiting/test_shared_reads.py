# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.waiting.processes import until
from zaqar.errors import StoreUnavailable
from zaqar.model import Message
from zaqar.waiting import shared_reads
from zaqar.waiting.shared_reads import SharedReads, moment


class Calls:
    """A call that is counted, and that blocks until the test releases it."""

    def __init__(self, result: Any = "result", error: BaseException | None = None) -> None:
        self.count = 0
        self.goes_on = threading.Event()
        self._result = result
        self._error = error

    def __call__(self) -> Any:
        self.count += 1
        assert self.goes_on.wait(20)
        if self._error is not None:
            raise self._error
        return self._result


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> SharedReads:
    # Threads may be slow to start on a busy machine.
    monkeypatch.setattr(shared_reads, "KEEP_SECONDS", 3600.0)
    return SharedReads()


def in_threads(count: int, call: Callable[[], object]) -> tuple[list[threading.Thread], list[object]]:
    """Threads that make a call, with their results and errors."""
    got: list[object] = []

    def run() -> None:
        try:
            got.append(call())
        except BaseException as exc:  # noqa: BLE001, the test checks it
            got.append(exc)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, got


def test_callers_with_one_key_share_a_read(shared: SharedReads) -> None:
    calls = Calls()
    threads, got = in_threads(5, lambda: shared.read("key", 1, calls))
    until(lambda: calls.count)
    calls.goes_on.set()
    for thread in threads:
        thread.join(20)
    assert got == ["result"] * 5
    assert calls.count == 1
    assert shared.kept("key", 1) == ("result",)
    assert shared.kept("key", 2) is None
    assert shared.kept("other", 1) is None


def test_a_newer_version_gets_no_older_read(shared: SharedReads) -> None:
    older, newer = Calls("older"), Calls("newer")
    threads, got = in_threads(1, lambda: shared.read("key", 1, older))
    until(lambda: older.count)
    newer.goes_on.set()
    assert shared.read("key", 2, newer) == "newer"
    older.goes_on.set()
    threads[0].join(20)
    assert got == ["older"]
    # The read that ended last is not the newest one.
    assert shared.read("key", 1, Calls()) == "newer"


def test_a_caller_gets_no_read_that_began_before_its_moment(shared: SharedReads) -> None:
    older, newer = Calls("older"), Calls("newer")
    before = moment()
    threads, got = in_threads(1, lambda: shared.read("key", 1, older))
    until(lambda: older.count)
    since = moment()
    newer.goes_on.set()
    assert shared.read("key", 1, newer, since=since) == "newer"
    older.goes_on.set()
    threads[0].join(20)
    assert got == ["older"]
    # The read that began last is kept, for callers with an earlier moment as well.
    for moment_of_caller in (0, before, since):
        assert shared.read("key", 1, Calls(), since=moment_of_caller) == "newer"
        assert shared.kept("key", 1, since=moment_of_caller) == ("newer",)
    assert shared.kept("key", 1, since=moment()) is None


def test_an_error_is_raised_for_all_and_not_kept(shared: SharedReads) -> None:
    calls = Calls(error=StoreUnavailable())
    threads, got = in_threads(5, lambda: shared.read("key", 1, calls))
    until(lambda: calls.count)
    calls.goes_on.set()
    for thread in threads:
        thread.join(20)
    assert [type(each) for each in got] == [StoreUnavailable] * 5
    assert shared.read("key", 1, lambda: "later") == "later"


def test_a_killed_greenlet_does_not_fail_callers_that_share_its_read(shared: SharedReads) -> None:
    """gevent ends a greenlet by an exception that is no Exception."""

    class Ended(BaseException):
        pass

    calls = Calls(error=Ended())
    first, got_first = in_threads(1, lambda: shared.read("key", 1, calls))
    until(lambda: calls.count)
    others, got = in_threads(3, lambda: shared.read("key", 1, lambda: "read anew"))
    calls.goes_on.set()
    for thread in (*first, *others):
        thread.join(20)
    assert isinstance(got_first[0], Ended)
    assert got == ["read anew"] * 3


def test_tracebacks_of_shared_errors_do_not_grow(shared: SharedReads) -> None:
    error = StoreUnavailable()
    calls = Calls(error=error)
    threads, _ = in_threads(50, lambda: shared.read("key", 1, calls))
    until(lambda: calls.count)
    calls.goes_on.set()
    for thread in threads:
        thread.join(20)
    assert len(traceback.extract_tb(error.__traceback__)) < 20


def message(size: int) -> Message:
    return Message("a" * 24, 1, b"x" * size, 60, 0.0, 60.0, "c", 0, None)


def test_memory_is_bounded(shared: SharedReads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "MAX_KEPT_BYTES", 100_000)
    for number in range(20):
        shared.read(number, 1, lambda: [message(30_000)])
        assert shared.size <= 100_000
    assert shared.kept(19, 1) is not None
    assert shared.kept(0, 1) is None
    # A result that is larger than the whole memory is returned, and drops no other one.
    assert len(shared.read("large", 1, lambda: [message(200_000)])) == 1
    assert shared.kept("large", 1) is None
    assert shared.kept(19, 1) is not None


def test_results_are_not_kept_for_long(shared: SharedReads, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(shared_reads.time, "monotonic", lambda: now)
    shared.read("key", 1, lambda: [message(10)])
    assert shared.kept("key", 1) is not None
    now += shared_reads.KEEP_SECONDS
    shared.drop_old()
    assert (shared.kept("key", 1), shared.size) == (None, 0)
    assert shared.read("key", 1, lambda: "anew") == "anew"
