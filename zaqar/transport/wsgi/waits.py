# SPDX-License-Identifier: Apache-2.0
"""Requests over HTTP that wait for messages: the parameter ``wait``, and the thread or greenlet that waits.

A server that holds a thread for each request must keep one for requests that do not wait; :class:`WaitSlots` does that.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import TypeVar

import falcon

from zaqar.access.http_server import count_threads, is_client_gone, is_loaded_before_fork
from zaqar.errors import InvalidInput
from zaqar.limits import Limits
from zaqar.schemas.fields import parse_integer
from zaqar.service.awaited import Awaited
from zaqar.transport.wsgi.client_watch import ClientWatch
from zaqar.transport.wsgi.requests import Query
from zaqar.waiting.blocking import Attempt, wait_for
from zaqar.waiting.hub import Hub
from zaqar.waiting.registry import Kind, TooManyWaiting

_log = logging.getLogger(__name__)

T = TypeVar("T")

THREAD_SECONDS = 5
"""Longest time that a request may wait if it holds a thread of the server."""

_RETRY_AFTER = "1"


class WaitSlots:
    """Limits how many requests wait at a time, and how long, by the kind of HTTP server. Any thread may use it."""

    def __init__(self, count: Callable[[], int | None] = lambda: None) -> None:
        """``count`` returns the threads of the worker, or None if a waiting request holds none. It is called once."""
        self._count = count
        self._lock = threading.Lock()
        self._is_counted = False
        self._most: int | None = None
        self._taken = 0

    @classmethod
    def of_server(cls) -> WaitSlots:
        """The slots for the HTTP server of this process. Logs their number."""
        slots = cls(count_threads)
        if not is_loaded_before_fork():
            with slots._lock:
                slots._find_most()
        return slots

    @contextmanager
    def hold(self) -> Iterator[float]:
        """Hold a slot. Yields the seconds that the request may wait. Raises TooManyWaiting if no slot is left."""
        with self._lock:
            most = self._find_most()
            if most is not None and self._taken >= most:
                raise TooManyWaiting(of_project=False)
            self._taken += 1
        try:
            yield float("inf") if most is None else THREAD_SECONDS
        finally:
            with self._lock:
                self._taken -= 1

    def _find_most(self) -> int | None:
        if not self._is_counted:
            threads = self._count()
            self._most = None if threads is None else max(0, threads - 1)
            self._is_counted = True
            if self._most is not None:
                _log.info(
                    "This server holds a thread for each request, and a worker has %d. At most %d requests of a worker "
                    "wait for messages at a time, each for at most %d s; further ones are answered at once.",
                    threads,
                    self._most,
                    THREAD_SECONDS,
                )
        return self._most


class Waits:
    """Serves the requests that have the parameter ``wait``."""

    def __init__(self, hub: Hub, limits: Limits, slots: WaitSlots, watch: ClientWatch) -> None:
        self._hub = hub
        self._limits = limits
        self._slots = slots
        self._watch = watch

    def seconds(self, query: Query) -> int:
        """The parameter ``wait`` in seconds, 0 if it is absent. Raises InvalidInput, which names it."""
        return parse_integer(query["wait"], 0, self._limits.max_wait, field="wait") if "wait" in query else 0

    def is_client_gone(self, req: falcon.Request) -> bool:
        """Whether the client has closed its connection, as far as the server shows that. Does not block."""
        # A worker that drains stops reading from its connections, which cannot be told from a closed connection.
        return not self._hub.registry.is_draining and is_client_gone(req.env)

    def serve(self, req: falcon.Request, resp: falcon.Response, awaited: Awaited[T], seconds: int) -> T:
        """Return the answer as soon as it has messages, or at the end of the time.

        If too many other requests wait, or if the process drains, the request is answered at once. An answer without
        messages then has the header ``Retry-After``. No messages are taken for a client that has closed its connection.
        """
        if not seconds:
            return awaited.answer_now()
        last: Attempt[T] | None = None
        is_gone = partial(self.is_client_gone, req)
        if not self._has_to_queue(awaited) and (awaited.is_over or not is_gone()):
            last = awaited.attempt(None)
        if last is None or not last.is_served:
            try:
                last = self._wait(req, awaited, seconds, is_gone) or last
                is_early = self._hub.registry.is_draining
            except TooManyWaiting:
                # The request has made no attempt yet if others waited before it. An answer without messages must be
                # true now, so try once, although that overtakes them.
                last = last or awaited.attempt(None)
                is_early = True
            if is_early and (last is None or not last.is_served):
                resp.set_header("Retry-After", _RETRY_AFTER)
        return awaited.finish(awaited.nothing() if last is None else last.answer)

    def _has_to_queue(self, awaited: Awaited[T]) -> bool:
        """Whether other requests already wait to take messages from this queue, so that this one has to queue."""
        return awaited.kind is Kind.TAKER and self._hub.registry.has_takers(awaited.queue_name)

    def _wait(
        self, req: falcon.Request, awaited: Awaited[T], seconds: int, is_gone: Callable[[], bool]
    ) -> Attempt[T] | None:
        if is_gone():
            return None
        began = perf_counter()
        try:
            with self._slots.hold() as most:
                return wait_for(
                    self._hub,
                    awaited.queue_name,
                    awaited.kind,
                    seconds=min(seconds, most),
                    attempt=awaited.attempt,
                    is_gone=is_gone,
                    watch=partial(self._watch.add, req.env),
                )
        finally:
            # This time is not one that the service has taken, so metrics leave it out.
            req.context.waited = perf_counter() - began


def refuse_wait(query: Query, other: str) -> None:
    """Raise InvalidInput if the query has ``wait`` together with another parameter that excludes waiting."""
    if "wait" in query and other in query:
        raise InvalidInput("wait", f"must not be given together with '{other}'")


class ReleasedUnlessWritten:
    """The body of an answer that names a claim. If it cannot be written, the claim is released.

    The server always calls ``close`` in the end (PEP 3333). If it has not read the iterator to its end by then, it
    could not write the body.
    """

    def __init__(self, body: bytes, *, release: Callable[[], None], is_gone: Callable[[], bool]) -> None:
        self._parts = [body]
        self._release = release
        self._is_gone = is_gone
        self._is_written = False

    def __iter__(self) -> ReleasedUnlessWritten:
        return self

    def __next__(self) -> bytes:
        if not self._parts:
            self._is_written = True
            raise StopIteration
        if self._is_gone():
            # The system accepts the first bytes to a connection that the client has closed, and then loses them. So
            # release the claim before the write.
            self.close()
        return self._parts.pop()

    def close(self) -> None:
        if not self._is_written:
            self._is_written = True
            self._release()
