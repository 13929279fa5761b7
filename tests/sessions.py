# SPDX-License-Identifier: Apache-2.0
"""Sessions of the WebSocket API without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zaqar.transport.websocket.replies import Reply
    from zaqar.transport.websocket.session import Session


def answer(session: Session, frame: str | bytes) -> Reply:
    """The reply to a frame. A request that waits is answered as if its time had ended."""
    request = session.read(frame)
    reply = session.answer(request)
    return reply if reply.pending is None else session.end_wait(request)
