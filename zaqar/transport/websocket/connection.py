# SPDX-License-Identifier: Apache-2.0
"""One connection: requests are read, carried out and answered one at a time, and notifications are sent in between.

A :class:`Connection` joins three things: the socket (:class:`~zaqar.transport.websocket.protocol.BoundedConnection`),
the session, which knows the API and does no I/O of its own, and the threads that :class:`Admission` hands out.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosed

from zaqar.app import Parts
from zaqar.clock import Clock
from zaqar.errors import StoreUnavailable, TooBusy
from zaqar.transport.websocket import close_codes
from zaqar.transport.websocket.admission import Admission, Slot
from zaqar.transport.websocket.close_codes import Close
from zaqar.transport.websocket.connections import Connections
from zaqar.transport.websocket.interface import Reply, Request, Session
from zaqar.transport.websocket.loop_time import LoopTime
from zaqar.transport.websocket.memory import STRANGERS, Account, Memory
from zaqar.transport.websocket.protocol import BoundedConnection
from zaqar.transport.websocket.pushes import Gone, TooSlow
from zaqar.transport.websocket.quiet_log import QuietLog
from zaqar.transport.websocket.rate_limit import TokenBucket
from zaqar.transport.websocket.settings import STRANGER_FRAME_SIZE, Settings

_log = QuietLog(logging.getLogger(__name__))

_NOT_TOLD = (1000, close_codes.GOING_AWAY, close_codes.SERVICE_RESTART, close_codes.TOO_MANY_CONNECTIONS)
"""Codes that are not logged here: the log has another line for them, or needs none."""

SMALL_FRAME = 2 * 1024
"""Frames of up to this many bytes are decoded on the event loop, which takes half a millisecond at most."""

KEYSTONE = "keystone"
"""The store of a slot for requests that ask Keystone."""

_EXPANSION = 16
"""Largest ratio of the memory of a decoded request to the size of its frame."""

_MAX_TIMER_SECONDS = 86_400.0
"""Seconds. The event loop refuses timers of more than some weeks; a token may live longer."""


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The settings and objects that all connections of a process share.

    ``decode`` decodes a large frame of a project in a thread. ``store_of`` returns the store that a request will use,
    without asking a store. ``is_subscribed`` tells whether the connection with an id has subscriptions, and ``closed``
    is called with the id of a connection that is closed. ``authenticates`` tells whether clients have to authenticate.
    ``revalidation_seconds`` is the time between two checks of a token.
    """

    settings: Settings
    admission: Admission
    connections: Connections
    loop_time: LoopTime
    memory: Memory
    clock: Clock
    decode: Callable[[str, Callable[[], Any]], Coroutine[Any, Any, Any]]
    store_of: Callable[[Request], Hashable]
    is_subscribed: Callable[[str], bool]
    closed: Callable[[str], None]
    authenticates: bool
    revalidation_seconds: float


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
        self._requests, self._replies = Account(server.memory.requests), Account(server.memory.replies)
        self._pending_bytes = 0
        self._pushing: asyncio.Timeout | None = None
        """Ends a push that waits for a client that does not read."""
        self._closing: Close | None = None
        self._project: str | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._armed_for: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def use(self, parts: Parts, server: ServerContext) -> None:
        """Use these parts and settings from the next request on."""
        self._server = server
        self._limit_frames()
        self._bucket = TokenBucket(server.settings.requests_per_second, self._socket.loop.time())
        self._start(self._use_in_turn(parts))

    async def _use_in_turn(self, parts: Parts) -> None:
        async with self._turn:
            self.session.use(parts)

    # -- requests ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the client until the connection is closed."""
        settings = self._server.settings
        self._server.connections.add(self)
        self._limit_frames()
        self._socket.too_slow = self._end_slow
        if self._server.authenticates:
            self._set_timer("authentication", settings.authentication_timeout, self._give_up_authentication)
        self._note_activity()
        try:
            while self._closing is None:
                await self._serve_next()
            await self._socket.close(*self._closing)
        except ConnectionClosed:
            pass
        finally:
            self._tell_end()
            self._server.connections.remove(self)
            self._server.closed(self.id)
            self._enter_project(None)
            self._requests.give_back()
            self._replies.give_back()
            for timer in self._timers.values():
                timer.cancel()
            for task in self._tasks:
                task.cancel()

    async def _serve_next(self) -> None:
        frame = await self._socket.recv()
        loop = self._socket.loop
        self._note_activity()
        try:
            if pause := self._bucket.take(1, loop.time()):
                # Nothing is read meanwhile, so TCP makes the client wait.
                await asyncio.sleep(pause)
            await self._replies.wait(0)
            if len(frame) > SMALL_FRAME:
                await self._requests.wait(_EXPANSION * len(frame))
            await self._server.loop_time.wait(self._socket.project)
            async with self._turn:
                if self._closing is None:
                    await self._reply(frame)
        finally:
            self._requests.give_back()
            self._replies.give_back()
            self._socket.finish_message()

    async def _reply(self, frame: str | bytes) -> None:
        reply = await self._answer(frame)
        if reply is None:
            return
        # Until it is sent, which may have to wait for the client.
        self._replies.add(len(reply.frame), self.abort)
        await self._socket.send(reply.frame)
        if reply.close is not None:
            self._closing = Close(*reply.close)

    async def _answer(self, frame: str | bytes) -> Reply | None:
        """The reply to a frame; None if the connection is to be closed instead."""
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
            return request.reply  # type: ignore[no-any-return]
        if not server.authenticates and request.project and not self._enter_project(request.project):
            return None
        if session.asks_keystone(request):
            slot = self._keystone_slot
        else:
            slot = Slot(
                request.project or self.id,
                request.address,
                server.store_of(request),
                tells=not request.asks_others,
            )
        try:
            reply = await server.admission.run(slot, partial(session.answer, request), answered=_is_answered)
        except StoreUnavailable as exc:
            return session.refuse(request, exc)
        if server.authenticates and session.identity is None and reply.status < 400:
            # A signed frame was served. Such connections count too, or one signed URL could take all connections.
            self._enter_project(request.project)
        return reply if self._note_identity(reply) else None

    def _note_identity(self, reply: Reply) -> bool:
        """Note the identity of the client after a reply; False if its project has too many connections."""
        if reply.status < 400:
            # The client has authenticated, or its signed frame was served.
            self._cancel_timer("authentication")
        identity = self.session.identity
        if identity is not None and not self._enter_project(identity.project):
            return False
        expires = self.session.expires
        if expires != self._armed_for:
            self._armed_for = expires
            self._watch_token(expires)
        return True

    def _enter_project(self, project: str | None) -> bool:
        """Count as a connection of this project; False, and the connection will be closed, if it has too many."""
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
        for each in (self._requests, self._replies, self._socket):
            each.enter(project or STRANGERS)
        self._limit_frames()
        return True

    def _limit_frames(self) -> None:
        is_stranger = self._server.authenticates and self._project is None
        self._socket.use(self._server.settings, most=STRANGER_FRAME_SIZE if is_stranger else None)

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
        size = sum(map(len, frames))
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
                    for frame in frames:
                        # If the client reads nothing, the protocol closes the connection, and this call raises.
                        await self._socket.send(frame)
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
        """The client is too slow: it may read what it was sent, and has no subscriptions any more."""
        self._closing = Close(close_codes.TRY_AGAIN_LATER, "")
        self._replies.is_spare = True
        if self._pushing is not None:
            self._pushing.reschedule(self._socket.loop.time())
        self._server.closed(self.id)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._socket.transport.abort()

    async def _close_in_turn(self) -> None:
        async with self._turn:
            if self._closing is not None:
                await self._socket.close(*self._closing)

    def _tell_end(self) -> None:
        """Log why the server has closed the connection, if it was the server; many clients show no code."""
        protocol = self._socket.protocol
        sent = protocol.close_sent
        if sent is not None and not protocol.close_rcvd_then_sent and sent.code not in _NOT_TOLD:
            _log.tell(
                logging.INFO,
                sent.code,
                "Connection %s of project %s was closed with code %d: %s.",
                self.id,
                self._project or "-",
                sent.code,
                sent.reason.rstrip(".") or "no reason",
            )

    # -- timers ------------------------------------------------------------------------------------------------------

    def _set_timer(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        self._cancel_timer(name)
        self._timers[name] = self._socket.loop.call_later(min(seconds, _MAX_TIMER_SECONDS), call)

    def _cancel_timer(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._socket.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note_activity(self) -> None:
        if seconds := self._server.settings.idle_timeout:
            self._set_timer("idle", seconds, self._end_idle)

    def _end_idle(self) -> None:
        if self._turn.locked() or self._server.is_subscribed(self.id):
            self._note_activity()
        else:
            self.close(close_codes.IDLE, "No request for too long.")

    def _give_up_authentication(self) -> None:
        self.close(close_codes.NOT_AUTHENTICATED, "Not authenticated in time.")

    def _watch_token(self, expires: float | None) -> None:
        for name in ("expiry", "revalidation"):
            self._cancel_timer(name)
        if expires is not None:
            self._look_at_expiry()
            self._plan_revalidation()

    def _look_at_expiry(self) -> None:
        expires = self.session.expires
        left = float("inf") if expires is None else expires - self._server.clock()
        if left > 0:
            self._set_timer("expiry", left, self._look_at_expiry)
        else:
            self.close(*close_codes.EXPIRED)

    def _plan_revalidation(self) -> None:
        # A random interval, because many clients may have authenticated at the same moment.
        seconds = self._server.revalidation_seconds * random.uniform(1.0, 1.1)  # noqa: S311, no secret
        self._set_timer("revalidation", seconds, lambda: self._start(self._revalidate()))

    async def _revalidate(self) -> None:
        # Without the turn, so requests and notifications do not wait for Keystone.
        identity = self.session.identity
        is_valid = True
        # If Keystone does not answer, the token counts as valid until it does or until the token expires.
        with suppress(StoreUnavailable):
            is_valid = await self._server.admission.run(self._keystone_slot, self.session.revalidate)
        # A newer token may have replaced this one meanwhile.
        if is_valid or self.session.identity is not identity:
            self._plan_revalidation()
        else:
            self.close(*close_codes.EXPIRED)


def _is_answered(reply: Reply) -> bool | None:
    """Whether the store has answered; None if the request failed because it waited for something else."""
    if reply.is_outage:
        return False
    return True if reply.status != StoreUnavailable.status else None
