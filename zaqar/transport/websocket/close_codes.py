# SPDX-License-Identifier: Apache-2.0
"""The codes with which the service closes a connection, each with a sentence for the documentation.

RFC 6455 and its registry define the codes below 3000. The service defines the codes from 4000 on.
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
    """The content of a close frame. ``reason`` has at most 123 bytes."""

    code: int
    reason: str


EXPIRED = Close(AUTHENTICATION_EXPIRED, "Authentication expired.")

MEANINGS: dict[int, str] = {
    1000: "The client closed the connection.",
    GOING_AWAY: "The server is shutting down. It has answered the requests that it has read. Connect again.",
    1002: "The client broke the WebSocket protocol.",
    1007: "A text frame was not UTF-8.",
    TOO_LARGE: "A frame was more than 64 KiB larger than max_messages_post_size, or larger than 64 KiB before "
    "authentication, or had more than 4,096 fragments.",
    INTERNAL_ERROR: "The client did not answer a ping in time, or the server has a fault.",
    SERVICE_RESTART: "The subscriptions of the connection were removed because the server did not renew its lease in "
    "time. Connect and subscribe again.",
    TRY_AGAIN_LATER: "The client reads too slowly, or sends a large frame too slowly while others wait for memory, or "
    "the server is too busy. Connect again.",
    AUTHENTICATION_EXPIRED: "The token has expired or was revoked. Connect and authenticate with a new one.",
    NOT_AUTHENTICATED: "The client did not authenticate in time.",
    IDLE: "The client sent no request for too long, and has no subscription and no stream.",
    TOO_MANY_CONNECTIONS: "The project has too many connections to this server.",
}
"""The meaning of each code, for the documentation."""
