# SPDX-License-Identifier: Apache-2.0
"""Requests that directly follow ``authenticate``, over real sockets: each uses the token before it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.unit.transport.websocket.frames import CLIENT, FORMATS, PROJECT, pack, unpack
from tests.unit.transport.websocket.scripted import make_parts
from tests.unit.transport.websocket.tokens import Tokens, with_tokens
from zaqar.access.identity import Identity
from zaqar.transport.websocket.codec import Format
from zaqar.transport.websocket.connection import SMALL_FRAME
from zaqar.transport.websocket.server import WebSocketServer
from zaqar.transport.websocket.session import Sessions
from zaqar.transport.websocket.settings import Settings

OTHER = "other-project"
LARGE = {"queue_name": "q", "messages": [{"body": "x" * 2 * SMALL_FRAME}]}
"""A frame that is decoded in a thread. Small frames are decoded on the event loop."""


class SlowTokens(Tokens):
    """Keystone is slow, so that the next frames arrive long before its answer."""

    def validate(self, *arguments: Any, **named: Any) -> Identity:
        time.sleep(0.05)
        return super().validate(*arguments, **named)


def frame(action: str, body: Any = None, *, project: str = PROJECT, token: str | None = None) -> dict[str, Any]:
    headers = {"Client-ID": CLIENT, "X-Project-ID": project} | ({} if token is None else {"X-Auth-Token": token})
    return {"action": action, "headers": headers, "body": body or {}}


STEPS: list[tuple[dict[str, Any], int]] = [
    (frame("queue_list"), 403),
    (frame("message_post", LARGE), 403),
    (frame("authenticate", token="alice"), 200),
    (frame("message_post", LARGE), 201),
    (frame("queue_list"), 200),
    (frame("authenticate", token="nobody's"), 401),
    (frame("message_post", LARGE), 201),
    (frame("authenticate", token="bob", project=OTHER), 200),
    (frame("message_post", LARGE), 403),
    (frame("queue_list"), 403),
    (frame("message_post", LARGE, project=OTHER), 201),
    (frame("authenticate", token="newer"), 200),
    (frame("queue_get_stats", {"queue_name": "q"}), 200),
    (frame("queue_get_stats", {"queue_name": "q"}, project=OTHER), 403),
]


@pytest.mark.parametrize("format_", FORMATS)
def test_requests_after_authenticate_use_its_token(tmp_path: Path, format_: Format) -> None:
    async def play() -> None:
        end = time.time() + 3600
        alice, bob = (Identity(of, "user", frozenset({"member"}), None, end) for of in (PROJECT, OTHER))
        parts = with_tokens(make_parts(tmp_path), SlowTokens({"alice": alice, "bob": bob, "newer": alice}))
        ended: list[str] = []
        sessions = Sessions(end_subscriptions=ended.append)
        server = WebSocketServer(parts, Settings.from_conf(parts.conf), make_session=sessions.open)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # The server takes the socket.
            port = listener.getsockname()[1]
            await server.start(listener)
            try:
                async with (
                    asyncio.timeout(60),
                    connect(f"ws://127.0.0.1:{port}/", proxy=None) as client,
                ):
                    for sent, _ in STEPS:
                        await client.send(pack(format_, sent))
                    replies = [unpack(await client.recv()) for _ in STEPS]
            finally:
                await server.stop()
        parts.close()
        assert [reply["headers"]["status"] for reply in replies] == [status for _, status in STEPS]
        assert [reply["request"]["action"] for reply in replies] == [sent["action"] for sent, _ in STEPS]
        # The message of bob is not in alice's queue, which she sees again.
        assert replies[-2]["body"]["messages"]["total"] == 2
        assert len(ended) == 2
        assert not json.dumps(replies).count("nobody's")

    asyncio.run(play())
