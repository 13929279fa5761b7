# SPDX-License-Identifier: Apache-2.0
"""Waiting in the thread, or the greenlet, that serves the request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from zaqar.errors import MessagesUnreadable, StoreUnavailable
from zaqar.model import QueueName
from zaqar.waiting.hub import Hub
from zaqar.waiting.registry import Waiter
from zaqar.waiting.waiters import Kind

T = TypeVar("T")

Watch = Callable[[Callable[[], None]], Callable[[], None]]
"""Is given a function to call when the client may have gone, and returns one that ends this."""


class Attempt(NamedTuple, Generic[T]):
    """What an attempt has found: the answer, whether it has messages, and whether it has as many as it may have."""

    answer: T
    is_served: bool
    is_full: bool


def wait_for(
    hub: Hub,
    address: QueueName,
    kind: Kind,
    *,
    seconds: float,
    attempt: Callable[[int | None], Attempt[T]],
    is_gone: Callable[[], bool],
    watch: Watch | None = None,
) -> Attempt[T] | None:
    """Make attempts whenever one may succeed, until one is served or the time is over. Raises TooManyWaiting.

    ``attempt`` is called with the version of the queue, or with None when the time is over; its errors are raised.
    Returns the last attempt, or None if there was none because the process drains, or if the client ``is_gone``: then
    nothing was taken for it. With ``watch`` a client that has gone waits no more.
    """
    deadline = time.monotonic() + seconds
    event = threading.Event()
    last: Attempt[T] | None = None
    waiter = hub.join(address, kind, wake=event.set)
    unwatch = None if watch is None else watch(event.set)
    try:
        while True:
            # Before anything is looked at, so that no wake-up is lost.
            event.clear()
            if waiter.is_over:
                return last
            if is_gone():
                return None
            if waiter.is_ready:
                version = waiter.begin()
                try:
                    last = attempt(version)
                except StoreUnavailable as exc:
                    # The others would fail as well, one after the other. They try when the store answers again; or at
                    # once, if it has answered and this attempt has met only messages that cannot be read.
                    waiter.finish(is_full=isinstance(exc, MessagesUnreadable), is_served=False)
                    raise
                waiter.finish(is_full=last.is_full, is_served=last.is_served)
                if last.is_served:
                    return last
            left = deadline - time.monotonic()
            if left <= 0 or not (waiter.is_ready or event.wait(left)):
                return _try_last(waiter, last, attempt, is_gone)
    finally:
        if unwatch is not None:
            unwatch()
        waiter.leave()


def _try_last(
    waiter: Waiter,
    last: Attempt[T] | None,
    attempt: Callable[[int | None], Attempt[T]],
    is_gone: Callable[[], bool],
) -> Attempt[T] | None:
    """Make an attempt at the end of the time, for a taker to which an empty answer may be false otherwise.

    It has not made one yet, or others have their turns right now, because messages are free.
    """
    if last is not None and (waiter.kind is not Kind.TAKER or waiter.queue.turn is None):
        return last
    return None if is_gone() else attempt(None)
