# SPDX-License-Identifier: Apache-2.0
"""The server connection of the ``websockets`` library, with limits on everything that a client can prolong or repeat.

The library limits the time of the handshake, the size of a frame and the number of frames that wait to be read. This
module changes the rest:

- The library answers each ping at once, into an unlimited buffer. Here nothing is read from a client that does not
  read.
- The library makes one write for each frame, even to a client that is gone. Here the answers to one read are one write.
- The library reads 256 KiB at a time, which can be 40,000 tiny frames, parses them in one turn of the event loop and
  keeps them all. Here 16 KiB are read and parsed in small pieces, when :class:`LoopTime` and earlier requests allow it,
  and a client that sends many frames is read from less often.
- The library keeps each fragment of a message as an object. Here fragments are joined when they arrive.
- The library reads three large messages while one is served. Here one is read ahead if the pool of all connections has
  room for it; without room only 16 KiB of a message are read.
- The library keeps up to a megabyte of headers of a handshake. Here the limit is 16 KiB.
- The library closes without an answer if a request is not a WebSocket handshake, such as a POST. Here it is answered.
- The library waits without limit for a client that reads nothing, and drops a client whose pong comes after frames that
  the server has not read. Here a client is dropped only if it sends nothing while the server reads.
- The library aborts a connection some seconds after it has failed it. Here a client that did not read has more time to
  read the data and the close frame.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, Frame
from websockets.protocol import Event, State

from zaqar.transport.websocket import close_codes
from zaqar.transport.websocket.fragments import MAX_FRAGMENTS, Messages, TooManyFragments
from zaqar.transport.websocket.loop_time import HANDSHAKES, LoopTime
from zaqar.transport.websocket.memory import UNKNOWN_PROJECT, Account, Pool
from zaqar.transport.websocket.rate_limit import TokenBucket
from zaqar.transport.websocket.refusals import refuse, refuse_malformed
from zaqar.transport.websocket.settings import Settings

READ_SIZE = 16 * 1024
"""Bytes that are read from one connection at a time."""

FRAMES_PER_SECOND = 2_000
"""Limit for frames of any kind on one connection, such as pings and fragments. Requests have another limit."""

MIN_READ_SIZE = 64 * 1024
"""Bytes that a client has to read in each period of ``write_seconds`` while more is waiting to be sent."""

FREE_SIZE = 16 * 1024
"""Bytes of a message that are read in any case. More is read only if the pool has room for the whole message."""

MAX_HANDSHAKE_SIZE = 16 * 1024
"""Limit in bytes for the request that opens a connection."""

LINGER_PERIODS = 3
"""Number of periods of ``write_seconds`` in which a client that did not read may still read up to the close frame."""

_CLOSE_FRAME_SECONDS = 1.0
"""Time for a client that did not answer a ping, or that sends too slowly, to read the close frame."""

_MIN_PIECE = 512
_MAX_PIECE = 2_048
"""Bytes that are parsed at a time: few, because they may be many frames, and more within a long frame."""

_buffer = memoryview(bytearray(READ_SIZE))
"""The buffer that all connections read into. It is emptied before the event loop goes on."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The objects that the connections of a process share. ``room`` is the pool for messages that arrived in part."""

    loop_time: LoopTime
    room: Pool


