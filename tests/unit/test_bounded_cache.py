# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from zaqar.bounded_cache import OVERHEAD, BoundedCache, size_of


def filled_cache(most: int, *sizes: int) -> BoundedCache[int, str]:
    cache: BoundedCache[int, str] = BoundedCache(most)
    for key, size in enumerate(sizes):
        cache.put(key, str(key), size)
    return cache


def test_a_value_is_found_until_it_is_forgotten() -> None:
    cache = filled_cache(10_000, 1, 1)
    assert (cache.get(0), cache.get(1), cache.get(2)) == ("0", "1", None)
    cache.forget(0)
    cache.forget(0)
    assert cache.get(0) is None
    assert list(cache) == [1]
    assert cache.size == 1 + OVERHEAD


def test_the_oldest_entries_are_removed_first() -> None:
    cache = filled_cache(4 * OVERHEAD, 100, 100, 100)
    assert list(cache) == [0, 1, 2]
    cache.put(3, "3", 100)
    assert list(cache) == [1, 2, 3]
    cache.put(4, "4", OVERHEAD + 100)
    assert list(cache) == [3, 4]
    assert cache.size <= 4 * OVERHEAD


def test_an_entry_that_is_put_again_is_the_newest_and_counts_once() -> None:
    cache = filled_cache(10_000, 100, 100)
    cache.put(0, "new", 200)
    assert list(cache) == [1, 0]
    assert cache.get(0) == "new"
    assert cache.size == 300 + 2 * OVERHEAD


def test_a_value_that_is_too_large_is_not_stored_and_removes_no_other() -> None:
    cache = filled_cache(10_000, 100, 100)
    cache.put(0, "huge", 10_000)
    assert cache.get(0) is None
    assert list(cache) == [1]


def test_threads_may_share_a_cache() -> None:
    cache: BoundedCache[int, int] = BoundedCache(20 * OVERHEAD)

    def churn(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(3000):
            key = draw.randrange(60)
            if draw.random() < 0.2:
                cache.forget(key)
            else:
                cache.put(key, key, draw.randrange(OVERHEAD))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))
    assert cache.size <= 20 * OVERHEAD
    for key in list(cache):
        cache.forget(key)
    assert cache.size == len(cache) == 0


@pytest.mark.parametrize(
    ("value", "least"),
    [
        ("x" * 5000, 5000),
        ({"a": "x" * 5000}, 5000),
        ([["x" * 1000], ("y" * 1000, {"z" * 1000})], 3000),
        ({str(number): {} for number in range(100)}, 100 * 64),
        (None, 1),
    ],
)
def test_a_size_includes_nested_values(value: Any, least: int) -> None:
    assert least <= size_of(value) <= 3 * least + 1000


def test_a_size_of_deeply_nested_values() -> None:
    value: list[Any] = []
    for _ in range(50_000):
        value = [value]
    assert size_of(value) > 50_000 * 56
