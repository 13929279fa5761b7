# SPDX-License-Identifier: Apache-2.0
"""Many streams of one process: their reads, threads and time of the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.unit.transport.websocket.serving import make_parts, wait_until
from zaqar.app import Parts
from zaqar.context import Context
from zaqar.errors import StoreUnavailable
from zaqar.model import QUEUE, QueueName
from zaqar.schemas.messages import Extras
from zaqar.transport.websocket import stream_sending
from zaqar.transport.websocket.admission import Admission
from zaqar.transport.websocket.codec import Format
from zaqar.transport.websocket.loop_time import LoopTime
from zaqar.transport.websocket.memory import Account, Pool
from zaqar.transport.websocket.stream_sending import StreamReads, StreamSender
from zaqar.transport.websocket.stream_table import OpenStream, StreamTable
from zaqar.waiting import shared_reads
from zaqar.waiting.waiters import Kind

QUEUE_NAME = QueueName("p", QUEUE, "q")
CALLER = Context("p", "client")
STREAMS = 1000


@dataclass
class Server:
    """The part of the server that the senders share."""

    parts: Parts
    admission: Admission = field(default_factory=lambda: Admission(64))
    loop_time: LoopTime = field(default_factory=LoopTime)
    pool: Pool = field(default_factory=lambda: Pool(100_000_000))

    def __post_init__(self) -> None:
        self.stream_reads = StreamReads(self.admission, self.loop_time)
        self.clock = self.parts.clock

    def store_of(self, stream: Any) -> Any:
        return "store"


class Connection:
    """Takes the frames of one connection with one stream."""

    def __init__(self, server: Server, *, credit: int = 1000) -> None:
        self.frames: list[Any] = []
        self.is_aborted = False
        self.table = StreamTable()
        self.account = Account(server.pool)
        loop = asyncio.get_running_loop()
        self.sender = StreamSender(self, self.table, self.account, lambda: server, loop)
        self.table.changed = lambda: server.loop_time.call_from_thread("p", self.sender.look)
        waiter = server.parts.hub.join(QUEUE_NAME, Kind.READER, wake=self.table.changed)
        stream = server.parts.streams.open(
            CALLER, QUEUE_NAME, marker=None, from_start=True, echo=True, version=waiter.begin()
        )
        self.table.add(
            OpenStream(
                QUEUE_NAME, stream, waiter, Format.JSON, 20, Extras(), None, marker=stream.marker, granted=credit
            )
        )

    @asynccontextmanager
    async def sending(self, size: int) -> AsyncIterator[Callable[[str | bytes], Awaitable[None]]]:
        async def send(frame: str | bytes) -> None:
            self.frames.append(json.loads(frame))

        yield send

    def abort(self) -> None:
        self.is_aborted = True

    @property
    def bodies(self) -> list[Any]:
        return [frame["data"]["body"] for frame in self.frames]


def post(parts: Parts, *bodies: Any) -> None:
    parts.messages.post(CALLER, QUEUE_NAME, json.dumps({"messages": [{"body": body} for body in bodies]}).encode())


def count_reads(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets one entry for each read of messages from the store."""
    (store_ref,) = parts.placement.all_stores()
    reads: list[str] = []
    read = store_ref.store.messages.list_after

    def count(**named: Any) -> Any:
        reads.append("read")
        return read(**named)

    monkeypatch.setattr(store_ref.store.messages, "list_after", count)
    return reads


