# SPDX-License-Identifier: Apache-2.0
"""A cache with a limit in bytes, for data whose size tenants choose: queues, tokens, policy decisions, filters.

A limit on the number of entries would not bound the memory, because a tenant chooses how large an entry is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

OVERHEAD = 300
"""Bytes that an entry takes besides its key and its value: its slots in two dicts, each with room to grow."""


class BoundedCache(Generic[K, V]):
    """A mapping that removes its oldest entries as soon as all entries together take more than ``most`` bytes.

    Threads may share it. ``get`` is the method of the dict itself and takes no lock, because every request calls it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[K, V] = {}
        self._sizes: dict[K, int] = {}
        self._lock = threading.Lock()
        self.size = 0
        """Bytes that all entries take together: the sum of the sizes that callers passed to ``put``, with OVERHEAD."""
        self.get = self._values.get

    def put(self, key: K, value: V, size: int) -> None:
        """Store a value that takes ``size`` bytes with its key. A value that alone exceeds the limit is not stored."""
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
        """Remove the entry. An absent entry is no error."""
        with self._lock:
            self._remove(key)

    def _remove(self, key: K) -> None:
        if self._values.pop(key, None) is not None:
            self.size -= self._sizes.pop(key)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[K]:
        """Iterate over a copy of the keys, the oldest first."""
        with self._lock:
            return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)


_COLLECTIONS = (list, tuple, set, frozenset)


def size_of(value: Any) -> int:
    """Return how many bytes a value takes in memory, with everything in its dicts, lists, tuples and sets.

    An object that occurs several times is counted each time, so the result may be too large but is not too small.
    """
    size = 0
    left = [value]
    while left:
        item = left.pop()
        size += sys.getsizeof(item)
        # PERF: strings first, because tenants choose how many there are.
        if isinstance(item, str):
            continue
        if isinstance(item, dict):
            left.extend(item)
            left.extend(item.values())
        elif isinstance(item, _COLLECTIONS):
            left.extend(item)
    return size