class BoundedConnection(ServerConnection, asyncio.BufferedProtocol):
    """One connection, from ``accept`` to its end; ``create_connection`` of the library's ``serve`` makes it."""

    silent_seconds = 20.0
    """Time without a byte from the client before it is sent a ping."""

    pong_seconds = 20.0
    write_seconds = 10.0
    """Time in which a client has to read MIN_READ_SIZE bytes of the data sent to it."""

    is_surplus = False
    """Whether to drop the connection as soon as it is made."""

    is_lingering = False
    """Whether the connection was closed because the client did not read, and the client may still read."""

    def __init__(self, *args: Any, shared: Shared, lost: Callable[[ServerConnection], None], **kwargs: Any) -> None:
        """``lost`` is called when the TCP connection has ended."""
        # The library's own pings are replaced.
        super().__init__(*args, **{**kwargs, "ping_interval": None})
        self.too_slow: Callable[[], None] = lambda: None
        """Called when the connection is closed because the client does not read."""
        self.project = UNKNOWN_PROJECT
        self._shared = shared
        self._room = Account(shared.room)
        self._lost = lost
        now = self.loop.time()
        self._frames = TokenBucket(FRAMES_PER_SECOND, now)
        self._frames_of_piece = 0
        self._received = 0
        self._is_refused = False
        """Whether the handshake was answered with an error."""
        self._unparsed = b""
        self._waits_for_time = False
        self._messages = Messages()
        self._waits_for_room = False
        self._late: asyncio.TimerHandle | None = None
        self._received_before = 0
        self._end: asyncio.TimerHandle | None = None
        self._last_received = now
        self._pinged_at: float | None = None
        self._is_closing = False
        self._heartbeat: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._sent = 0
        self._taken_before = 0
        self._resuming: asyncio.TimerHandle | None = None

    def use(self, settings: Settings, *, most: int | None = None) -> None:
        """Use these limits from now on. ``most`` is a smaller limit for the bytes of a message."""
        self.silent_seconds = settings.ping_interval
        self.pong_seconds = settings.ping_timeout
        self.write_seconds = settings.write_timeout
        self.protocol.max_message_size = min(most or settings.max_frame_size, settings.max_frame_size)

    def enter(self, project: str) -> None:
        """Count for this project from now on."""
        self.project = project
        self._room.enter(project)

    # -- callbacks of the event loop ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Reading may be held up for several reasons. When one of them ends, _go_on() checks the others.
        self.recv_messages.resume = self._go_on
        if self.is_surplus:
            self.transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer into which asyncio reads, as in ``asyncio.BufferedProtocol``."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._last_received = self.loop.time()
        self._received += nbytes
        self._unparsed += bytes(_buffer[:nbytes])
        if self.request is None and self._received > MAX_HANDSHAKE_SIZE and not self._is_refused:
            self._is_refused = True
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.protocol.send_response(refuse(status, "The handshake is too large."))
            self.send_data()
        self._go_on()

    def process_event(self, event: Event) -> None:
        self._frames_of_piece += 1
        if not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)
        elif not self._is_closing:
            self._join(event)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._heartbeat, self._stalled, self._resuming, self._late, self._end):
            if timer is not None:
                timer.cancel()
        self._unparsed = b""
        self._room.give_back()
        self._lost(self)
        super().connection_lost(exc)

    def send_data(self) -> None:
        """Send all bytes that the protocol has produced, in one write; nothing once the connection is lost.

        The library writes each frame by itself. asyncio logs every write to a lost connection, and a client that is
        gone may have sent thousands of pings before.
        """
        produced = self.protocol.data_to_send()
        error = self.protocol.handshake_exc
        if error is not None and self.request is None and not self._is_refused and not self.protocol.reader.eof:
            # The library answers bytes that are not a request with little or nothing.
            self._is_refused = True
            produced = [refuse_malformed(error).serialize(), b""]
        if self.transport.is_closing():
            return
        if data := b"".join(produced):
            # Count the bytes before the write, which may call pause_writing().
            self._sent += len(data)
            self.transport.write(data)
        # An empty piece means that nothing follows: close the sending side.
        if not all(produced):
            if self.transport.can_write_eof():
                with suppress(OSError, RuntimeError):
                    self.transport.write_eof()
            else:
                self.transport.close()

    # -- reading -----------------------------------------------------------------------------------------------------

    def _end_pause(self) -> None:
        self._resuming = None
        self._go_on()

    def _go_on(self) -> None:
        """Parse the bytes that were read, piece by piece, and read more if none are left and nothing forbids it."""
        while self._unparsed and not self._is_held_up() and not self._waits_for_time:
            if self._shared.loop_time.is_left():
                self._parse()
            else:
                self._waits_for_time = True
                self._shared.loop_time.call(self.project if self.request else HANDSHAKES, self._take_turn)
        if self._unparsed or self._is_held_up():
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _take_turn(self) -> None:
        self._waits_for_time = False
        if self._unparsed and not self._is_held_up():
            self._parse()
        self._go_on()

    def _parse(self) -> None:
        size = min(_MAX_PIECE, max(_MIN_PIECE, len(self.protocol.reader.buffer)))
        piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
        self._frames_of_piece = 0
        self.data_received(piece)
        pause = self._frames.take(self._frames_of_piece, self.loop.time())
        if pause and self._resuming is None:
            self._resuming = self.loop.call_later(pause, self._end_pause)
        self._ask_for_room()

    def _join(self, frame: Frame) -> None:
        """Pass a message on when its last frame has arrived."""
        try:
            message = self._messages.add(frame)
        except TooManyFragments:
            self._fail(close_codes.TOO_LARGE, f"more than {MAX_FRAGMENTS} fragments", _CLOSE_FRAME_SECONDS)
        else:
            if message is not None:
                super().process_event(message)

    def finish_message(self) -> None:
        """Go on after a received message has been served. The owner of the connection must call it."""
        self._messages.finish()
        if self.protocol.state is State.CLOSED:
            return
        if self._room.held:
            self._room.give_back()
        self._ask_for_room()
        self._go_on()

    def _unfinished(self) -> int:
        """Bytes of the message that has arrived in part."""
        return len(self.protocol.reader.buffer) + self._messages.unfinished

    def _ask_for_room(self) -> None:
        """Ask the pool for room for a whole message if much of it has arrived. Complete messages are served first."""
        if self._messages or self._room.held or self._waits_for_room or self._unfinished() < FREE_SIZE:
            return
        size = self.protocol.max_message_size or 0
        self._waits_for_room = not self._room.take(size, self._have_room)
        if not self._waits_for_room:
            self._watch_sender()

    def _have_room(self) -> None:
        self._waits_for_room = False
        self._watch_sender()
        self._go_on()

    def _watch_sender(self) -> None:
        self._received_before = self._received
        self._late = self.loop.call_later(self.write_seconds, self._check_sender)

    def _check_sender(self) -> None:
        """Close the connection if others wait for its room and the client does not go on with its message."""
        self._late = None
        if not self._room.held or self._messages:
            return
        sends = self._received - self._received_before >= MIN_READ_SIZE or self._is_held_up()
        if sends or not self._shared.room.has_waiting:
            self._watch_sender()
        elif self.protocol.state is State.OPEN:
            self._fail(close_codes.TRY_AGAIN_LATER, "The client sends too slowly.", _CLOSE_FRAME_SECONDS)

    def _is_held_up(self) -> bool:
        """Whether the server itself has stopped reading, so that a silent client is not to blame."""
        if self.paused or self._resuming is not None or self._waits_for_room:
            return True
        if self._is_closing:
            return False
        return self.recv_messages.paused or (
            bool(self._messages) and self._messages.size + self._unfinished() >= FREE_SIZE
        )

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection. Requests that still arrive are read and dropped.

        They must be read, because the close frame of the client comes after them, and because the system discards data
        that the client has not received yet if a socket is closed with unread data.
        """
        if self.is_lingering:
            await self.wait_closed()
            return
        self._is_closing = True
        self._messages.clear()
        if self.protocol.state is State.OPEN:
            self._go_on()
        await super().close(code, reason)

    # -- failures ----------------------------------------------------------------------------------------------------

    def _fail(self, code: int, reason: str, seconds: float) -> None:
        """Close the connection, and drop it after this many seconds."""
        self._is_closing = True
        self._messages.clear()
        if self.protocol.state is State.OPEN:
            self.protocol.fail(code, reason)
            self.send_data()
        if self._end is None:
            self._end = self.loop.call_later(seconds, self.transport.abort)

    def stop_lingering(self, seconds: float) -> None:
        """Reduce the time that a client which did not read has left to ``seconds``."""
        if self._end is not None:
            self._end.cancel()
            self._end = self.loop.call_later(seconds, self.transport.abort)

    # -- clients that do not answer ----------------------------------------------------------------------------------

    def start_keepalive(self) -> None:
        """Start the timers for silent clients. The library calls it when the handshake is over."""
        self._last_received = self.loop.time()
        self._heartbeat = self.loop.call_later(self.silent_seconds, self._check_alive)

    def _check_alive(self) -> None:
        if self.protocol.state is not State.OPEN:
            return
        if self._pinged_at is not None and self._last_received < self._pinged_at and not self._is_held_up():
            self._fail(close_codes.INTERNAL_ERROR, "keepalive ping timeout", _CLOSE_FRAME_SECONDS)
            return
        self._pinged_at = None
        now = self.loop.time()
        wait = self._last_received + self.silent_seconds - now
        if wait <= 0 and self._is_held_up():
            wait = self.silent_seconds
        elif wait <= 0:
            self.protocol.send_ping(b"")
            self.send_data()
            self._pinged_at, wait = now, self.pong_seconds
        self._heartbeat = self.loop.call_later(wait, self._check_alive)

    def _taken(self) -> int:
        """Bytes that the client's host has acknowledged. Unless the client reads, that is no more than some buffers.

        The number of bytes that the system of this host has taken says little: it reports room again only after a third
        of its own buffer, which may be megabytes, has been acknowledged.
        """
        waiting = array("i", [0])
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, waiting)
        return self._sent - self.transport.get_write_buffer_size() - waiting[0]

    def _watch_reader(self) -> None:
        self._taken_before = self._taken()
        self._stalled = self.loop.call_later(self.write_seconds, self._check_reader)

    def _check_reader(self) -> None:
        self._stalled = None
        if self._taken() - self._taken_before >= MIN_READ_SIZE:
            # The client reads, over a slow line. A large reply may take long.
            self._watch_reader()
            return
        self.is_lingering = True
        self._fail(close_codes.TRY_AGAIN_LATER, "The client reads too slowly.", LINGER_PERIODS * self.write_seconds)
        self.too_slow()
