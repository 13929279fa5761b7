# SPDX-License-Identifier: Apache-2.0
"""Group commit: requests of one process about one queue that come at the same time share a transaction.

A transaction costs about the same whether it stores one post or twenty, because most of the time goes into the
acknowledgement of the majority. Besides, two transactions that change one fence conflict. So a request that comes while
another one is being worked on waits, and all that have waited go together into the next transaction.

``MongoMessages.post`` and ``FirstFree`` submit their requests here.

The steps of one request::

    submit --nobody is busy------------------------> leader: takes the waiting requests along, runs the work, answers
      |                                                ^                                                           |
      `--a leader is busy--> waits --woken as leader---'                                                           |
                               |                                                                                   |
                               `--woken with an answer or a failure <------------- for each request of the group --'

There is at most one leader. It passes the lead on when it ends, in whatever way it ends, so no request waits for ever.
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
    """What one caller asks for. The work sets ``answer``."""

    size: int
    """In the unit of the GroupCommit's ``max_size``, such as bytes or messages."""
    answer: Any = None
    is_done: bool = False
    failure: Exception | None = None
    woken: threading.Event | None = None
    """Set when the request is answered, has failed or becomes the leader; None if it never had to wait."""
    is_leader: bool = False
    """Set before ``woken`` if the caller that wakes up has to lead the next group."""


class GroupCommit(Generic[T]):
    """The requests of one kind about one queue, in the order in which they came."""

    def __init__(self, max_size: int) -> None:
        """``max_size`` is the total size of one group. A single request may be larger."""
        self._max_size = max_size
        self._lock = threading.Lock()
        self._waiting: deque[T] = deque()
        self._is_busy = False
        """Whether there is a leader. It stays set while the lead is passed on."""

    def submit(self, request: T, work: Callable[[Sequence[T]], None]) -> Any:
        """Return the answer of the request when ``work`` has dealt with it, alone or in a group.

        ``work`` gets the requests of the group and sets the answer of each. If it raises, its error is raised for each
        request of the group that is not ``is_done`` by then. All requests of one GroupCommit pass equivalent ``work``:
        that of the leader runs.
        """
        with self._lock:
            if self._is_busy:
                request.woken = threading.Event()
                self._waiting.append(request)
            self._is_busy = True
        if request.woken is not None:
            self._wait(request, request.woken)
        if not request.is_done and request.failure is None:
            # Either nobody was busy, or the last leader has made this request the leader.
            self._lead(request, work)
        if request.failure is not None:
            raise _copy_of(request.failure) from request.failure
        return request.answer

    def _wait(self, request: T, woken: threading.Event) -> None:
        was_woken = False
        try:
            woken.wait()
            was_woken = True
        finally:
            if not was_woken:
                # The greenlet was killed while it waited. It leaves the queue of requests, unless a leader has taken
                # the request out already. If that made this request the leader, it has to pass the lead on.
                with self._lock:
                    is_waiting = request in self._waiting
                    if is_waiting:
                        self._waiting.remove(request)
                if not is_waiting and request.is_leader:
                    self._pass_on([], None)

    def _lead(self, request: T, work: Callable[[Sequence[T]], None]) -> None:
        """Work on the request and on those that wait, as many as ``max_size`` allows."""
        group = [request]
        failure: Exception | None = None
        try:
            with self._lock:
                size = request.size
                while self._waiting and size + self._waiting[0].size <= self._max_size:
                    group.append(self._waiting.popleft())
                    size += group[-1].size
            work(group)
            for each in group:
                each.is_done = True
        except (StaleQueue, StoreUnavailable) as exc:
            failure = exc
        finally:
            # Also if the leader is killed, or meets an error that is a defect: then ``failure`` is None, and the error
            # goes on to the caller of the leader.
            self._pass_on(group, failure)

    def _pass_on(self, group: list[T], failure: Exception | None) -> None:
        """Wake the group, and make the first request that waits the leader.

        Requests of the group that are not done share ``failure``. If there is none, the leader broke off, and nobody
        knows whether its transaction was committed: they get StoreUnavailable, as after any lost answer.
        """
        with self._lock:
            failed = [each for each in group if not each.is_done]
            to_wake = list(group)
            if failed and isinstance(failure, StoreUnavailable):
                # The store is away for the waiting requests too, and they have waited for a whole time limit.
                failed.extend(self._waiting)
                to_wake.extend(self._waiting)
                self._waiting.clear()
            for each in failed:
                each.failure = failure or StoreUnavailable()
            if self._waiting:
                # ``_is_busy`` stays set, so a request that comes before the new leader wakes up waits behind it.
                self._waiting[0].is_leader = True
                to_wake.append(self._waiting.popleft())
            else:
                self._is_busy = False
        for each in to_wake:
            if each.woken is not None:
                each.woken.set()


def _copy_of(failure: Exception) -> Exception:
    """An equal error. Each request raises an object of its own, because each has a traceback of its own."""
    if isinstance(failure, StaleQueue):
        return StaleQueue(failure.uid)
    error = StoreUnavailable()
    error.is_logged = isinstance(failure, StoreUnavailable) and failure.is_logged
    return error
