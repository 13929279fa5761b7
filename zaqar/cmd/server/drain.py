# SPDX-License-Identifier: Apache-2.0
"""The first part of the end of ``zaqar-server``: load balancers learn of it, and no connection is lost with the ports.

:mod:`zaqar.cmd.server.main` makes a :class:`Drain`, which the supervisor runs after SIGTERM, before it ends the parts.
It does nothing if ``[DEFAULT] drain_delay`` is 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from zaqar import private_files

HANDSHAKE_SECONDS = 0.25
"""Time for handshakes that began before new ones were ignored. It is longer than a round trip to a load balancer."""

ACCEPT_SECONDS = 2.0
"""Longest time for the parts to accept the connections that are complete."""

_SO_ATTACH_FILTER = 26  # the module socket has no name for it
_WAITING_OFFSET = 24
"""The offset of ``tcpi_unacked`` in ``struct tcp_info``: for a listening socket, the connections not yet accepted."""

_IGNORE_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header that has the flags
    (0x54, 0, 0, 0x12),  # of which only SYN and ACK count
    (0x15, 0, 1, 0x02),  # SYN alone begins a connection
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # pass on anything else
)
"""A program of the Berkeley packet filter: operation, jump if true, jump if false, constant."""


class Drain:
    """``file`` tells the parts that the server drains: it exists from the beginning of the drain.

    ``seconds`` is how long the server goes on serving. ``listeners`` are its sockets.
    """

    def __init__(self, file: Path, seconds: float, listeners: Sequence[socket.socket]) -> None:
        self._file = file
        self._seconds = seconds
        self._listeners = listeners

    async def run(self, hurry: asyncio.Event) -> None:
        """Go on serving until the time is over or ``hurry`` is set. The ports may be closed afterwards."""
        if not self._seconds:
            return
        private_files.create_file(self._file)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), self._seconds)
        # When the port is closed, the kernel resets connections that no part has accepted. Their clients do not know
        # whether a request was served, so a proxy cannot repeat a POST. So let no such connection be there: a client
        # whose SYN is ignored has sent nothing yet. It tries again after one second and after three, and is refused.
        for listener in self._listeners:
            ignore_new_connections(listener)
        await asyncio.sleep(HANDSHAKE_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACCEPT_SECONDS):
                while any(count_waiting_connections(listener) for listener in self._listeners):
                    await asyncio.sleep(0.01)


def ignore_new_connections(listener: socket.socket) -> None:
    """Make the kernel ignore attempts to connect. Connections whose handshake has begun can still be accepted."""
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _IGNORE_SYN)
    held = ctypes.create_string_buffer(program, len(program))
    description = struct.pack("@HP", len(_IGNORE_SYN), ctypes.addressof(held))
    # A sandbox that does without the filter loses only the protection of the last moment.
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, description)


def count_waiting_connections(listener: socket.socket) -> int:
    """The number of complete connections that no process has accepted yet."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING_OFFSET + 4)
    count: int = struct.unpack_from("=I", info, _WAITING_OFFSET)[0]
    return count
