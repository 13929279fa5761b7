# SPDX-License-Identifier: Apache-2.0
"""Waiting in the thread, or the greenlet, that serves the request. The HTTP transport uses it for ``wait``."""

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
"""Takes a function to call when the client may have closed its connection. Returns a function that ends the watch."""


class Attempt(NamedTuple, Generic[T]):
    """The result of an attempt.

    ``is_served``: whether the answer has messages. ``is_full``: whether it has as many as the request allows, so that
    the queue may have more.
    """

    answer: T
    is_served: bool
    is_full: bool


def wait_for(
    hub: Hub,
    queue_name: QueueName,
    kind: Kind,
    *,
    seconds: float,
    attempt: Callable[[int | None], Attempt[T]],
    is_gone: Callable[[], bool],
    watch: Watch | None = None,
) -> Attempt[T] | None:
    """Make attempts whenever one may succeed, until one is served or the time is over. Raises TooManyWaiting.

    ``seconds`` is the time to wait. ``attempt`` is called with the version of the queue, or with None when the time is
    over; its errors are raised. Returns the last attempt. Returns None if there was none because the process drains, or
    if the client ``is_gone``: then nothing was taken for it. With ``watch`` the wait ends early when the client closes
    its connection.
    """
    deadline = time.monotonic() + seconds
    event = threading.Event()
    last: Attempt[T] | None = None
    waiter = hub.join(queue_name, kind, wake=event.set)
    unwatch = None if watch is None else watch(event.set)
    try:
        while True:
            # Clear the event before the checks below, so that no later wake-up is lost.
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
                    # While the store is away the attempts of all takers would fail, so do not pass the turn on: pollers
                    # wake the takers later. After MessagesUnreadable, which is an answer, the next one may succeed.
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
    """Make one more attempt at the end of the time if an empty answer could be wrong; else return the last one.

    That is so for a taker that has made no attempt yet, or while another taker has the turn, because messages are free.
    """
    if last is not None and (waiter.kind is not Kind.TAKER or waiter.queue.turn is None):
        return last
    return None if is_gone() else attempt(None)
