# SPDX-License-Identifier: Apache-2.0
"""Closing the port of zaqar-server after its drain_delay loses no connection."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Iterator

import pytest

from zaqar.cmd.server import drain


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "HANDSHAKE_SECONDS", 0.01)
    monkeypatch.setattr(drain, "ACCEPT_SECONDS", 30.0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_connections_that_are_complete_are_accepted_before_the_port_closes(listener: socket.socket) -> None:
    async def run() -> None:
        waiting = [socket.create_connection(listener.getsockname(), timeout=30) for _ in range(3)]
        assert drain.count_waiting_connections(listener) == 3
        draining = asyncio.create_task(drain.stop_accepting([listener]))
        for client in waiting:
            await asyncio.sleep(0.05)
            assert not draining.done()
            accepted, _ = listener.accept()
            client.sendall(b"request")
            assert accepted.recv(100) == b"request"
            accepted.close()
            client.close()
        await draining

    asyncio.run(run())


def test_a_client_that_connects_at_the_last_moment_is_refused_and_not_reset(listener: socket.socket) -> None:
    """Its attempt is ignored until the port is closed; then the kernel of the client tries again and is refused."""
    drain.ignore_new_connections(listener)
    with socket.socket() as late:
        late.setblocking(False)
        assert late.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert select.select([], [late], [], 0.1) == ([], [], [])
        assert drain.count_waiting_connections(listener) == 0
        listener.close()
        assert select.select([], [late], [], 30) == ([], [late], [])
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
