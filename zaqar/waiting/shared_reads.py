# SPDX-License-Identifier: Apache-2.0
"""One read of a store for all readers that are at the same position of a queue. Streams and waiting lists use it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from zaqar.bounded_cache import size_of
from zaqar.model import Message

T = TypeVar("T")

MAX_KEPT_BYTES = 16 * 1024 * 1024
"""Memory of all results that are kept. A larger result is shared only by the callers that wait for it."""

KEEP_SECONDS = 2.0
"""How long a result is kept. All readers of a queue are woken at the same time."""

_READ_BYTES = 1000

_moments = count(1)
"""Shared by all instances, because a stream uses another one after the configuration was reloaded."""


def moment() -> int:
    """A number that grows with each call and with each read that begins; see :meth:`SharedReads.read`."""
    return next(_moments)


@dataclass(slots=True)
class _Read:
    version: int
    began: int = field(default_factory=moment)
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None
    size: int = 0
    until: float = 0.0

    def is_usable(self, version: int, since: int) -> bool:
        return self.version >= version and self.began > since


class SharedReads:
    """Shares the results of reads among callers. Any thread or greenlet may use it.

    Callers with the same key share a result. A caller that was woken by a change passes a larger version than before,
    and gets no result of a read that began before that change. A delete makes no new version, so a result may have
    messages that were deleted after its read began. A caller to whom that matters passes a :func:`moment`, and gets
    only results of reads that began after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, _Read] = {}
        self._kept: OrderedDict[Hashable, _Read] = OrderedDict()
        self.size = 0
        """Bytes of the results that are kept."""

    def read(self, key: Hashable, version: int, call: Callable[[], T], *, since: int = 0) -> T:
        """The result of ``call``, made by this or by another caller. An error of ``call`` is raised to each of them.

        A result is used only if its ``call`` began after the moment ``since``; 0 allows all.
        """
        while True:
            with self._lock:
                self._drop_old()
                found = self._find(key, version, since)
                if found is None:
                    own = self._running[key] = _Read(version)
                    break
            found.done.wait()
            if found.error is None:
                return found.result  # type: ignore[no-any-return]
            if isinstance(found.error, Exception):
                raise found.error.with_traceback(None)
            # The thread or greenlet of the caller that read was ended. That says nothing about the store: read again.
        return self._call(key, own, call)

    def _call(self, key: Hashable, own: _Read, call: Callable[[], T]) -> T:
        try:
            own.result = result = call()
        except BaseException as exc:
            own.error = exc
            raise
        finally:
            with self._lock:
                # A caller with a larger version may have begun another read for the key meanwhile. Keep that one.
                is_newest = self._running.get(key) is own
                if is_newest:
                    del self._running[key]
                    if own.error is None:
                        self._keep(key, own)
            own.done.set()
        return result

    def kept(self, key: Hashable, version: int, *, since: int = 0) -> tuple[Any] | None:
        """The kept result in a tuple, if :meth:`read` would return it without a call and without waiting; else None."""
        with self._lock:
            self._drop_old()
            found = self._kept.get(key)
            return (found.result,) if found is not None and found.is_usable(version, since) else None

    def drop_old(self) -> None:
        """Free the memory of results that are too old to be used."""
        with self._lock:
            self._drop_old()

    def _find(self, key: Hashable, version: int, since: int) -> _Read | None:
        for reads in (self._kept, self._running):
            found = reads.get(key)
            if found is not None and found.is_usable(version, since):
                return found
        return None

    def _keep(self, key: Hashable, read: _Read) -> None:
        self._drop(key)
        read.size = _size_of(read.result)
        if read.size > MAX_KEPT_BYTES:
            return
        read.until = time.monotonic() + KEEP_SECONDS
        self._kept[key] = read
        self.size += read.size
        while self.size > MAX_KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: Hashable) -> None:
        read = self._kept.pop(key, None)
        if read is not None:
            self.size -= read.size

    def _drop_old(self) -> None:
        now = time.monotonic()
        while self._kept and (oldest := next(iter(self._kept.items())))[1].until <= now:
            self._drop(oldest[0])


def _size_of(result: Any) -> int:
    """Approximate bytes in memory. The bodies of messages are nearly all of it."""
    size, left = _READ_BYTES, [result]
    while left:
        one = left.pop()
        if isinstance(one, Message):
            size += _READ_BYTES + len(one.body)
        elif isinstance(one, list | tuple):
            left.extend(one)
        else:
            size += size_of(one)
    return size
