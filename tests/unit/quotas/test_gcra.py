# SPDX-License-Identifier: Apache-2.0
"""The cell rate algorithm: exact, bounded in memory, and fair to large posts."""

from __future__ import annotations

import random
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zaqar.quotas import gcra
from zaqar.quotas.gcra import Gcra


def take(counter: Gcra[str], key: str, cost: float, now: float) -> float:
    wait = counter.wait(key, cost, now)
    if not wait:
        counter.count(key, cost, now)
    return wait


@pytest.mark.parametrize("rate", [0.5, 3.0, 100.0, 12_345.6])
def test_the_admitted_number_is_the_burst_and_the_rate_times_the_time(rate: float) -> None:
    burst, seconds = 50.0, 5000.0 / rate
    counter = Gcra[str](rate, burst)
    dice, now, admitted = random.Random(7), 1000.0, 0
    while now < 1000.0 + seconds:
        admitted += not take(counter, "a", 1.0, now)
        now += dice.expovariate(4 * rate)
    exact = burst + rate * seconds
    assert exact * 0.99 - 1 <= admitted <= exact * 1.0001


@settings(max_examples=50, deadline=None)
@given(
    rate=st.floats(0.01, 1e6),
    burst=st.floats(0, 1e6),
    events=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 2000)), min_size=1, max_size=60),
)
def test_no_interval_has_more_than_the_burst_and_the_rate(
    rate: float, burst: float, events: list[tuple[float, int]]
) -> None:
    counter = Gcra[str](rate, burst)
    now, admitted = 100.0, []
    for pause, cost in events:
        now += pause
        if not take(counter, "a", cost, now):
            admitted.append((now, cost))
    for first, (begin, _) in enumerate(admitted):
        total = 0.0
        for end, cost in admitted[first:]:
            # The last event of an interval may exceed the burst alone; events after it wait for that.
            most = counter.burst + rate * (end - begin)
            assert total + min(cost, counter.burst) <= most * (1 + 1e-6) + 1e-6
            total += cost


def test_the_wait_is_the_time_until_the_event_is_admitted() -> None:
    counter = Gcra[str](2.0, 4.0)
    assert [take(counter, "a", 1, 50.0) for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert take(counter, "a", 1, 50.25) == 0.25
    assert take(counter, "a", 1, 50.5) == 0
    assert take(counter, "a", 3, 50.5) == 1.5


def test_a_cost_above_the_burst_is_admitted_after_a_pause_and_paid_off() -> None:
    counter = Gcra[str](10.0, 20.0)
    assert take(counter, "a", 100, 50.0) == 0
    # 100 units take 10 s, of which the burst is 2 s.
    assert take(counter, "a", 1, 50.0) == pytest.approx(8.1)
    assert take(counter, "a", 100, 59.0) == pytest.approx(1.0)
    assert take(counter, "a", 100, 60.0) == 0


def test_one_unit_is_taken_in_one_step_with_the_same_result() -> None:
    one, other = Gcra[str](3.0, 7.0), Gcra[str](3.0, 7.0)
    dice, now = random.Random(3), 10.0
    for _ in range(2000):
        now += dice.expovariate(4.0)
        wait, ahead = take(one, "a", 1.0, now), other.take("a", now)
        assert -ahead == pytest.approx(wait) if wait else ahead == pytest.approx(one.seconds_until_full("a", now))
        assert one.left("a", now) == pytest.approx(other.left("a", now))


def test_a_key_does_not_count_for_others() -> None:
    counter = Gcra[str](1.0, 1.0)
    assert take(counter, "a", 1, 5.0) == 0
    assert take(counter, "a", 1, 5.0) > 0
    assert take(counter, "b", 1, 5.0) == 0


def test_what_is_left_and_when_it_is_full_again() -> None:
    counter = Gcra[str](2.0, 10.0)
    assert (counter.left("a", 7.0), counter.seconds_until_full("a", 7.0)) == (10.0, 0.0)
    counter.count("a", 4, 7.0)
    assert (counter.left("a", 7.0), counter.seconds_until_full("a", 7.0)) == (6.0, 2.0)
    assert (counter.left("a", 8.0), counter.seconds_until_full("a", 8.0)) == (8.0, 1.0)
    counter.count("a", 100, 8.0)
    assert counter.left("a", 8.0) == 0.0


def test_the_key_used_longest_ago_is_forgotten_if_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcra, "MOST_KEYS", 100)
    counter = Gcra[str](1.0, 1000.0)
    for number in range(100):
        counter.count(f"k{number}", 500, 5.0)
    counter.count("k0", 1, 5.0)
    for number in range(100, 150):
        counter.count(f"k{number}", 500, 5.0)
    assert len(counter) <= 100
    assert counter.left("k0", 5.0) == 499
    assert counter.left("k1", 5.0) == 1000


def test_keys_expire_two_bursts_after_their_last_use() -> None:
    counter = Gcra[str](10.0, 50.0)
    for number in range(1000):
        counter.count(f"old{number}", 1, 100.0)
    for number in range(1000):
        counter.count(f"new{number}", 1, 111.0)
    assert len(counter) <= 1000


def test_threads_lose_no_count() -> None:
    counter = Gcra[str](1.0, 1e9)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [counter.count("a", 1, 10.0) for _ in range(5000)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert counter.left("a", 10.0) == pytest.approx(1e9 - 20_000)


def test_the_cost_does_not_depend_on_the_number_of_keys() -> None:
    def seconds(keys: int) -> float:
        counter = Gcra[str](1.0, 1e6)
        names = [f"k{number}" for number in range(keys)]
        for name in names:
            counter.count(name, 1, 10.0)
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            for number in range(3000):
                take(counter, names[number % keys], 1, 10.0)
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(10_000) < 4 * seconds(10)
