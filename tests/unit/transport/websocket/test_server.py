# SPDX-License-Identifier: Apache-2.0
"""The opening handshake, frames other than requests, and the end of the server."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import struct
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.unit.transport.websocket.scripted import KEY, UPGRADE, Harness, ask, closed, make_parts, run, wait_until
from zaqar.transport.websocket import protocol
from zaqar.transport.websocket import server as servers
from zaqar.transport.websocket.close_codes import MEANINGS
from zaqar.transport.websocket.quiet_log import QuietLog


async def http(harness: Harness, request: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these raw bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(request.replace("\n", "\r\n").encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    return (
        int(first.split()[1]),
        {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)},
        body,
    )


MASKED = b"\x00\x00\x00\x00"
"""The mask of a frame's bytes; this one changes nothing."""


async def open_raw(harness: Harness) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose frames the test makes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(f"GET / HTTP/1.1\nHost: h\n{UPGRADE}{KEY}\n".replace("\n", "\r\n").encode())
    assert b"101 Switching" in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


# -- the opening handshake ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET / HTTP/1.1\nHost: h\n\n", 426),
        ("GET /v2/queues HTTP/1.1\nHost: h\nUpgrade: h2c\n\n", 426),
        ("POST / HTTP/1.1\nHost: h\nContent-Length: 0\n\n", 426),
        (f"POST / HTTP/1.1\nHost: h\n{UPGRADE}{KEY}\n", 405),
        ("POST /v2/queues HTTP/1.1\nHost: h\nContent-Length: 2\n\n{}", 400),
        ("PUT / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n1\nx\n0\n\n", 400),
        ("GET / HTTP/2.0\nHost: h\n\n", 400),
        ("\x16\x03\x01\n\n", 400),
        ("GET /" + "x" * 9_000 + " HTTP/1.1\nHost: h\n\n", 414),
        ("GET / HTTP/1.1\nHost: h\nX: " + "x" * 9_000 + "\n\n", 431),
        ("GET / HTTP/1.1\nHost: h\n" + "X: y\n" * 200 + "\n", 431),
        ("GET / HTTP/1.1\nHost: h\n" + f"X: {'y' * 1_000}\n" * 40 + "\n", 431),
        (f"GET / HTTP/1.1\nHost: h\n{UPGRADE}\n", 400),
        (f"GET / HTTP/1.1\nHost: h\n{UPGRADE.replace('13', '8')}{KEY}\n", 400),
        (f"GET / HTTP/1.1\nHost: h\nOrigin: https://evil.example\n{UPGRADE}{KEY}\n", 403),
        (f"GET / HTTP/1.1\nHost: h\nOrigin: http://h\nOrigin: http://h\n{UPGRADE}{KEY}\n", 403),
    ],
)
def test_a_refused_handshake_has_the_reason_as_json(request_: str, status: int, tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        found, headers, body = await http(harness, request_)
        assert found == status
        document = json.loads(body)
        assert set(document) == {"title", "description"}
        assert headers["content-type"] == "application/json"
        assert headers["content-length"] == str(len(body))
        assert "server" not in headers

    run(script, tmp_path)


def test_any_path_and_offer_of_a_subprotocol_is_accepted(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect(subprotocols=["zaqar"], origin="http://127.0.0.1:1") as client:
            pytest.fail(f"it is {client}")

    async def accepted(harness: Harness) -> None:
        origin = f"http://127.0.0.1:{harness.port}"
        async with harness.connect(subprotocols=["zaqar"], origin=origin) as client:
            assert client.subprotocol is None
            assert client.response is not None and "Server" not in client.response.headers
            assert await ask(client, text="x") == "x"

    with pytest.raises(InvalidStatus):
        run(script, tmp_path)
    run(accepted, tmp_path)


def test_the_log_says_which_pages_may_not_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(servers, "_quiet_log", QuietLog(logging.getLogger(servers.__name__)))

    async def script(harness: Harness) -> None:
        for _ in range(3):
            with pytest.raises(InvalidStatus):
                await harness.connect(origin="https://evil.example/" + "x" * 200)

    with caplog.at_level(logging.INFO, logger=servers.__name__):
        run(script, tmp_path)
    (line,) = [record.getMessage() for record in caplog.records if "origin" in record.getMessage()]
    shown = "https://evil.example/" + "x" * 79
    assert line == f"A page of the origin '{shown}' may not connect; [cors] allowed_origin does not name it."


def test_origins_that_the_operator_allows(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect(origin="https://ui.example") as client:
            assert await ask(client, text="x") == "x"

    run(script, tmp_path, "[cors]\nallowed_origin = https://ui.example\n")


def test_connections_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(servers, "_quiet_log", QuietLog(logging.getLogger(servers.__name__)))

    async def script(harness: Harness) -> None:
        async with harness.connect(), harness.connect():
            await wait_until(lambda: len(harness.server.connections) == 2)
            with pytest.raises(InvalidStatus) as caught:
                await harness.connect()
            assert caught.value.response.status_code == 503
            assert caught.value.response.headers["Retry-After"] == "5"
            assert "too many connections" in json.loads(caught.value.response.body or b"")["description"]
        await wait_until(lambda: not len(harness.server.connections))
        async with harness.connect() as client:
            assert await ask(client, text="x") == "x"

    run(script, tmp_path, max_connections=2)
    assert "A connection was refused, as there are 2; see [drivers:transport:websocket] max_connections." in caplog.text


def test_many_simultaneous_clients_do_not_exceed_the_limit(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        found = await asyncio.gather(*(harness.connect() for _ in range(15)), return_exceptions=True)
        refused = [each for each in found if isinstance(each, InvalidStatus)]
        assert (len(refused), len(harness.server.connections)) == (10, 5)
        for each in found:
            if not isinstance(each, BaseException):
                await each.close()
        async with harness.connect() as client:
            assert await ask(client, text="x") == "x"

    run(script, tmp_path, max_connections=5)


def test_connections_without_a_handshake_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.transport.websocket.settings._MIN_HANDSHAKES", 3)

    async def script(harness: Harness) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", harness.port) for _ in range(4)]
        reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        for _, each in [*silent, (reader, writer)]:
            each.close()
        await asyncio.sleep(0.1)
        async with harness.connect() as client:
            assert await ask(client, text="x") == "x"

    run(script, tmp_path, max_connections=1)


def test_compression_is_off_unless_it_is_wanted(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            assert client.response is not None
            assert "Sec-WebSocket-Extensions" not in client.response.headers

    async def compressed(harness: Harness) -> None:
        async with harness.connect() as client:
            assert client.response is not None
            assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]
            assert await ask(client, text="x" * 100_000) == "x" * 100_000
            # The size after decompression counts.
            await client.send(json.dumps({"text": "x" * 2_000_000}))
            assert (await closed(client))[0] == 1009

    run(script, tmp_path)
    run(compressed, tmp_path, compression=True)


def test_a_client_that_only_probes_the_port_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def script(harness: Harness) -> None:
        for sent in (b"", b"GET / HT"):
            reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
            writer.write(sent)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()

    run(script, tmp_path)
    assert caplog.messages == []


# -- frames ------------------------------------------------------------------------------------------------------------


def test_a_frame_may_be_as_large_as_a_post_and_a_little_more(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            assert len(await ask(client, text="x" * 5_000)) == 5_000
            await client.send(json.dumps({"text": "x" * 70_000}))
            assert (await closed(client))[0] == 1009

    run(script, tmp_path, "[transport]\nmax_messages_post_size = 1000\n")


NO_WEBSOCKET = {
    "not masked": (b"\x81\x02{}", 1002),
    "an opcode that means nothing": (b"\x83\x80" + MASKED, 1002),
    "compressed, which was not agreed": (b"\xc1\x80" + MASKED, 1002),
    "a continuation of nothing": (b"\x80\x80" + MASKED, 1002),
    "a message in a message": (b"\x01\x80" + MASKED + b"\x81\x80" + MASKED, 1002),
    "a ping in fragments": (b"\x09\x80" + MASKED, 1002),
    "a ping that is too long": (b"\x89\xfe" + struct.pack("!H", 126) + MASKED + b"x" * 126, 1002),
    "not UTF-8": (b"\x81\x82" + MASKED + b"\xff\xfe", 1007),
    "very large": (b"\x81\xff" + struct.pack("!Q", 1 << 40) + MASKED, 1009),
    "too many fragments": ((b"\x01\x80" + MASKED) + (b"\x00\x80" + MASKED) * 5_000, 1009),
}


@pytest.mark.parametrize("what", NO_WEBSOCKET)
def test_bytes_that_are_no_websocket_end_only_their_connection(what: str, tmp_path: Path) -> None:
    frames, code = NO_WEBSOCKET[what]

    async def script(harness: Harness) -> None:
        async with harness.connect() as other:
            reader, writer = await open_raw(harness)
            writer.write(frames)
            writer.write_eof()
            answer = await reader.read()
            assert answer[0] == 0x88
            assert struct.unpack("!H", answer[2:4]) == (code,)
            assert code in MEANINGS
            writer.close()
            assert await ask(other, text="x") == "x"

    run(script, tmp_path)


def test_fragments_are_joined(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            await client.send(iter(['{"te', 'xt": ', '"x"}']))
            assert await client.recv() == "x"

    run(script, tmp_path)


def test_a_lost_connection_leaves_nothing_behind(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        _, writer = await open_raw(harness)
        writer.write(b"\x81\xfe" + struct.pack("!H", 1000) + MASKED + b"half")
        await wait_until(lambda: len(harness.server.connections) == 1)
        writer.transport.abort()
        await wait_until(lambda: not len(harness.server.connections))

    run(script, tmp_path)


def test_pings_are_answered(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            assert await (await client.ping("now")) < 5.0

    run(script, tmp_path)


def test_a_flood_of_pings_takes_no_memory_and_delays_no_client(tmp_path: Path) -> None:
    """The client sends as fast as it can and reads nothing."""
    ping = b"\x89\xfd" + MASKED + b"x" * 125

    async def script(harness: Harness) -> None:
        _, writer = await open_raw(harness)
        writer.transport.set_write_buffer_limits(high=0)
        flood = asyncio.create_task(send_for_ever(writer, ping * 1_000))
        async with harness.connect() as other:
            waits = []
            for _ in range(30):
                began = time.monotonic()
                await ask(other, text="x")
                waits.append(time.monotonic() - began)
                await asyncio.sleep(0.01)
            assert sorted(waits)[15] < 0.1
        assert harness.server._server is not None
        buffers = [each.transport.get_write_buffer_size() for each in harness.server._server.all_connections]
        assert max(buffers) < 200_000
        flood.cancel()
        writer.transport.abort()

    async def send_for_ever(writer: asyncio.StreamWriter, data: bytes) -> None:
        while True:
            writer.write(data)
            await writer.drain()

    run(script, tmp_path)


def test_many_tiny_frames_are_read_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FRAMES_PER_SECOND", 100)

    async def script(harness: Harness) -> None:
        reader, writer = await open_raw(harness)
        began = time.monotonic()
        writer.write((b"\x89\x80" + MASKED) * 150)
        await reader.readexactly(2 * 150)
        writer.write(b"\x89\x81" + MASKED + b"z")
        assert await reader.readexactly(3) == b"\x8a\x01z"
        assert time.monotonic() - began >= 0.5
        writer.close()

    run(script, tmp_path)


def test_a_client_that_does_not_answer_pings_is_closed(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        reader, writer = await open_raw(harness)
        async with harness.connect() as client:
            assert await reader.readexactly(2) == b"\x89\x00"
            answer = await reader.read()
            assert struct.unpack("!H", answer[2:4]) == (1011,)
            assert await ask(client, text="x") == "x"
        writer.close()

    run(script, tmp_path, ping_interval=0.2, ping_timeout=0.3)


def test_a_client_whose_pong_is_behind_its_requests_is_not_closed(tmp_path: Path) -> None:
    """The server does not read, because the requests take long."""

    async def script(harness: Harness) -> None:
        async with harness.connect(max_queue=None) as client:
            for number in range(6):
                await client.send(json.dumps({"text": str(number), "sleep": 0.15}))
            assert [await client.recv() for _ in range(6)] == list("012345")

    run(script, tmp_path, ping_interval=0.05, ping_timeout=0.05)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_requests_that_were_read_are_answered_before_the_end(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as busy, harness.connect() as idle:
            for number in range(10):
                await busy.send(json.dumps({"text": str(number), "sleep": 0.3}))
            await wait_until(lambda: harness.server.is_busy)
            stopping = asyncio.create_task(harness.server.stop())
            assert await closed(idle) == (1001, "The server ends.")
            assert await busy.recv() == "0"
            assert (await closed(busy))[0] == 1001
            await stopping
            assert harness.sessions[0].answered == ["0"]
            with pytest.raises(ConnectionRefusedError):
                await harness.connect()

    run(script, tmp_path)


def test_the_end_does_not_wait_for_clients_that_do_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.transport.websocket.server._LAST_CLOSE_SECONDS", 0.2)
    monkeypatch.setattr("zaqar.transport.websocket.server.DRAIN_SECONDS", 0.8)

    async def script(harness: Harness) -> None:
        silent = [await open_raw(harness) for _ in range(3)]
        _, writer = await asyncio.open_connection("127.0.0.1", harness.port)  # in its handshake
        async with harness.connect() as stuck:
            await stuck.send(json.dumps({"action": "block"}))
            await wait_until(lambda: harness.server.is_busy)
            began = time.monotonic()
            await harness.server.stop()
            assert 0.5 < time.monotonic() - began < 3.0
            with pytest.raises(ConnectionClosed):
                await stuck.recv()
        for each in (writer, *(writer for _, writer in silent)):
            each.close()

    run(script, tmp_path)


def test_many_connections_end_together(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        clients = await asyncio.gather(*(harness.connect() for _ in range(200)))
        await harness.server.stop()
        codes = [(await closed(client))[0] for client in clients]
        assert codes == [1001] * 200

    run(script, tmp_path)


def test_new_limits_hold_for_open_connections(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect(max_size=None) as client:
            await ask(client, text="x")
            connection = await harness.connection()
            settings = replace(harness.server._settings, max_frame_size=3_000_000, requests_per_second=0)
            before = harness.sessions[0].parts
            folder = tmp_path / str(os.getpid())
            folder.mkdir()
            parts = make_parts(folder)
            harness.server.use(parts, settings)
            assert await ask(client, text="x") == "x"
            assert harness.sessions[0].parts is parts is not before
            text = "x" * 2_000_000
            async with harness.connect(max_size=None) as other:
                assert await ask(other, text=text) == text
            assert await ask(client, text=text) == text
            assert connection.session is harness.sessions[0]
            parts.close()

    run(script, tmp_path)
