# SPDX-License-Identifier: Apache-2.0
"""One read for all readers of a queue that are at the same position."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

MAX_KEPT = 64
"""Results that are kept. Each is at most one page of messages."""


@dataclass(slots=True)
class _Read:
    version: int
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


class SharedReads:
    """Any thread may use it, and greenlets too.

    A result is shared by callers with the same key. A caller that was woken because something has changed passes a
    larger version than before, and gets no result of a read that began before that change.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: OrderedDict[Hashable, _Read] = OrderedDict()

    def read(self, key: Hashable, version: int, call: Callable[[], T]) -> T:
        """The result of ``call`` by this or by another caller. Raises what ``call`` raises, for all callers alike."""
        with self._lock:
            found = self._reads.get(key)
            is_first = found is None or found.version < version
            if is_first:
                found = self._reads[key] = _Read(version)
                self._reads.move_to_end(key)
                while len(self._reads) > MAX_KEPT:
                    self._reads.popitem(last=False)
            assert found is not None
        if not is_first:
            found.done.wait()
            if found.error is not None:
                raise found.error
            return found.result  # type: ignore[no-any-return]
        try:
            found.result = result = call()
        except BaseException as exc:
            found.error = exc
            with self._lock:
                # The next caller tries again.
                if self._reads.get(key) is found:
                    del self._reads[key]
            raise
        finally:
            found.done.set()
        return result

    def kept(self, key: Hashable, version: int) -> tuple[Any] | None:
        """The result that :meth:`read` would return without a call and without waiting, in a tuple; else None."""
        found = self._reads.get(key)
        if found is None or found.version < version or not found.done.is_set() or found.error is not None:
            return None
        return (found.result,)
