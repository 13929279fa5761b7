# SPDX-License-Identifier: Apache-2.0
"""The streams of one connection. It does no I/O: the actions open and close streams here, in threads, and
:class:`~zaqar.transport.websocket.stream_sending.StreamSender` sends their frames on the event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from zaqar.errors import Conflict, InvalidInput, NotFound
from zaqar.model import QueueName
from zaqar.schemas.messages import Extras
from zaqar.service.streams import Stream, Streams
from zaqar.transport.websocket.codec import Format
from zaqar.waiting.registry import Waiter

MAX_STREAMS = 20
"""Streams that one connection may have."""

MAX_CREDIT = 1_000_000
"""Messages for which a client may have given credit and that were not sent yet."""


@dataclass(slots=True, eq=False)
class OpenStream:
    """One stream. ``limit`` is the number of messages of a batch, ``expires`` the end of the signature that opened it.

    ``marker`` is that of the last frame that was sent. The position of ``stream`` may be behind frames not sent yet.
    ``granted`` changes in threads only, and ``sent`` on the event loop only, so no lock is needed.
    """

    queue_name: QueueName
    stream: Stream
    waiter: Waiter
    format: Format
    limit: int
    extras: Extras
    expires: float | None
    marker: str
    granted: int
    sent: int = 0
    failures: int = 0
    """Number of reads that have failed since the last successful one."""
    retry_at: float = 0.0
    """When to read again after a failure, by the clock of the event loop."""
    is_open: bool = True

    @property
    def credit(self) -> int:
        """Messages that may be sent."""
        return self.granted - self.sent

    def is_expired(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now


class StreamTable:
    """The streams of one connection. Any thread may use it.

    ``changed`` is called, in any thread, when there may be something to send.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[QueueName, OpenStream] = {}
        self._is_closed = False
        self.changed: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._streams)

    def all(self) -> list[OpenStream]:
        with self._lock:
            return list(self._streams.values())

    def use(self, streams: Streams) -> None:
        """Read with these from now on. Called after the configuration was reloaded."""
        for opened in self.all():
            opened.stream.use(streams)

    def check_room(self, queue_name: QueueName) -> None:
        """Raise Conflict if the connection already follows this queue or has MAX_STREAMS streams."""
        with self._lock:
            self._check_room(queue_name)

    def _check_room(self, queue_name: QueueName) -> None:
        if self._is_closed:
            raise Conflict("The connection is being closed.")
        if queue_name in self._streams:
            raise Conflict(f"This connection has a stream of '{queue_name.name}' already.")
        if len(self._streams) >= MAX_STREAMS:
            raise Conflict(f"This connection has {MAX_STREAMS} streams, and no more are allowed.")

    def add(self, opened: OpenStream) -> None:
        """Begin to send this stream. Raises Conflict as :meth:`check_room` does; the caller then leaves the waiter."""
        with self._lock:
            self._check_room(opened.queue_name)
            self._streams[opened.queue_name] = opened
        self.changed()

    def grant(self, queue_name: QueueName, credit: int) -> None:
        """Allow ``credit`` more messages. Raises NotFound if there is no such stream, InvalidInput if too much."""
        with self._lock:
            opened = self._streams.get(queue_name)
            if opened is None:
                raise NotFound(f"This connection has no stream of '{queue_name.name}'.")
            if opened.credit + credit > MAX_CREDIT:
                raise InvalidInput("credit", f"would be more than {MAX_CREDIT} with the credit that is left")
            opened.granted += credit
        self.changed()

    def expire_all(self) -> None:
        """End all streams, because the rights with which they were opened have ended."""
        for opened in self.all():
            opened.expires = float("-inf")
        self.changed()

    def end(self, queue_name: QueueName) -> None:
        """End the stream of this queue, if there is one, so that nothing more is sent."""
        with self._lock:
            opened = self._streams.pop(queue_name, None)
        if opened is not None:
            _leave(opened)

    def end_if_open(self, opened: OpenStream) -> bool:
        """End this stream. Returns False if it has ended already; another one may have its queue then."""
        with self._lock:
            is_open = self._streams.get(opened.queue_name) is opened
            if is_open:
                del self._streams[opened.queue_name]
        if is_open:
            _leave(opened)
        return is_open

    def close(self) -> list[OpenStream]:
        """End all streams, and refuse new ones. Returns the streams that were open."""
        with self._lock:
            self._is_closed = True
            ended = list(self._streams.values())
            self._streams.clear()
        return [_leave(opened) for opened in ended]


def _leave(opened: OpenStream) -> OpenStream:
    opened.is_open = False
    opened.waiter.leave()
    return opened
