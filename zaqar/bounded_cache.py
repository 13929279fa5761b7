# SPDX-License-Identifier: Apache-2.0
"""A cache with a limit in bytes, for what a process remembers of tenants.

A limit on the number of entries is not enough if a tenant chooses how large an entry is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

OVERHEAD = 300
"""Bytes that an entry takes beside its key and its value: its places in two dicts, each with room to grow."""


class BoundedCache(Generic[K, V]):
    """A mapping that removes its oldest entries as soon as all of them together take more than ``most`` bytes.

    Safe for threads. ``get`` takes no lock and is that of a dict, as it is on the path of every request.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[K, V] = {}
        self._sizes: dict[K, int] = {}
        self._lock = threading.Lock()
        self.size = 0
        """Bytes that the entries take together, as they were told to ``put``."""
        self.get = self._values.get

    def put(self, key: K, value: V, size: int) -> None:
        """Remember the value, which with its key takes ``size`` bytes; one that alone exceeds the limit is not kept."""
        size += OVERHEAD
        with self._lock:
            self._remove(key)
            if size > self._most:
                return
            self._values[key] = value
            self._sizes[key] = size
            self.size += size
            while self.size > self._most:
                self._remove(next(iter(self._values)))

    def forget(self, key: K) -> None:
        """Remove the entry; an absent one is fine."""
        with self._lock:
            self._remove(key)

    def _remove(self, key: K) -> None:
        if self._values.pop(key, None) is not None:
            self.size -= self._sizes.pop(key)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[K]:
        """The keys, the oldest first, as they are now."""
        with self._lock:
            return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)


_COLLECTIONS = (list, tuple, set, frozenset)


def size_of(value: Any) -> int:
    """Bytes that a value takes in memory with all that is in its dicts, lists, tuples and sets.

    What occurs in several places is counted in each, so the result may be too large and is not too small.
    """
    size = 0
    left = [value]
    while left:
        one = left.pop()
        size += sys.getsizeof(one)
        # PERF: tenants choose how many of these there are.
        if isinstance(one, str):
            continue
        if isinstance(one, dict):
            left.extend(one)
            left.extend(one.values())
        elif isinstance(one, _COLLECTIONS):
            left.extend(one)
    return size
