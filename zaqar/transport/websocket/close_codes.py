# SPDX-License-Identifier: Apache-2.0
"""The codes with which the service closes a connection, each with a sentence for the documentation.

Codes below 3000 are those of RFC 6455 and its registry; those from 4000 on are the service's own.
"""

from __future__ import annotations

from typing import NamedTuple

GOING_AWAY = 1001
TOO_LARGE = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013
AUTHENTICATION_EXPIRED = 4003
NOT_AUTHENTICATED = 4401
IDLE = 4408
TOO_MANY_CONNECTIONS = 4429


class Close(NamedTuple):
    """How a connection is closed: what a close frame carries. ``reason`` has at most 123 bytes."""

    code: int
    reason: str


EXPIRED = Close(AUTHENTICATION_EXPIRED, "Authentication expired.")

MEANINGS: dict[int, str] = {
    1000: "The client closed the connection.",
    GOING_AWAY: "The server ends. Requests that were read have been answered; connect again.",
    1002: "The client broke the WebSocket protocol.",
    1007: "A text frame was not UTF-8.",
    TOO_LARGE: "A frame was larger than max_messages_post_size and 64 KiB, or than 64 KiB before authentication, or "
    "was sent in more than 4,096 fragments.",
    INTERNAL_ERROR: "The client did not answer a ping in time, or the server met an error of its own.",
    SERVICE_RESTART: "The server lost its place among the servers. Connect and subscribe again.",
    TRY_AGAIN_LATER: "The client reads too slowly for what it is sent, or sends a large frame too slowly while others "
    "wait for memory, or the server is too busy. Connect again.",
    AUTHENTICATION_EXPIRED: "The token has expired or was revoked. Connect and authenticate with a new one.",
    NOT_AUTHENTICATED: "The client did not authenticate in time.",
    IDLE: "The client sent no request for too long and has no subscription.",
    TOO_MANY_CONNECTIONS: "The project has as many connections to this server as it may have.",
}
"""What each code means, for the documentation."""
