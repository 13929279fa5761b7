# SPDX-License-Identifier: Apache-2.0
"""Streams of messages over HTTP, as server-sent events (HTML standard, section 9.2).

:class:`~zaqar.transport.wsgi.messages.MessagesResource` has :class:`EventStreams` answer the requests that ask for one.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import NamedTuple

import falcon
import msgspec

from zaqar.access.http_server import is_client_gone
from zaqar.app import Parts
from zaqar.clock import Clock
from zaqar.errors import InvalidInput, NotAcceptable, StoreUnavailable, TooManyStreams
from zaqar.limits import Limits
from zaqar.model import TOPIC, Message
from zaqar.schemas.fields import parse_boolean, parse_integer
from zaqar.service.streams import Event, Reset, Stream, check_marker
from zaqar.transport.wsgi.client_watch import ClientWatch
from zaqar.transport.wsgi.requests import EVENT_STREAM, Query
from zaqar.transport.wsgi.stream_access import StreamAccess
from zaqar.transport.wsgi.stream_turns import StreamTurns
from zaqar.waiting.registry import Waiter
from zaqar.waiting.waiters import Kind, TooManyWaiting

HEARTBEAT_SECONDS = 15.0
"""Time without an event after which a comment is sent, so that proxies do not close the connection as idle."""

RETRY_MILLISECONDS = 2000
"""How long a browser waits before it connects again. After a drain each browser gets a random time around this one."""

MAX_OUTAGE_PAUSE = 5.0
"""Longest time between two attempts to read while a store is away, in seconds."""

_PIECE_BYTES = 16 * 1024
"""Approximate number of bytes that are written at once. Other requests have their turn between two pieces."""

# A line break would end the line of the event. In JSON it can only be white space, because strings escape it, so it can
# be replaced by a space.
_NO_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")

Render = Callable[[Message, float], object]
"""Makes the object that msgspec encodes for a message. The age of the message is that at the given time."""


class _StreamRequest(NamedTuple):
    """The stream that a request asks for. ``field`` is the parameter or header that has the marker."""

    marker: str | None
    field: str
    from_start: bool
    echo: bool
    limit: int

    @classmethod
    def of_request(cls, req: falcon.Request, query: Query, limits: Limits) -> _StreamRequest:
        most = limits.max_messages_per_page
        if "ids" in query:
            raise InvalidInput("ids", "cannot be asked for in a stream")
        begin = query.get("from", "now")
        if begin not in ("now", "oldest"):
            raise InvalidInput("from", "must be 'now' or 'oldest'")
        if "from" in query and "marker" in query:
            raise InvalidInput("from", "cannot be given together with 'marker'")
        field, marker = "marker", query.get("marker")
        if marker is not None:
            check_marker(marker, field=field)
        # Last-Event-ID is the present position of the client. The marker is older: it is part of the URL.
        if last := req.env.get("HTTP_LAST_EVENT_ID"):
            field, marker = "Last-Event-ID", last
            check_marker(marker, field=field)
        echo = "echo" not in query or parse_boolean(query["echo"], field="echo")
        if not echo and not req.context.caller.client_id:
            raise InvalidInput("echo", "can be false only if the request has a Client-ID")
        limit = parse_integer(query["limit"], 1, most, field="limit") if "limit" in query else most
        return cls(marker, field, begin == "oldest", echo, limit)

    @property
    def is_resumed(self) -> bool:
        return self.field == "Last-Event-ID"


class EventStreams:
    """Answers requests with streams. ``is_served``: whether the HTTP server can keep many requests open."""

    def __init__(self, parts: Parts, watch: ClientWatch, *, is_served: bool) -> None:
        self._parts = parts
        self._is_served = is_served
        self._watch = watch
        self._turns = StreamTurns()

    def answer(self, req: falcon.Request, resp: falcon.Response, query: Query, render: Render) -> None:
        """Make the response a stream; or 204, which stops the reconnects of a client, if its topic was deleted.

        Raises NotAcceptable if the HTTP server cannot serve streams, TooManyStreams, Unauthorized and InvalidInput.
        """
        if not self._is_served:
            raise NotAcceptable(
                f"Accept: this server cannot serve '{EVENT_STREAM}', because it needs a thread for each open request. "
                "Use zaqar-server with gunicorn or the WebSocket API, or ask for 'application/json' with 'wait'."
            )
        parts, queue_name = self._parts, req.context.queue_name
        wanted = _StreamRequest.of_request(req, query, parts.limits)
        access = StreamAccess.of_request(parts, req)
        if wanted.is_resumed and queue_name.kind == TOPIC and parts.streams.is_deleted(queue_name, wanted.marker or ""):
            resp.status = 204
            return
        resp.stream = self._open(req, wanted, access, render)
        resp.content_type = f"{EVENT_STREAM}; charset=utf-8"
        resp.set_header("Cache-Control", "no-store")
        # Make nginx pass on each event at once.
        resp.set_header("X-Accel-Buffering", "no")

    def _open(self, req: falcon.Request, wanted: _StreamRequest, access: StreamAccess, render: Render) -> EventStream:
        caller, queue_name, woken = req.context.caller, req.context.queue_name, threading.Event()
        try:
            waiter = self._parts.hub.join(queue_name, Kind.READER, wake=woken.set)
        except TooManyWaiting as exc:
            raise TooManyStreams(of_project=exc.of_project) from None
        try:
            stream = self._parts.streams.open(
                caller,
                queue_name,
                marker=wanted.marker,
                from_start=wanted.from_start,
                echo=wanted.echo,
                version=waiter.begin(),
            )
        except BaseException:
            waiter.leave()
            raise
        return EventStream(
            stream,
            waiter,
            woken,
            access,
            limit=wanted.limit,
            render=render,
            clock=self._parts.clock,
            reads=self._turns.reads(queue_name.project),
            wait_for_turn=partial(self._turns.wait, queue_name.project),
            is_gone=partial(is_client_gone, req.env),
            unwatch=self._watch.add(req.env, woken.set),
        )


class EventStream:
    """The body of the response. The server iterates over it, and calls :meth:`close` in the end in any case."""

    def __init__(
        self,
        stream: Stream,
        waiter: Waiter,
        woken: threading.Event,
        access: StreamAccess,
        *,
        limit: int,
        render: Render,
        clock: Clock,
        reads: threading.Semaphore,
        wait_for_turn: Callable[[], None],
        is_gone: Callable[[], bool],
        unwatch: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._waiter = waiter
        self._woken = woken
        self._access = access
        self._limit = limit
        self._render = render
        self._clock = clock
        self._reads = reads
        self._wait_for_turn = wait_for_turn
        self._is_gone = is_gone
        self._unwatch = unwatch
        self._heartbeat_at = 0.0
        self._retry_at = 0.0
        self._sent_marker = ""
        self._pieces = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        self._heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS
        return piece

    def close(self) -> None:
        """Stop waiting, and release everything that the stream holds."""
        self._pieces.close()
        self._unwatch()
        self._waiter.leave()

    def _run(self) -> Generator[bytes, None, None]:
        yield f"retry: {RETRY_MILLISECONDS}\n\n".encode() + self._open_event()
        while True:
            # Clear the event before the checks below: a wake-up that comes after it sets the event again, so it is not
            # lost.
            self._woken.clear()
            reason = self._reason_to_end()
            if reason is not None:
                yield self._bye(reason)
                return
            is_heartbeat, is_due = time.monotonic() >= self._heartbeat_at, self._is_due()
            if not (is_heartbeat or is_due):
                if self._woken.wait(self._seconds_to_wait()) and self._is_gone():
                    return
            elif self._is_gone():
                # Check before the write: the first write after the client has closed its connection still succeeds, and
                # its messages would be lost.
                return
            elif is_heartbeat:
                yield self._heartbeat()
            else:
                with self._reads:
                    self._wait_for_turn()
                    events = self._read()
                yield from self._write(events)

    def _reason_to_end(self) -> str | None:
        if self._waiter.is_over:
            return "drain"
        if self._stream.is_deleted and self._stream.queue_name.kind == TOPIC:
            return "deleted"
        return self._access.reason_to_end()

    def _is_due(self) -> bool:
        if time.monotonic() < self._retry_at:
            return False
        due = self._stream.next_due
        return self._waiter.is_ready or self._stream.is_ready or (due is not None and due <= self._clock())

    def _seconds_to_wait(self) -> float:
        now = time.monotonic()
        seconds = min(self._heartbeat_at - now, self._access.seconds_left)
        if now < self._retry_at:
            seconds = min(seconds, self._retry_at - now)
        elif self._stream.next_due is not None:
            seconds = min(seconds, self._stream.next_due - self._clock())
        return max(0.0, seconds)

    def _read(self) -> list[Event]:
        try:
            return self._stream.read(version=self._waiter.begin(), limit=self._limit)
        except StoreUnavailable as exc:
            # The position has not moved, so nothing is lost. Read again after the pause, even without a wake-up.
            self._stream.is_ready = True
            pause = min(float(exc.retry_after), MAX_OUTAGE_PAUSE)
            self._retry_at = time.monotonic() + pause * random.uniform(1.0, 1.5)  # noqa: S311, no secret
            return []

    def _write(self, events: list[Event]) -> Iterator[bytes]:
        piece = bytearray()
        for event in events:
            piece += self._format(event)
            self._sent_marker = event.marker
            if len(piece) >= _PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
                # gevent switches to other greenlets only if this one has to wait, which a fast client never causes.
                self._wait_for_turn()
                if self._waiter.is_over:
                    return
        if piece:
            yield bytes(piece)

    def _format(self, event: Event) -> bytes:
        if isinstance(event, Reset):
            return _frame("reset", {"reason": event.reason, "position": event.marker}, event.marker)
        return _frame("message", self._render(event.message, event.now), event.marker)

    def _open_event(self) -> bytes:
        # The event has an id, so that a browser whose connection breaks before the first message resumes here.
        marker = self._sent_marker = self._stream.marker
        return _frame("open", {"queue": self._stream.queue_name.name, "position": marker}, marker)

    def _bye(self, reason: str) -> bytes:
        frame = _frame("bye", {"reason": reason}, None)
        if reason != "drain":
            return frame
        # A random time, so that not all clients of this process come back at the same moment.
        milliseconds = random.randint(RETRY_MILLISECONDS // 4, RETRY_MILLISECONDS * 5 // 4)  # noqa: S311, no secret
        return f"retry: {milliseconds}\n".encode() + frame

    def _heartbeat(self) -> bytes:
        marker = self._stream.marker
        if marker == self._sent_marker:
            return b": beat\n\n"
        # The position has moved past messages that were skipped, or held back and deleted. Send it, so that a reconnect
        # does not read them again.
        self._sent_marker = marker
        return f": beat\nid: {marker}\n\n".encode()


def _frame(event: str, data: object, marker: str | None) -> bytes:
    """One event. A browser sends the last ``marker`` that it got as Last-Event-ID."""
    head = f"event: {event}\ndata: " if marker is None else f"id: {marker}\nevent: {event}\ndata: "
    return head.encode() + msgspec.json.encode(data).translate(_NO_LINE_BREAKS) + b"\n\n"
