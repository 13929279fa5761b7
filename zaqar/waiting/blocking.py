# SPDX-License-Identifier: Apache-2.0
"""Waiting in the thread, or the greenlet, that serves the request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from zaqar.errors import StoreUnavailable
from zaqar.model import Address
from zaqar.waiting.hub import Hub
from zaqar.waiting.waiters import Kind


class Attempt(NamedTuple):
    """What an attempt has found: the answer, whether it has messages, and whether it has as many as it may have."""

    answer: object
    is_served: bool
    is_full: bool


def wait_for(
    hub: Hub,
    address: Address,
    kind: Kind,
    *,
    seconds: float,
    attempt: Callable[[int], Attempt],
    is_gone: Callable[[], bool],
) -> Attempt | None:
    """Make attempts whenever one may succeed, until one is served or the time is over. Raises TooManyWaiting.

    ``attempt`` is called with the version of the queue; its errors are raised. Returns the last attempt, or None if
    there was none or if the client ``is_gone``: then nothing was taken for it.
    """
    deadline = time.monotonic() + seconds
    event = threading.Event()
    last: Attempt | None = None
    waiter = hub.join(address, kind, wake=event.set)
    try:
        while not waiter.is_over:
            if waiter.is_ready:
                if is_gone():
                    return None
                event.clear()
                version = waiter.begin()
                try:
                    last = attempt(version)
                except StoreUnavailable:
                    # The others would fail as well, one after the other. They try when the store answers again.
                    waiter.finish(is_full=False, is_served=False)
                    raise
                waiter.finish(is_full=last.is_full, is_served=last.is_served)
                if last.is_served:
                    return last
            left = deadline - time.monotonic()
            if left <= 0 or not (waiter.is_ready or event.wait(left)):
                break
        return last
    finally:
        waiter.leave()
