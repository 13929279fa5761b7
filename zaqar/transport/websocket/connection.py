# SPDX-License-Identifier: Apache-2.0
"""One connection: requests are read, carried out and answered one at a time, and notifications are sent in between.

A :class:`Connection` joins three things: the socket (:class:`~zaqar.transport.websocket.protocol.BoundedConnection`),
the session, which knows the API and does no I/O of its own, and the threads that :class:`Admission` hands out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import perf_counter
from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from zaqar.app import Parts
from zaqar.errors import StoreUnavailable, TooBusy
from zaqar.metrics.families import OTHER, WEBSOCKET_DURATION, WEBSOCKET_REQUESTS
from zaqar.transport.websocket import close_codes
from zaqar.transport.websocket.action import Pending
from zaqar.transport.websocket.admission import Slot
from zaqar.transport.websocket.close_codes import Close
from zaqar.transport.websocket.interface import Reply, Request, Session, is_answered
from zaqar.transport.websocket.memory import UNKNOWN_PROJECT, Account
from zaqar.transport.websocket.protocol import BoundedConnection
from zaqar.transport.websocket.pushes import Gone, TooSlow
from zaqar.transport.websocket.quiet_log import QuietLog
from zaqar.transport.websocket.rate_limit import TokenBucket
from zaqar.transport.websocket.server_context import ServerContext
from zaqar.transport.websocket.settings import UNAUTHENTICATED_FRAME_SIZE
from zaqar.transport.websocket.stream_sending import DRAIN, EXPIRED, StreamSender, bye
from zaqar.transport.websocket.token_watch import Timers, TokenWatch
from zaqar.transport.websocket.waiting import RequestWait, has_hung_up
from zaqar.waiting.registry import TooManyWaiting

_log = QuietLog(logging.getLogger(__name__))

SMALL_FRAME = 2 * 1024
"""Frames of up to this many bytes are decoded on the event loop, which takes half a millisecond at most."""

UNDO = "undo"
"""The store of a slot for calls that release claims."""

KEYSTONE = "keystone"
"""The store of a slot for requests that ask Keystone."""

_EXPANSION = 16
"""Largest ratio of the memory of a decoded request to the size of its frame."""

_NOT_TOLD = (1000, close_codes.GOING_AWAY, close_codes.SERVICE_RESTART, close_codes.TOO_MANY_CONNECTIONS)
"""Codes that are not logged here: the log has another line for them, or needs none."""

_BYES = {close_codes.GOING_AWAY: DRAIN, close_codes.AUTHENTICATION_EXPIRED: EXPIRED}
"""Reasons in the last frames of streams, by the code with which the connection is closed then."""


class Connection:
    """One client. :meth:`run` serves it until it is gone; :meth:`push` and :meth:`stop` come from other tasks."""

    def __init__(self, socket: BoundedConnection, session: Session, server: ServerContext) -> None:
        self.id = socket.id.hex
        self.session = session
        # By connection, because the project that a client names before it has authenticated may not be its own.
        self._keystone_slot = Slot(self.id, None, KEYSTONE)
        self._socket = socket
        self._server = server
        self._bucket = TokenBucket(server.settings.requests_per_second, socket.loop.time())
        # The right to send. A request holds it until its reply is sent, so no notification comes before the reply.
        self._turn = asyncio.Lock()
        # Held by an attempt of a request that has waited, so that the parts of the session do not change meanwhile.
        self._attempting = asyncio.Lock()
        self._wait = RequestWait(is_over=self._is_over)
        socket.connection_lost_waiter.add_done_callback(lambda _: self._wait.look())
        self._requests, self._replies = Account(server.memory.requests), Account(server.memory.replies)
        self._streamed = Account(server.memory.replies)
        self._streams = StreamSender(self, session.streams, self._streamed, lambda: self._server, socket.loop)
        session.streams.changed = self._look_at_streams
        self._pending_bytes = 0
        self._pushing: asyncio.Timeout | None = None
        """Ends a push that waits for a client that does not read."""
        self._closing: Close | None = None
        self._project: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers = Timers(socket.loop)
        self._token_watch = TokenWatch(
            session, self._timers, self._keystone_slot, server=lambda: self._server, start=self._start, close=self.close
        )

    def use(self, parts: Parts, server: ServerContext) -> None:
        """Use these parts and settings from the next request on."""
        self._server = server
        self._limit_frames()
        self._bucket = TokenBucket(server.settings.requests_per_second, self._socket.loop.time())
        self._start(self._use_in_turn(parts))

    async def _use_in_turn(self, parts: Parts) -> None:
        async with self._turn, self._attempting:
            self.session.use(parts)

    def _look_at_streams(self) -> None:
        """Make the sender of the streams look for work. Any thread may call it."""
        self._server.loop_time.call_from_thread(self._project or UNKNOWN_PROJECT, self._streams.look)

    # -- requests ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the client until the connection is closed."""
        settings = self._server.settings
        self._server.connections.add(self)
        self._limit_frames()
        self._socket.too_slow = self._end_slow
        if self._server.authenticates:
            self._timers.set("authentication", settings.authentication_timeout, self._give_up_authentication)
        self._note_activity()
        try:
            while self._closing is None:
                await self._serve_next()
            await self._close()
        except ConnectionClosed:
            pass
        finally:
            self._streams.close()
            _log_end(_log, self._socket, self.id, self._project)
            self._server.connections.remove(self)
            self._server.closed(self.id)
            self._enter_project(None)
            for account in (self._requests, self._replies, self._streamed):
                account.give_back()
            self._timers.cancel_all()
            for task in self._tasks:
                task.cancel()

    async def _serve_next(self) -> None:
        frame = await self._socket.recv()
        loop = self._socket.loop
        self._note_activity()
        try:
            if pause := self._bucket.take(1, loop.time()):
                # Nothing is read during the pause, so TCP makes the client wait.
                await asyncio.sleep(pause)
            await self._replies.wait(0)
            if len(frame) > SMALL_FRAME:
                await self._requests.wait(_EXPANSION * len(frame))
            await self._server.loop_time.wait(self._socket.project)
            await self._serve(frame)
        finally:
            self._requests.give_back()
            self._replies.give_back()
            self._socket.finish_message()

    async def _serve(self, frame: str | bytes) -> None:
        async with self._turn:
            began = perf_counter()
            if self._closing is not None or (answered := await self._answer(frame)) is None:
                return
            request, reply = answered
            seconds = perf_counter() - began
            if reply.pending is None:
                self._observe(request, reply, seconds)
                await self._send(reply)
                return
        # Wait without holding the turn, so that notifications and streams are sent meanwhile.
        with self._wait.hold():
            reply = await self._wait_for(request, reply.pending)
            self._observe(request, reply, seconds)
            async with self._turn:
                await self._send(reply)

    def _observe(self, request: Request, reply: Reply, seconds: float) -> None:
        recorder, access_log = self._server.recorder, self._server.access_log
        # A client may send any name of an action, but the labels of metrics have to be few.
        action = str(request.action) if request.operation is not None else OTHER
        if recorder is not None:
            recorder.add(WEBSOCKET_REQUESTS, (action, str(reply.status)))
            recorder.observe(WEBSOCKET_DURATION, (action,), seconds)
        if access_log is not None and (seconds >= access_log.slow or reply.status >= 500):
            queue = None if request.queue_name is None else request.queue_name.name
            access_log.note(
                "WS", action, reply.status, seconds, request_id=request.id, project=request.project, queue=queue
            )

    async def _send(self, reply: Reply) -> None:
        # The reply counts against the limit of memory until it is sent, which may have to wait for the client.
        self._replies.add(len(reply.frame), self.abort)
        is_sent = False
        try:
            await self._socket.send(reply.frame)
            # If the write has failed, no exception says so. A client that has closed the connection, as it may after it
            # has read the reply, keeps its claim.
            is_sent = not self._socket.transport.is_closing() or self._socket.protocol.close_rcvd is not None
        finally:
            if not is_sent and reply.undo is not None:
                await self._undo(reply.undo)
        if reply.close is not None:
            self._closing = Close(*reply.close)

    async def _undo(self, undo: Callable[[], None]) -> None:
        """Release a claim that the client does not know of."""
        # If the store is away, the claim expires by itself.
        with suppress(StoreUnavailable):
            await self._server.admission.run(Slot(self._project or self.id, None, UNDO, measures_store=False), undo)

    # -- requests that wait ------------------------------------------------------------------------------------------

    async def _wait_for(self, request: Request, pending: Pending[Any]) -> Reply:
        server, seconds, retry_after = self._server, float(pending.seconds), None
        if request.expires is not None:
            seconds = min(seconds, request.expires - server.clock())
        attempt = partial(self._try_again, request)
        try:
            reply = await self._wait.serve(
                pending, attempt, seconds=seconds, hub=server.hub, loop_time=server.loop_time
            )
        except TooManyWaiting:
            # The request cannot wait. If it has made no attempt, make one: an answer without messages must be true now.
            reply, retry_after = None if pending.last is not None else await attempt(None), 1
        if reply is not None and reply.pending is None:
            return reply
        end = partial(self.session.end_wait, request, retry_after=retry_after)
        ended = end() if pending.ends_at_once else await self._run(request, end)
        assert ended is not None
        return ended

    async def _try_again(self, request: Request, version: int | None) -> Reply | None:
        file = self._socket.transport.get_extra_info("socket").fileno()

        def attempt() -> Reply | None:
            # Check again in the thread, because the call may have waited for the thread: do not take a message for a
            # client that has closed its connection.
            return None if self._is_over() or has_hung_up(file) else self.session.answer(request, version)

        async with self._attempting:
            return await self._run(request, attempt)

    def _is_over(self) -> bool:
        socket = self._socket
        return self._closing is not None or socket.protocol.state is not State.OPEN or socket.transport.is_closing()

    async def _run(self, request: Request, call: Callable[[], Reply | None]) -> Reply | None:
        """Make a call for a request in a thread, within the limits of its project, queue and store."""
        server = self._server
        if self.session.asks_keystone(request):
            slot = self._keystone_slot
        else:
            project = request.project or self.id
            slot = Slot(project, request.queue_name, server.store_of(request), measures_store=not request.asks_others)
        try:
            return await server.admission.run(slot, call, answered=is_answered)
        except StoreUnavailable as exc:
            return self.session.refuse(request, exc)

    async def _answer(self, frame: str | bytes) -> tuple[Request, Reply] | None:
        """The request in a frame, and its reply; None if the connection is to be closed instead."""
        session, server = self.session, self._server
        if len(frame) <= SMALL_FRAME:
            request = session.read(frame)
        else:
            try:
                request = await server.decode(self._project or "", partial(session.read, frame))
            except TooBusy:
                # The request is not decoded, so a reply cannot repeat it.
                self._closing = Close(close_codes.TRY_AGAIN_LATER, "The server is too busy.")
                return None
        if request.reply is not None:
            return request, request.reply
        if not server.authenticates and request.project and not self._enter_project(request.project):
            return None
        reply = await self._run(request, partial(session.answer, request))
        assert reply is not None
        if server.authenticates and session.identity is None and reply.status < 400:
            # A signed frame was served. Count its connection too, or one signed URL could take all connections.
            self._enter_project(request.project)
        return (request, reply) if self._note_identity(reply) else None

    def _note_identity(self, reply: Reply) -> bool:
        """Note the identity of the client after a reply; False if its project has too many connections."""
        if reply.status < 400:
            # The client has authenticated, or its signed frame was served.
            self._timers.cancel("authentication")
        identity = self.session.identity
        if identity is not None and not self._enter_project(identity.project):
            return False
        self._token_watch.look()
        return True

    def _enter_project(self, project: str | None) -> bool:
        """Count as a connection of this project. If it has too many, return False and have the connection closed."""
        if project == self._project:
            return True
        connections = self._server.connections
        if project is not None:
            if connections.count(project) >= self._server.settings.max_connections_per_project:
                _log.tell(
                    logging.INFO,
                    close_codes.TOO_MANY_CONNECTIONS,
                    "A connection of project %s was closed, as it has %d; see max_connections_per_project.",
                    project,
                    connections.count(project),
                )
                self._closing = Close(close_codes.TOO_MANY_CONNECTIONS, "The project has too many connections.")
                return False
            connections.enter(project)
        if self._project is not None:
            connections.leave(self._project)
        self._project = project
        for each in (self._requests, self._replies, self._streamed, self._socket):
            each.enter(project or UNKNOWN_PROJECT)
        self._limit_frames()
        return True

    def _limit_frames(self) -> None:
        is_unauthenticated = self._server.authenticates and self._project is None
        self._socket.use(self._server.settings, most=UNAUTHENTICATED_FRAME_SIZE if is_unauthenticated else None)

    # -- notifications -----------------------------------------------------------------------------------------------

    def encode(self, notification: bytes) -> str | bytes:
        """The frame of a notification, which is given as JSON, in the format of the request that subscribed."""
        return self.session.push(msgspec.Raw(notification))

    async def push(self, frames: Sequence[str | bytes]) -> None:
        """Send frames in order, after the reply to the request that is under way and after earlier pushes.

        Returns when they have been handed to the operating system, except for the bytes in a small buffer. Raises
        TooSlow if more than ``max_pending_push_size`` bytes are waiting or if earlier frames are not sent within
        ``write_timeout``, and Gone if the connection ends.
        """
        async with self.sending(sum(map(len, frames))) as send:
            for frame in frames:
                await send(frame)

    @asynccontextmanager
    async def sending(self, size: int) -> AsyncIterator[Callable[[str | bytes], Awaitable[None]]]:
        """The right to send frames of ``size`` bytes in all, as a function that sends one. Raises as :meth:`push`."""
        settings = self._server.settings
        if self._closing is not None:
            raise Gone
        if self._pending_bytes and self._pending_bytes + size > settings.max_pending_push_size:
            raise TooSlow
        self._pending_bytes += size
        try:
            try:
                async with asyncio.timeout(settings.write_timeout):
                    await self._turn.acquire()
            except TimeoutError:
                raise TooSlow from None
            try:
                if self._closing is not None:
                    raise Gone
                async with asyncio.timeout(None) as self._pushing:
                    # If the client reads nothing, the protocol closes the connection, and this call raises.
                    yield self._socket.send
            except (ConnectionClosed, TimeoutError) as exc:
                raise Gone from exc
            finally:
                self._pushing = None
                self._turn.release()
        finally:
            self._pending_bytes -= size

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, code: int, reason: str) -> None:
        """Close the connection after the reply to the request that is under way. Requests not read yet are dropped."""
        if self._closing is None:
            self._closing = Close(code, reason)
            self._start(self._close_in_turn())

    def _end_slow(self) -> None:
        """End the subscriptions and streams of a client that is too slow. It may still read the data sent before."""
        self._closing = Close(close_codes.TRY_AGAIN_LATER, "")
        self._wait.look()
        self._streams.close()
        self._replies.is_spare = True
        if self._pushing is not None:
            self._pushing.reschedule(self._socket.loop.time())
        self._server.closed(self.id)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._socket.transport.abort()

    async def _close_in_turn(self) -> None:
        await self._wait.end()
        await self._close()

    async def _close(self) -> None:
        async with self._turn:
            if self._closing is None:
                return
            for opened in self._streams.close():
                if (reason := _BYES.get(self._closing.code)) is not None:
                    await self._socket.send(bye(opened, reason))
            await self._socket.close(*self._closing)

    # -- timers ------------------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._socket.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note_activity(self) -> None:
        if seconds := self._server.settings.idle_timeout:
            self._timers.set("idle", seconds, self._end_idle)

    def _end_idle(self) -> None:
        is_waiting = self._turn.locked() or self._wait.is_waiting
        if is_waiting or len(self.session.streams) or self._server.is_subscribed(self.id):
            self._note_activity()
        else:
            self.close(close_codes.IDLE, "No request for too long.")

    def _give_up_authentication(self) -> None:
        self.close(close_codes.NOT_AUTHENTICATED, "Not authenticated in time.")


def _log_end(log: QuietLog, socket: BoundedConnection, connection: str, project: str | None) -> None:
    """Log why the server has closed a connection, if it was the server; many clients show no code."""
    protocol = socket.protocol
    sent = protocol.close_sent
    if sent is not None and not protocol.close_rcvd_then_sent and sent.code not in _NOT_TOLD:
        log.tell(
            logging.INFO,
            sent.code,
            "Connection %s of project %s was closed with code %d: %s.",
            connection,
            project or "-",
            sent.code,
            sent.reason.rstrip(".") or "no reason",
        )
