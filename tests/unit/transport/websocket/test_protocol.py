# SPDX-License-Identifier: Apache-2.0
"""Limits that the library does not have: many clients at once, closed clients, and compressed bombs."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import zlib
from pathlib import Path

import pytest

from tests.acceptance.raw_websocket import CONTINUATION, RawConnection, frame, handshake
from tests.acceptance.raw_websocket import PING as PING_CODE
from tests.unit.transport.websocket.scripted import Harness, ask, run, wait_until
from tests.unit.transport.websocket.test_server import KEY, UPGRADE

PING = b"\x89\x80\x00\x00\x00\x00"
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


def compressed(part: bytes, *, times: int = 1) -> bytes:
    """A message as permessage-deflate has it (RFC 7692, section 7.2.1): the part, so many times.

    After a full flush no block refers to bytes before it, so the part is compressed once, and its blocks are repeated.
    """
    stream = zlib.compressobj(9, wbits=-15)
    blocks = stream.compress(part) + stream.flush(zlib.Z_FULL_FLUSH)
    return (blocks * times).removesuffix(b"\x00\x00\xff\xff")


BOMB = compressed(bytes(1 << 20), times=256)
DEFLATED = {
    "a bomb": (frame(BOMB, rsv=4), 1009),
    "a bomb in fragments": (
        frame(BOMB[:9], rsv=4, fin=False)
        + b"".join(frame(BOMB[at : at + 90_000], CONTINUATION, fin=False) for at in range(9, len(BOMB), 90_000)),
        1009,
    ),
    "not compressed": (frame(b"\xff" * 100, rsv=4), 1002),
    "a reserved block": (frame(b"\x07", rsv=4), 1002),
    "other reserved bits": (frame(compressed(b"{}"), rsv=6), 1002),
    "a continuation that says it": (frame(b"", rsv=4, fin=False) + frame(b"", CONTINUATION, rsv=4), 1002),
    "a ping that says it": (frame(b"", PING_CODE, rsv=4), 1002),
    "not UTF-8": (frame(compressed(b"\xc3\x28"), rsv=4), 1007),
}


@pytest.mark.parametrize("case", DEFLATED)
def test_compressed_frames(tmp_path: Path, case: str) -> None:
    """With the option ``compression``: the size that counts is the one after decompression."""
    raw, code = DEFLATED[case]

    def attack(port: int) -> tuple[int | None, int]:
        before = resident_bytes()
        with RawConnection(("127.0.0.1", port)) as connection:
            connection.send(handshake(b"Sec-WebSocket-Extensions: permessage-deflate"))
            assert b"permessage-deflate" in connection.head()
            connection.send(raw)
            return connection.close_code(), resident_bytes() - before

    async def script(harness: Harness) -> None:
        closed, grown = await asyncio.to_thread(attack, harness.port)
        assert closed == code
        assert grown < 8 << 20
        async with harness.connect() as other:
            assert await ask(other, text="x") == "x"

    run(script, tmp_path, compression=True)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_clients_may_connect_at_the_same_moment(tmp_path: Path) -> None:
    """A client that finds the queue of the listening socket full waits a second before it retries."""

    async def script(harness: Harness) -> None:
        # The server accepts no connection in this time, because this code blocks the event loop.
        clients = [socket.create_connection(("127.0.0.1", harness.port), timeout=0.9) for _ in range(500)]
        for client in clients:
            client.close()

    run(script, tmp_path)


def test_a_closed_connection_logs_few_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """asyncio logs each write to a connection that is lost; it may have sent thousands of pings before."""

    async def script(harness: Harness) -> None:
        for _ in range(3):
            client = socket.create_connection(("127.0.0.1", harness.port))
            client.sendall(f"GET / HTTP/1.1\nHost: h\n{UPGRADE}{KEY}\n".replace("\n", "\r\n").encode())
            await wait_until(lambda: len(harness.server.connections) == 1)
            # All of this happens before the server reads again.
            client.sendall(PING * 2_000)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            client.close()
            await wait_until(lambda: len(harness.server.connections) == 0)
        async with harness.connect() as other:
            assert await ask(other, text="x") == "x"

    run(script, tmp_path)
    assert caplog.messages == []
