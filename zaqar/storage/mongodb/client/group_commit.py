# SPDX-License-Identifier: Apache-2.0
"""Requests of one process about one queue that come at the same time are served together, by one of them.

A transaction costs the same whether it stores one post or twenty, most of it for the majority; and two that change one
fence collide. So whoever comes while another is being served waits, and all who waited go together with the next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from zaqar.errors import StaleQueue, StoreUnavailable

T = TypeVar("T", bound="Request")


@dataclass(eq=False, slots=True, kw_only=True)
class Request:
    """What somebody wants. ``answer`` is there when it was served; ``woken`` is set for who had to wait."""

    weight: int
    """In bytes or so. Those that are served together weigh no more than one Desk allows, or are one."""
    answer: Any = None
    served: bool = False
    failure: Exception | None = None
    woken: threading.Event | None = None
    leads: bool = False


class Desk(Generic[T]):
    """``serve`` returns when the request was served, alone or with others, in the order in which they came."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[T] = deque()
        self._busy = False

    def serve(self, request: T, work: Callable[[Sequence[T]], None]) -> Any:
        """``work`` sets the answer of each; what it raises is raised for all that are not ``served`` by then."""
        with self._lock:
            waits = self._busy
            if waits:
                request.woken = threading.Event()
                self._waiting.append(request)
            self._busy = True
        if request.woken is not None:
            self._wait(request, request.woken)
        if not request.served and request.failure is None:
            self._serve_with_others(request, work)
        if request.failure is not None:
            raise _anew(request.failure) from request.failure
        return request.answer

    def _wait(self, request: T, woken: threading.Event) -> None:
        called = False
        try:
            woken.wait()
            called = True
        finally:
            if not called:  # a greenlet that is killed must not take its turn with it
                with self._lock:
                    is_waiting = request in self._waiting
                    if is_waiting:
                        self._waiting.remove(request)
                if not is_waiting and request.leads:
                    self._end_turn([], None)

    def _serve_with_others(self, request: T, work: Callable[[Sequence[T]], None]) -> None:
        """It is this one's turn; the next turn goes to the first who is left waiting."""
        together = [request]
        failure: Exception | None = None
        try:
            with self._lock:
                weight = request.weight
                while self._waiting and weight + self._waiting[0].weight <= self._most:
                    together.append(self._waiting.popleft())
                    weight += together[-1].weight
            work(together)
            for each in together:
                each.served = True
        except (StaleQueue, StoreUnavailable) as exc:
            failure = exc
        finally:
            self._end_turn(together, failure)

    def _end_turn(self, together: list[T], failure: Exception | None) -> None:
        """Without a ``failure`` those who were not served share the lot of one that was killed: nobody knows."""
        with self._lock:
            refused = [each for each in together if not each.served]
            if refused and isinstance(failure, StoreUnavailable):
                # They waited as long as anybody should, and it is away for them too.
                refused.extend(self._waiting)
                together.extend(self._waiting)
                self._waiting.clear()
            for each in refused:
                each.failure = failure or StoreUnavailable()
            if self._waiting:
                self._waiting[0].leads = True
                together.append(self._waiting.popleft())
            else:
                self._busy = False
        for each in together:
            if each.woken is not None:
                each.woken.set()


def _anew(failure: Exception) -> Exception:
    """The same error as an object of its own, as each is raised in a thread of its own."""
    if isinstance(failure, StaleQueue):
        return StaleQueue(failure.uid)
    error = StoreUnavailable()
    error.is_logged = isinstance(failure, StoreUnavailable) and failure.is_logged
    return error
