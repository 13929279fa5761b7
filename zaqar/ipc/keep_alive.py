# SPDX-License-Identifier: Apache-2.0
"""Detects that the other end of a TCP connection is gone. Notifiers and WebSocket processes use it."""

from __future__ import annotations

import asyncio
import socket

IDLE_SECONDS = 10
INTERVAL_SECONDS = 5
PROBES = 3

UNACKNOWLEDGED_SECONDS = 15
"""Time after which unacknowledged data ends the connection. Without this limit the system would resend the data for a
quarter of an hour, and would send no probes meanwhile.
"""


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Make the system close a TCP connection within 25 seconds if the other host is gone."""
    found: socket.socket | None = transport.get_extra_info("socket")
    if found is not None and found.family != socket.AF_UNIX:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_SECONDS)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_SECONDS * 1000)
