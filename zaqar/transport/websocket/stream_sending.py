# SPDX-License-Identifier: Apache-2.0
"""Sends the streams of connections. Their positions are in :class:`zaqar.service.streams.Stream`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol

from zaqar.clock import Clock
from zaqar.errors import StoreUnavailable
from zaqar.model import TOPIC
from zaqar.service.streams import Event, Reset, Stream, StreamMessage
from zaqar.transport.websocket.actions.messages import show
from zaqar.transport.websocket.admission import Admission, Slot
from zaqar.transport.websocket.codec import encode
from zaqar.transport.websocket.loop_time import LoopTime
from zaqar.transport.websocket.memory import Account
from zaqar.transport.websocket.pushes import Gone, TooSlow
from zaqar.transport.websocket.stream_table import OpenStream, StreamTable

_log = logging.getLogger(__name__)

DRAIN = "drain"
EXPIRED = "expired"
DELETED = "deleted"
ERROR = "error"
"""Reasons in the last frame of a stream."""

_MESSAGE_TYPE = "Stream"
"""Tells frames of streams from replies and from notifications."""

_CHUNK_BYTES = 64 * 1024
"""Bytes of the frames that are encoded before they are sent, unless one frame has more."""

_EVENT_BYTES = 1024
"""Memory that an event takes besides its body."""

_RETRY_SECONDS = 0.5
_MAX_RETRY_SECONDS = 8.0
"""Pause before a store that did not answer is read again: at first, doubled each time, and at most."""

_SLOW_SECONDS = 0.2
"""Pause before frames are offered again to a connection that has too many unsent bytes."""


def frame_of(opened: OpenStream, event: str, marker: str, data: Any) -> str | bytes:
    """A frame of a stream, in the format of the request that opened it."""
    name = f"{opened.queue_name.kind}_name"
    document = {"Message_Type": _MESSAGE_TYPE, "event": event, name: opened.queue_name.name, "id": marker, "data": data}
    return encode(opened.format, document)


def bye(opened: OpenStream, reason: str) -> str | bytes:
    """The last frame of a stream."""
    return frame_of(opened, "bye", opened.marker, {"reason": reason})


def _frame(opened: OpenStream, event: Event) -> str | bytes:
    if isinstance(event, Reset):
        return frame_of(opened, "reset", event.marker, {"reason": event.reason, "position": event.marker})
    shown = show(event.message, event.now, extras=opened.extras)
    return frame_of(opened, "message", event.marker, shown)


class StreamReads:
    """Reads for the streams of a process, so that streams at the same position cost one read and one thread."""

    def __init__(self, admission: Admission, loop_time: LoopTime) -> None:
        self._admission = admission
        self._loop_time = loop_time
        self._running: dict[Hashable, asyncio.Future[None]] = {}

    async def read(self, slot: Slot, stream: Stream, *, version: int, limit: int) -> list[Event]:
        """The same as :meth:`Stream.read`. Raises StoreUnavailable."""
        if stream.on_batch is not None:
            # The hooks of stages may block, so they are called in a thread, for each stream.
            return await self._admission.run(slot, partial(stream.read, version=version, limit=limit))
        while (events := stream.read_kept(version=version, limit=limit)) is None:
            key = (stream.queue_name, stream.marker, limit)
            running = self._running.get(key)
            if running is None:
                return await self._read(key, slot, partial(stream.read, version=version, limit=limit))
            await asyncio.shield(running)
            # Many tasks go on at the same moment, so let the event loop serve others in between.
            await self._loop_time.wait(slot.project)
        return events

    async def _read(self, key: Hashable, slot: Slot, call: Callable[[], list[Event]]) -> list[Event]:
        running = self._running[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._admission.run(slot, call)
        except StoreUnavailable as exc:
            # Make all streams of this store pause, so that they do not ask it one after the other.
            running.set_exception(exc)
            running.exception()
            raise
        finally:
            del self._running[key]
            if not running.done():
                running.set_result(None)


class Target(Protocol):
    """The part of a connection that streams need."""

    def sending(self, size: int) -> AbstractAsyncContextManager[Callable[[str | bytes], Any]]:
        """The right to send frames of ``size`` bytes, as a function that sends one. Raises Gone and TooSlow."""

    def abort(self) -> None: ...


class Server(Protocol):
    """The part of ``ServerContext`` that streams need."""

    @property
    def loop_time(self) -> LoopTime: ...
    @property
    def stream_reads(self) -> StreamReads: ...
    @property
    def store_of(self) -> Callable[[Any], Hashable]: ...
    @property
    def clock(self) -> Clock: ...


class StreamSender:
    """Sends the streams of one connection in turn, one batch at a time. For the event loop only."""

    def __init__(
        self, target: Target, table: StreamTable, account: Account, server: Callable[[], Server], loop: Any
    ) -> None:
        self._target = target
        self._table = table
        self._account = account
        self._server = server
        self._loop: asyncio.AbstractEventLoop = loop
        self._task: asyncio.Task[None] | None = None
        self._is_running = False
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Send all frames that can be sent now."""
        if self._is_running or not len(self._table):
            return
        if self._due():
            self._is_running = True
            self._task = self._loop.create_task(self._run())
        else:
            self._plan()

    def close(self) -> list[OpenStream]:
        """End all streams. Returns the streams that were open."""
        for each in (self._task, self._timer):
            if each is not None:
                each.cancel()
        return self._table.close()

    def _due(self) -> list[OpenStream]:
        """The streams that may have something to send."""
        now, time = self._server().clock(), self._loop.time()
        return [each for each in self._table.all() if each.is_expired(now) or _is_due(each, now, time)]

    async def _run(self) -> None:
        try:
            while due := self._due():
                for opened in due:
                    await self._serve(opened)
        except Gone:
            # The connection ends, and its end closes the streams.
            return
        except Exception:  # noqa: BLE001, it is logged
            # For example, a message cannot be encoded. Send the last frame, so that the client can resume elsewhere.
            _log.exception("The streams of a connection cannot be sent.")
            self._target.abort()
            return
        finally:
            self._is_running = False
        self._plan()

    def _plan(self) -> None:
        """Look again when a delayed message is due, a store may be asked again, or a signature expires."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now, time = self._server().clock(), self._loop.time()
        pauses = [pause for each in self._table.all() for pause in _pauses(each, now, time)]
        if pauses:
            # A little later than the clock says, because the clock and the event loop differ a little.
            self._timer = self._loop.call_later(max(0.001, min(*pauses, 3600.0)), self.look)

    async def _serve(self, opened: OpenStream) -> None:
        server = self._server()
        project = opened.queue_name.project
        await server.loop_time.wait(project)
        if opened.is_expired(server.clock()):
            await self._end(opened, EXPIRED)
            return
        # Clients that do not read hold memory. The clients of one project may hold only a share of it.
        await self._account.wait(0)
        if not opened.is_open:
            return
        slot = Slot(project, opened.queue_name, server.store_of(opened))
        limit = _round(min(opened.limit, opened.credit))
        version = opened.waiter.begin()
        try:
            events = await server.stream_reads.read(slot, opened.stream, version=version, limit=limit)
        except StoreUnavailable:
            opened.stream.is_ready = True
            opened.retry_at = self._loop.time() + min(_MAX_RETRY_SECONDS, _RETRY_SECONDS * 2**opened.failures)
            opened.failures += 1
            return
        except Exception:  # noqa: BLE001, it is logged
            _log.exception("A stream of project %s cannot be read.", project)
            await self._end(opened, ERROR)
            return
        opened.failures, opened.retry_at = 0, 0.0
        if events:
            await self._send(opened, events)
        elif opened.stream.is_deleted and opened.queue_name.kind == TOPIC:
            await self._end(opened, DELETED)

    async def _send(self, opened: OpenStream, events: Sequence[Event]) -> None:
        self._account.add(sum(map(_size, events)), self._target.abort)
        try:
            for frames in _chunks(opened, events):
                while opened.is_open and not await self._offer(opened, frames):
                    await asyncio.sleep(_SLOW_SECONDS)
        finally:
            self._account.give_back()

    async def _offer(self, opened: OpenStream, frames: Sequence[tuple[str | bytes, Event]]) -> bool:
        """Send the frames of events. Returns False, and sends none, if the connection has too many unsent bytes."""
        try:
            async with self._target.sending(sum(len(frame) for frame, _ in frames)) as send:
                for frame, event in frames:
                    # A request that was answered meanwhile may have closed the stream.
                    if not opened.is_open or opened.is_expired(self._server().clock()):
                        return True
                    opened.marker = event.marker
                    opened.sent += isinstance(event, StreamMessage)
                    await send(frame)
        except TooSlow:
            return False
        return True

    async def _end(self, opened: OpenStream, reason: str) -> None:
        """End a stream that is open, and say why."""
        frame = bye(opened, reason)
        if self._table.end_if_open(opened):
            while not await self._say(frame):
                await asyncio.sleep(_SLOW_SECONDS)

    async def _say(self, frame: str | bytes) -> bool:
        try:
            async with self._target.sending(len(frame)) as send:
                await send(frame)
        except TooSlow:
            return False
        return True


def _is_due(opened: OpenStream, now: float, time: float) -> bool:
    if opened.credit <= 0 or time < opened.retry_at:
        return False
    due = opened.stream.next_due
    return opened.waiter.is_ready or opened.stream.is_ready or (due is not None and due <= now)


def _pauses(opened: OpenStream, now: float, time: float) -> Iterator[float]:
    if opened.expires is not None:
        yield opened.expires - now
    if opened.credit <= 0:
        return
    if opened.retry_at > time:
        yield opened.retry_at - time
    elif (due := opened.stream.next_due) is not None:
        yield due - now


def _round(limit: int) -> int:
    """The power of two that is not greater, so that streams with different credit share reads."""
    return 1 << (limit.bit_length() - 1)


def _size(event: Event) -> int:
    return _EVENT_BYTES + (len(event.message.body) if isinstance(event, StreamMessage) else 0)


def _chunks(opened: OpenStream, events: Sequence[Event]) -> Iterator[list[tuple[str | bytes, Event]]]:
    """The frames of the events, encoded a few at a time."""
    chunk: list[tuple[str | bytes, Event]] = []
    size = 0
    for event in events:
        frame = _frame(opened, event)
        chunk.append((frame, event))
        size += len(frame)
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
