# SPDX-License-Identifier: Apache-2.0
"""Calls to several stores: a store that does not answer does not block the threads for the others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from zaqar.errors import StoreUnavailable
from zaqar.service import store_guard
from zaqar.service.store_guard import StoreBusy, StoreGuard
from zaqar.storage.memory import MemoryMessageStore
from zaqar.storage.pools import Placement, StoreRef


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def new_store_ref() -> StoreRef:
    return Placement(MemoryMessageStore()).all_stores()[0]


def ask(guard: StoreGuard, store_ref: StoreRef, *, is_away: bool = False) -> None:
    with guard.asking(store_ref):
        if is_away:
            raise StoreUnavailable


def test_a_store_may_have_some_questions_at_a_time_and_no_more() -> None:
    guard, store_ref, other = StoreGuard(2, Clock()), new_store_ref(), new_store_ref()
    with guard.asking(store_ref), guard.asking(store_ref):
        with pytest.raises(StoreBusy):
            ask(guard, store_ref)
        ask(guard, other)
    ask(guard, store_ref)


def test_a_store_that_failed_is_left_alone_for_longer_each_time() -> None:
    clock = Clock()
    guard, store_ref, other = StoreGuard(2, clock), new_store_ref(), new_store_ref()
    pause = store_guard.FIRST_PAUSE_SECONDS
    for _ in range(6):
        with pytest.raises(StoreUnavailable):
            ask(guard, store_ref, is_away=True)
        clock.now += pause - 0.001
        with pytest.raises(StoreUnavailable):
            ask(guard, store_ref)
        ask(guard, other)
        clock.now += 0.001
        pause = min(2 * pause, store_guard.MOST_PAUSE_SECONDS)
    with guard.asking(store_ref), pytest.raises(StoreUnavailable):
        # One call at a time probes whether the store answers again.
        ask(guard, store_ref)
    with guard.asking(store_ref):
        ask(guard, store_ref)


def test_another_error_is_no_failure_of_the_store() -> None:
    guard, store_ref = StoreGuard(1, Clock()), new_store_ref()
    with pytest.raises(ValueError, match="x"), guard.asking(store_ref):
        raise ValueError("x")
    ask(guard, store_ref)


def test_a_store_that_hangs_holds_few_threads() -> None:
    clock = Clock()
    guard, store_ref, other = StoreGuard(3, clock), new_store_ref(), new_store_ref()
    begun, release = threading.Semaphore(0), threading.Event()

    def hang() -> None:
        with guard.asking(store_ref):
            begun.release()
            assert release.wait(10)

    with ThreadPoolExecutor(4) as threads:
        hanging = [threads.submit(hang) for _ in range(3)]
        for _ in hanging:
            assert begun.acquire(timeout=10)
        try:
            with pytest.raises(StoreBusy):
                threads.submit(ask, guard, store_ref).result(10)
            clock.now += store_guard.SLOW_SECONDS
            for _ in range(5):
                with pytest.raises(StoreUnavailable):
                    threads.submit(ask, guard, store_ref).result(10)
                threads.submit(ask, guard, other).result(10)
        finally:
            release.set()
    ask(guard, store_ref)
