# SPDX-License-Identifier: Apache-2.0
"""The ``websockets`` library's server connection, with a bound on everything that a client can draw out.

The library bounds the opening handshake, the size of a frame and the number of frames that wait to be read. What it
leaves open is here:

- It answers each ping at once, into a buffer without a bound. Here nothing is read from a client that does not read.
- It writes each frame by itself, also to a client that is gone. Here what one read has led to is one write, if any.
- It reads 256 KiB at a time, which can be 40,000 tiny frames, and takes them apart in one turn of the event loop. Here
  it is 16 KiB, and a client that sends many frames is read from less often.
- It waits for ever for a client that reads nothing, and takes a client whose pong is behind other unread frames for
  dead. Here only silence counts, and not while it is the server that does not read.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, Frame
from websockets.protocol import Event, State

from zaqar.transport.websocket import close_codes
from zaqar.transport.websocket.rate_limit import TokenBucket
from zaqar.transport.websocket.settings import Settings

READ_SIZE = 16 * 1024
"""Bytes that are read from one connection before the others have their turn."""

FRAMES_PER_SECOND = 2_000
"""Frames of any kind that one connection may send: pings, fragments, and requests before their own limit."""

LEAST_READ = 64 * 1024
"""Bytes that a client has to take of what it is sent, in each period of ``write_seconds`` while there is more."""

_LAST_WORDS_SECONDS = 1.0
"""How long a client that did not read has to take note of the close frame."""

_buffer = memoryview(bytearray(READ_SIZE))
"""What all connections read into, one at a time: it is emptied before the event loop goes on."""


class BoundedConnection(ServerConnection, asyncio.BufferedProtocol):
    """One connection, from ``accept`` to its end; ``create_connection`` of the library's ``serve`` makes it."""

    silent_seconds = 20.0
    """After so long without a byte the client is sent a ping."""

    pong_seconds = 20.0
    write_seconds = 10.0
    """In so much time a client has to take LEAST_READ bytes of what it is sent."""

    is_surplus = False
    """Whether to drop the connection as soon as it is made."""

    def __init__(self, *args: Any, lost: Callable[[ServerConnection], None], **kwargs: Any) -> None:
        """``lost`` is called when the TCP connection has ended."""
        # The library's own pings are replaced.
        super().__init__(*args, **{**kwargs, "ping_interval": None})
        self._lost = lost
        now = self.loop.time()
        self._frames = TokenBucket(FRAMES_PER_SECOND, now)
        self._frames_of_turn = 0
        self._heard_at = now
        self._pinged_at: float | None = None
        self._is_closing = False
        self._heartbeat: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._sent = 0
        self._taken_before = 0
        self._resuming: asyncio.TimerHandle | None = None

    def use(self, settings: Settings) -> None:
        """Have these limits from now on."""
        self.silent_seconds = settings.ping_interval
        self.pong_seconds = settings.ping_timeout
        self.write_seconds = settings.write_timeout
        self.protocol.max_message_size = settings.max_frame_size

    # -- what the event loop calls -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Several things may hold up reading; each asks the others before it goes on.
        self.recv_messages.resume = self._resume_reading
        if self.is_surplus:
            self.transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_at = self.loop.time()
        self._frames_of_turn = 0
        self.data_received(bytes(_buffer[:nbytes]))
        pause = self._frames.take(self._frames_of_turn, self._heard_at)
        if pause:
            self._resuming = self.loop.call_later(pause, self._end_pause)
        if pause or self.paused:
            self.transport.pause_reading()

    def process_event(self, event: Event) -> None:
        self._frames_of_turn += 1
        if self._is_closing and isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            return
        super().process_event(event)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        self._resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._heartbeat, self._stalled, self._resuming):
            if timer is not None:
                timer.cancel()
        self._lost(self)
        super().connection_lost(exc)

    def send_data(self) -> None:
        """Send what the protocol has produced, in one write; nothing once the connection is lost.

        The library writes each frame by itself. asyncio logs every write to a lost connection, and a client that is
        gone may have sent thousands of pings before.
        """
        produced = self.protocol.data_to_send()
        if self.transport.is_closing():
            return
        if data := b"".join(produced):
            # Before it is written, which may call pause_writing().
            self._sent += len(data)
            self.transport.write(data)
        # An empty one stands for the end of what is sent.
        if not all(produced):
            if self.transport.can_write_eof():
                with suppress(OSError, RuntimeError):
                    self.transport.write_eof()
            else:
                self.transport.close()

    # -- reading -----------------------------------------------------------------------------------------------------

    def _end_pause(self) -> None:
        self._resuming = None
        self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._is_held_up():
            self.transport.resume_reading()

    def _is_held_up(self) -> bool:
        """Whether it is the server that does not read now."""
        queue_is_full = self.recv_messages.paused and not self._is_closing
        return self.paused or self._resuming is not None or queue_is_full

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, which must not read requests any more: those that still come are dropped.

        The close frame of the client comes after them. A socket that is closed with something unread takes from the
        client what it was sent last.
        """
        self._is_closing = True
        if self.protocol.state is State.OPEN:
            self._resume_reading()
        await super().close(code, reason)

    # -- clients that do not answer ----------------------------------------------------------------------------------

    def start_keepalive(self) -> None:
        """What the library calls when the handshake is over."""
        self._heard_at = self.loop.time()
        self._heartbeat = self.loop.call_later(self.silent_seconds, self._look_for_life)

    def _look_for_life(self) -> None:
        if self.protocol.state is not State.OPEN:
            return
        if self._pinged_at is not None and self._heard_at < self._pinged_at and not self._is_held_up():
            self.protocol.fail(close_codes.INTERNAL_ERROR, "keepalive ping timeout")
            self.send_data()
            self.loop.call_later(_LAST_WORDS_SECONDS, self.transport.abort)
            return
        self._pinged_at = None
        now = self.loop.time()
        wait = self._heard_at + self.silent_seconds - now
        if wait <= 0 and self._is_held_up():
            wait = self.silent_seconds
        elif wait <= 0:
            self.protocol.send_ping(b"")
            self.send_data()
            self._pinged_at, wait = now, self.pong_seconds
        self._heartbeat = self.loop.call_later(wait, self._look_for_life)

    def _taken(self) -> int:
        """Bytes that have come to the client's host, which takes no more than some buffers full unless they are read.

        How much the system here has taken says little: it tells that there is room again only once a third of its own
        buffer, which may be megabytes, has been acknowledged.
        """
        waiting = array("i", [0])
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, waiting)
        return self._sent - self.transport.get_write_buffer_size() - waiting[0]

    def _watch_reader(self) -> None:
        self._taken_before = self._taken()
        self._stalled = self.loop.call_later(self.write_seconds, self._judge_reader)

    def _judge_reader(self) -> None:
        self._stalled = None
        if self._taken() - self._taken_before >= LEAST_READ:
            # It is on a slow line. A large reply may take long.
            self._watch_reader()
            return
        if self.protocol.state is State.OPEN:
            self.protocol.fail(close_codes.TRY_AGAIN_LATER, "The client reads too slowly.")
            self.send_data()
        self.loop.call_later(_LAST_WORDS_SECONDS, self.transport.abort)