def test_a_post_to_a_thousand_streams_costs_few_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine a thousand streams may take longer than a result is kept. Nor do they share a result after the
    # second of the clock in which it was read.
    monkeypatch.setattr(shared_reads, "KEEP_SECONDS", 3600.0)
    parts = make_parts(tmp_path, transport__max_streams_per_project=STREAMS)
    now = parts.clock()
    monkeypatch.setattr(parts.streams, "clock", lambda: now)

    async def script() -> None:
        server = Server(parts)
        post(parts, 0)
        connections = [Connection(server) for _ in range(STREAMS)]
        await wait_until(lambda: all(each.bodies == [0] for each in connections))
        reads = count_reads(parts, monkeypatch)
        await asyncio.to_thread(post, parts, 1)
        await wait_until(lambda: all(each.bodies == [0, 1] for each in connections))
        assert len(reads) <= 2
        # Clients with different credit share their reads too, and go on from where they were.
        for number, connection in enumerate(connections):
            connection.table.all()[0].granted = 2 + 16 + number % 16
        del reads[:]
        await asyncio.to_thread(post, parts, *range(2, 18))
        await wait_until(lambda: all(each.bodies == list(range(18)) for each in connections))
        # One read for each stream would be a thousand. On a busy machine streams read from several positions.
        assert len(reads) <= STREAMS // 20
        assert all(each.account.held == 0 and not each.is_aborted for each in connections)
        for connection in connections:
            connection.sender.close()
        assert parts.hub.registry.waiting == 0
        server.admission.close()

    asyncio.run(script())
    parts.close()


def test_stages_see_the_messages_of_streams_in_threads(tmp_path: Path) -> None:
    """Also the messages of a stream that shares the read of another stream."""
    parts = make_parts(tmp_path)
    threads: list[int] = []

    async def script() -> None:
        server = Server(parts)
        connections = [Connection(server) for _ in range(5)]
        for connection in connections:
            connection.table.all()[0].stream.on_batch = lambda _: threads.append(threading.get_ident())
        await asyncio.to_thread(post, parts, 1, 2)
        await wait_until(lambda: all(each.bodies == [1, 2] for each in connections))
        assert len(threads) == len(connections)
        assert threading.get_ident() not in threads
        for connection in connections:
            connection.sender.close()
        server.admission.close()

    asyncio.run(script())
    parts.close()


def test_a_frame_that_cannot_be_made_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise the client could not learn that its stream has stopped."""
    parts = make_parts(tmp_path)

    def fail(*_: Any) -> Any:
        raise ValueError("such a body")

    async def script() -> None:
        server = Server(parts)
        connection = Connection(server)
        monkeypatch.setattr(stream_sending, "frame_of", fail)
        await asyncio.to_thread(post, parts, 1)
        await wait_until(lambda: connection.is_aborted)
        assert connection.account.held == 0
        assert "such a body" in caplog.text
        connection.sender.close()
        server.admission.close()

    asyncio.run(script())
    parts.close()


def test_a_silent_store_is_asked_once_for_all_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No stream asks a second time before all have learnt of the outage.
    for name in ("_RETRY_SECONDS", "_MAX_RETRY_SECONDS"):
        monkeypatch.setattr(stream_sending, name, 3600.0)
    parts = make_parts(tmp_path)
    (store_ref,) = parts.placement.all_stores()
    read, failures = store_ref.store.messages.list_after, []

    def fail(**named: Any) -> Any:
        failures.append(1)
        raise StoreUnavailable

    async def script() -> None:
        server = Server(parts)
        connections = [Connection(server) for _ in range(200)]
        await wait_until(lambda: not any(each.sender._is_running for each in connections))
        monkeypatch.setattr(store_ref.store.messages, "list_after", fail)
        await asyncio.to_thread(post, parts, 1)
        await wait_until(lambda: all(each.table.all()[0].failures for each in connections))
        # One question for each stream would be 200. On a busy machine some streams ask before the first answer.
        assert len(failures) <= len(connections) // 20
        monkeypatch.setattr(store_ref.store.messages, "list_after", read)
        for connection in connections:
            connection.table.all()[0].retry_at = 0.0
            connection.sender.look()
        await wait_until(lambda: all(each.bodies == [1] for each in connections))
        for connection in connections:
            connection.sender.close()
        server.admission.close()

    asyncio.run(script())
    parts.close()


def test_a_stream_without_credit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make_parts(tmp_path)

    async def script() -> None:
        server = Server(parts)
        connection = Connection(server, credit=1)
        post(parts, 1, 2, 3)
        await wait_until(lambda: connection.bodies == [1])
        reads = count_reads(parts, monkeypatch)
        post(parts, 4)
        await asyncio.sleep(0.1)
        assert not reads
        connection.table.grant(QUEUE_NAME, 3)
        await wait_until(lambda: connection.bodies == [1, 2, 3, 4])
        connection.sender.close()
        server.admission.close()

    asyncio.run(script())
    parts.close()
