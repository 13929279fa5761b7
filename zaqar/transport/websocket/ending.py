# SPDX-License-Identifier: Apache-2.0
"""How connections are closed: what the log says about it, and the last frames of streams."""

from __future__ import annotations

import logging

from zaqar.transport.websocket import close_codes
from zaqar.transport.websocket.protocol import BoundedConnection
from zaqar.transport.websocket.quiet_log import QuietLog
from zaqar.transport.websocket.stream_sending import DRAIN, EXPIRED

_NOT_TOLD = (1000, close_codes.GOING_AWAY, close_codes.SERVICE_RESTART, close_codes.TOO_MANY_CONNECTIONS)
"""Codes that are not logged here: the log has another line for them, or needs none."""

BYES = {close_codes.GOING_AWAY: DRAIN, close_codes.AUTHENTICATION_EXPIRED: EXPIRED}
"""Reasons in the last frames of streams, by the code with which the connection is closed then."""


def tell_end(log: QuietLog, socket: BoundedConnection, connection: str, project: str | None) -> None:
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
