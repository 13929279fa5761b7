# SPDX-License-Identifier: Apache-2.0
"""The last step before ``zaqar-server`` closes its ports after ``drain_delay``: no connection may be lost with them.

:mod:`zaqar.cmd.server.main` passes :func:`stop_accepting` to the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import Sequence

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


async def stop_accepting(listeners: Sequence[socket.socket]) -> None:
    """Let no connection begin, and wait until the parts have accepted those that have begun. Then close the ports.

    When a port is closed, the kernel resets connections that no part has accepted. Their clients do not know whether a
    request was served, so a proxy cannot repeat a POST. A client whose SYN is ignored has sent nothing yet. It tries
    again after one second and after three, and is refused because the port is closed.
    """
    for listener in listeners:
        ignore_new_connections(listener)
    await asyncio.sleep(HANDSHAKE_SECONDS)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ACCEPT_SECONDS):
            while any(count_waiting_connections(listener) for listener in listeners):
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
