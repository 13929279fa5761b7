# SPDX-License-Identifier: Apache-2.0
"""Limits of the memory of all connections together, and of each project, so that a greedy project stops no other."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.raw_websocket import CONTINUATION, frame
from tests.unit.transport.websocket.scripted import Harness, ask, closed, run, wait_until
from tests.unit.transport.websocket.test_server import open_raw
from zaqar.transport.websocket import protocol
from zaqar.transport.websocket.protocol import FREE_SIZE, READ_SIZE, BoundedConnection

LARGEST = 262_144 + 65_536
ONE_EACH = 3 * 4 * (LARGEST + 50_000)
"""As ``max_buffered_size``: room for one large message of each of three projects."""

Raw = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def open_as(harness: Harness, project: str) -> Raw:
    """A connection whose project is known."""
    reader, writer = await open_raw(harness)
    writer.write(frame(json.dumps({"project": project, "text": "x"}).encode()))
    assert await reader.readexactly(3) == b"\x81\x01x"
    return reader, writer


def connections(harness: Harness) -> list[BoundedConnection]:
    assert harness.server._server is not None
    return [each for each in harness.server._server.all_connections if isinstance(each, BoundedConnection)]


def unhandled(connection: BoundedConnection) -> int:
    """Bytes of frames that the connection holds."""
    return connection._unfinished() + connection._messages.size + len(connection._unparsed)


def large(**request: Any) -> bytes:
    """A frame of 300,000 bytes."""
    document = json.dumps(request)
    return frame(document.encode() + b" " * (300_000 - len(document)))


async def code_of(reader: asyncio.StreamReader) -> int:
    """The code of the close frame, which is the last frame."""
    answer = await reader.read()
    at = answer.rindex(b"\x88")
    return int(struct.unpack("!H", answer[at + 2 : at + 4])[0])


def test_messages_in_part_hold_little_and_others_go_on(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        greedy = [await open_as(harness, "greedy") for _ in range(12)]
        whole = large(project="greedy", text="done")
        for _, writer in greedy:
            writer.write(whole[:-1])
        await wait_until(lambda: sum(each._waits_for_room for each in connections(harness)) == 11)
        assert sum(map(unhandled, connections(harness))) < LARGEST + 12 * (FREE_SIZE + READ_SIZE)
        async with harness.connect() as modest:
            assert await ask(modest, project="modest", text="y" * 300_000) == "y" * 300_000
        # A small request of the same project waits as well.
        async with harness.connect() as client:
            assert await ask(client, project="greedy", text="z") == "z"
        # If the clients go on, all are served, one after the other.
        for _, writer in greedy:
            writer.write(whole[-1:])
        for reader, writer in greedy:
            assert await reader.readexactly(6) == b"\x81\x04done"
            writer.close()

    run(script, tmp_path, max_buffered_size=ONE_EACH)


def test_room_that_others_wait_for_is_not_for_a_client_that_does_not_go_on(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        idle = await open_as(harness, "p")
        whole = large(project="p", text="done")
        idle[1].write(whole[:-1])
        await wait_until(lambda: any(each._room.held for each in connections(harness)))
        # While no other connection waits, the client may take its time.
        await asyncio.sleep(0.5)
        idle[1].write(whole[-1:])
        assert await idle[0].readexactly(6) == b"\x81\x04done"
        idle[1].write(whole[:-1])
        await wait_until(lambda: any(each._room.held for each in connections(harness)))
        async with harness.connect() as other:
            assert await ask(other, project="p", text="x") == "x"
            assert await ask(other, project="p", text="y" * 300_000) == "y" * 300_000
            assert await code_of(idle[0]) == 1013
        idle[1].close()

    run(script, tmp_path, max_buffered_size=ONE_EACH, write_timeout=0.2)


def test_large_requests_of_one_project_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    """A decoded request takes many times the memory of its frame."""

    async def script(harness: Harness) -> None:
        first, second = await open_as(harness, "greedy"), await open_as(harness, "greedy")
        first[1].write(large(action="block", project="greedy", text="first"))
        await wait_until(lambda: harness.server.is_busy)
        second[1].write(large(project="greedy", text="second"))
        async with harness.connect() as modest:
            assert await ask(modest, project="modest", text="y" * 200_000) == "y" * 200_000
        assert harness.sessions[1].answered == ["x"]
        harness.sessions[0].release.set()
        assert await second[0].readexactly(8) == b"\x81\x06second"
        for _, writer in (first, second):
            writer.close()

    run(script, tmp_path, max_buffered_size=3 * 4 * 16 * 400_000)


def test_a_project_that_does_not_read_its_replies_gets_no_more(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect(max_size=None, max_queue=None) as greedy, harness.connect() as other:
            assert await ask(other, project="greedy", text="x") == "x"
            greedy.transport.pause_reading()
            await greedy.send(json.dumps({"project": "greedy", "large": 20_000_000}))
            await wait_until(lambda: harness.server._memory.replies.held("greedy"))
            waiting = asyncio.create_task(ask(other, project="greedy", text="y"))
            async with harness.connect() as modest:
                assert await ask(modest, project="modest", text="z") == "z"
            await asyncio.sleep(0.1)
            assert not waiting.done()
            greedy.transport.resume_reading()
            assert len(await greedy.recv()) == 20_000_000
            assert await waiting == "y"
        await wait_until(lambda: not harness.server._memory.replies.total)

    run(script, tmp_path, max_buffered_size=120 << 20)


def test_replies_that_fill_the_memory_are_dropped_if_another_project_would_have_to_wait(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect(max_size=None, max_queue=None) as greedy:
            greedy.transport.pause_reading()
            await greedy.send(json.dumps({"project": "greedy", "large": 20_000_000}))
            await wait_until(lambda: harness.server._memory.replies.held("greedy"))
            async with harness.connect() as modest:
                assert await ask(modest, project="modest", text="z") == "z"
                await wait_until(lambda: len(harness.server.connections) == 1)
            greedy.transport.abort()

    run(script, tmp_path, max_buffered_size=24 << 20, write_timeout=60.0)


def test_a_client_that_reads_late_is_dropped_if_others_of_its_project_wait(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as other:
            assert await ask(other, project="greedy", text="x") == "x"
            async with harness.connect(max_size=None, max_queue=None) as greedy:
                greedy.transport.pause_reading()
                await greedy.send(json.dumps({"project": "greedy", "large": 20_000_000}))
                await wait_until(lambda: any(each.is_lingering for each in connections(harness)))
                assert await ask(other, project="greedy", text="y") == "y"
                await wait_until(lambda: len(harness.server.connections) == 1)
                greedy.transport.abort()

    run(script, tmp_path, max_buffered_size=24 << 20, write_timeout=0.3)


def test_before_authentication_frames_are_small(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as stranger, harness.connect() as member:
            assert await ask(stranger, text="x" * 60_000, status=403) == "x" * 60_000
            assert await ask(member, action="authenticate", text="yes") == "yes"
            assert await ask(member, text="y" * 300_000) == "y" * 300_000
            await stranger.send(json.dumps({"text": "x" * 70_000}))
            assert (await closed(stranger))[0] == 1009

    run(script, tmp_path, authenticates=True)


def test_fragments_are_joined_as_they_come(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        reader, writer = await open_raw(harness)
        text = json.dumps({"text": "done"}).encode()
        writer.write(frame(text[:1], fin=False) + b"".join(frame(b" ", CONTINUATION, fin=False) for _ in range(1_500)))
        await wait_until(lambda: connections(harness)[0]._unfinished() == 1_501)
        assert len(connections(harness)[0].recv_messages.frames) == 0
        writer.write(frame(text[1:], CONTINUATION))
        assert await reader.readexactly(6) == b"\x81\x04done"
        writer.close()

    run(script, tmp_path)


def test_tiny_messages_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FRAMES_PER_SECOND", 1_000_000)

    async def script(harness: Harness) -> None:
        _, writer = await open_raw(harness)
        writer.write(frame(json.dumps({"action": "block", "text": "first"}).encode()))
        await wait_until(lambda: harness.server.is_busy)
        tiny = frame(b"5")
        writer.write(tiny * 10_000)
        (connection,) = connections(harness)
        await wait_until(lambda: connection._unparsed)
        # It keeps the bytes.
        assert len(connection.recv_messages.frames) <= protocol._MIN_PIECE // len(tiny) + 1
        assert unhandled(connection) <= FREE_SIZE + READ_SIZE
        writer.transport.abort()

    run(script, tmp_path)


def test_new_limits_of_memory_hold_at_once(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        harness.server.use(harness.server._parts, harness.server._settings)
        assert harness.server._memory.incoming.size == 100 << 20
        async with harness.connect() as client:
            assert await ask(client, text="x" * 200_000) == "x" * 200_000
        await wait_until(lambda: not len(harness.server.connections))
        memory = harness.server._memory
        assert [pool.total for pool in (memory.incoming, memory.requests, memory.replies)] == [0, 0, 0]

    run(script, tmp_path, max_buffered_size=300 << 20)
