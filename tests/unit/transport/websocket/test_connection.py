# SPDX-License-Identifier: Apache-2.0
"""A connection: requests, notifications, slow readers and the end. Real sockets, scripted sessions."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.unit.transport.websocket.scripted import (
    KEY,
    PATIENCE,
    UPGRADE,
    Harness,
    ask,
    closed,
    make_parts,
    run,
    wait_until,
)
from zaqar.access.identity import Identity
from zaqar.model import QUEUE, QueueName
from zaqar.transport.websocket import connection as connections
from zaqar.transport.websocket.admission import SILENT_SECONDS
from zaqar.transport.websocket.pushes import Gone, TooSlow
from zaqar.transport.websocket.quiet_log import QuietLog

# -- requests ----------------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            for number in range(200):
                await client.send(json.dumps({"text": str(number), "sleep": 0.01 if number % 50 == 0 else 0.0}))
            assert [await client.recv() for _ in range(200)] == [str(number) for number in range(200)]

    run(script, tmp_path)


def test_requests_that_need_no_store_use_no_thread(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            assert await ask(client, action="malformed", text="no") == "no"
            assert harness.sessions[0].answered == []

    run(script, tmp_path)


def test_a_large_frame_is_decoded_in_a_thread(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            text = "y" * 200_000
            assert await ask(client, text=text) == text

    run(script, tmp_path)


def test_requests_per_second_of_a_connection_are_limited(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            began = time.monotonic()
            for number in range(30):
                await client.send(json.dumps({"text": str(number)}))
            assert [await client.recv() for _ in range(30)] == [str(number) for number in range(30)]
            # The requests of one second at once, then 20 in a second.
            assert time.monotonic() - began >= 0.5

    run(script, tmp_path, requests_per_second=20)


def test_a_greedy_project_leaves_room_for_a_modest_one(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        harness.server._admission._max_wait = 0.5
        greedy = [await harness.connect() for _ in range(20)]
        for client in greedy:
            await client.send(json.dumps({"action": "block", "project": "greedy"}))
        await wait_until(lambda: len(harness.sessions) == 20)
        async with harness.connect() as modest:
            began = time.monotonic()
            assert await ask(modest, text="quick", project="modest") == "quick"
            assert time.monotonic() - began < 1.0
        # A request that gets no thread is refused after half a second.
        replies = [asyncio.ensure_future(client.recv()) for client in greedy]
        await wait_until(lambda: sum(reply.done() for reply in replies) >= 16)
        await asyncio.sleep(0.1)
        done = [reply for reply in replies if reply.done()]
        assert len(done) == 16
        assert all(str(reply.result()).startswith("refused: The server is too busy") for reply in done)
        for session in harness.sessions:
            session.release.set()
        await asyncio.wait(replies)
        for client in greedy:
            await client.close()

    run(script, tmp_path, threads=16)


def test_a_client_that_only_claims_a_project_uses_none_of_its_threads(tmp_path: Path) -> None:
    """Until Keystone has validated the token, a client may claim any project."""

    async def script(harness: Harness) -> None:
        async with harness.connect() as member:
            await ask(member, action="authenticate", project="victim")
            strangers = [await harness.connect() for _ in range(12)]
            for client in strangers:
                await client.send(json.dumps({"action": "authenticate", "project": "victim", "sleep": 1.5}))
            await wait_until(lambda: len(harness.sessions) == 13 and harness.server.is_busy)
            began = time.monotonic()
            assert await ask(member, text="quick", project="victim") == "quick"
            assert time.monotonic() - began < 1.0
            for client in strangers:
                await client.close()

    run(script, tmp_path, authenticates=True, threads=16)


def test_requests_to_one_queue_leave_room_for_another(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        clients = [await harness.connect() for _ in range(4)]
        for client in clients[:3]:
            await client.send(json.dumps({"action": "block", "queue_name": QueueName("p", QUEUE, "hot")}))
        assert await ask(clients[3], text="quick", queue_name=QueueName("p", QUEUE, "cold")) == "quick"
        await wait_until(lambda: harness.server.is_busy)
        for client in clients:
            await client.close()

    run(script, tmp_path, threads=16)


@pytest.mark.parametrize("asks_others", [False, True])
def test_a_request_that_waits_for_others_does_not_make_the_store_seem_silent(tmp_path: Path, asks_others: bool) -> None:
    """For example, it waits for a name server that a tenant has chosen, or for all stores."""

    async def script(harness: Harness) -> None:
        async with harness.connect() as slow, harness.connect() as other:
            await slow.send(json.dumps({"action": "block", "text": "late", "asks_others": asks_others}))
            await wait_until(lambda: harness.server.is_busy)
            await asyncio.sleep(SILENT_SECONDS + 0.1)
            reply = str(await ask(other, text="soon", project="other"))
            assert reply.startswith("soon" if asks_others else "refused")
            for session in harness.sessions:
                session.release.set()
            assert await slow.recv() == "late"

    run(script, tmp_path, threads=16)


def test_a_session_may_end_the_connection_with_its_reply(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            assert await ask(client, text="bye", close=[4003, "Authentication expired."]) == "bye"
            assert await closed(client) == (4003, "Authentication expired.")

    run(script, tmp_path)


# -- identity ---------------------------------------------------------------------------------------------------------


def test_connections_of_a_project_are_bounded(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        clients = [await harness.connect() for _ in range(3)]
        assert [await ask(client, text="x") for client in clients[:2]] == ["x", "x"]
        await clients[2].send(json.dumps({"text": "x"}))
        assert (await closed(clients[2]))[0] == 4429
        async with harness.connect() as other:
            assert await ask(other, text="x", project="q") == "x"
        await clients[0].close()
        await wait_until(lambda: harness.server.connections.count("p") == 1)
        async with harness.connect() as client:
            assert await ask(client, text="x") == "x"
        await clients[1].close()
        await wait_until(lambda: harness.server.connections.count("p") == 0)

    run(script, tmp_path, max_connections_per_project=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"idle_timeout": 0.05}, "was closed with code 4408: No request for too long."),
        ({"authentication_timeout": 0.05, "authenticates": True}, "of project - was closed with code 4401: Not auth"),
        (
            {"max_connections_per_project": 1},
            "A connection of project p was closed, as it has 1; see max_connections_per_",
        ),
    ],
)
def test_the_log_says_why_the_server_has_closed_a_connection(
    options: dict[str, Any],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(connections, "_log", QuietLog(logging.getLogger(connections.__name__)))

    async def script(harness: Harness) -> None:
        # The client closes this connection, which needs no log line.
        async with harness.connect():
            pass
        async with harness.connect() as first, harness.connect() as second:
            for client in (first, second):
                with suppress(ConnectionClosed):
                    if "authenticates" not in options:
                        await client.send(json.dumps({"text": "x"}))
                        await client.recv()
            with suppress(ConnectionClosed):
                await second.recv()
        await wait_until(lambda: not len(harness.server.connections))

    with caplog.at_level(logging.INFO, logger=connections.__name__):
        run(script, tmp_path, **options)
    (line,) = [record.getMessage() for record in caplog.records if record.name == connections.__name__]
    assert said in line


def test_connections_with_signed_frames_count_for_the_project(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        guests = [await harness.connect() for _ in range(3)]
        assert [await ask(guest, text="signed") for guest in guests] == ["signed"] * 3
        assert (await closed(guests[2]))[0] == 4429
        assert [await ask(guest, text="again") for guest in guests[:2]] == ["again"] * 2
        # A refused authentication does not count for the claimed project.
        async with harness.connect() as forger:
            assert await ask(forger, text="no", project="q", status=403) == "no"
            assert harness.server.connections.count("q") == 0
        for guest in guests:
            await guest.close()
        await wait_until(lambda: harness.server.connections.count("p") == 0)

    run(script, tmp_path, authenticates=True, max_connections_per_project=2)


def test_a_client_that_does_not_authenticate_is_closed(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as silent, harness.connect() as wrong, harness.connect() as right:
            assert await ask(wrong, action="authenticate", status=401, text="no") == "no"
            assert await ask(right, action="authenticate", text="yes") == "yes"
            assert (await closed(silent))[0] == 4401
            assert (await closed(wrong))[0] == 4401
            assert await ask(right, text="still") == "still"

    run(script, tmp_path, authenticates=True, authentication_timeout=0.3)


def test_a_signed_request_is_enough(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            assert await ask(client, text="signed") == "signed"
            await asyncio.sleep(0.4)
            assert await ask(client, text="again") == "again"

    run(script, tmp_path, authenticates=True, authentication_timeout=0.2)


def test_the_end_of_a_token_ends_the_connection(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            began = time.monotonic()
            await ask(client, action="authenticate", expires_in=0.5)
            assert await closed(client) == (4003, "Authentication expired.")
            assert time.monotonic() - began >= 0.5

    run(script, tmp_path, authenticates=True)


def test_a_newer_token_extends_the_connection(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            await ask(client, action="authenticate", expires_in=0.5)
            await ask(client, action="authenticate", expires_in=60)
            await asyncio.sleep(0.7)
            assert await ask(client, text="x") == "x"

    run(script, tmp_path, authenticates=True)


def test_a_revoked_token_ends_the_connection(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            await ask(client, action="authenticate")
            await asyncio.sleep(0.5)
            assert await ask(client, text="x") == "x"
            harness.sessions[0].valid = False
            assert await closed(client) == (4003, "Authentication expired.")

    run(script, tmp_path, authenticates=True)


def test_neither_requests_nor_pushes_wait_for_keystone(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            await ask(client, action="authenticate")
            session, is_asked = harness.sessions[0], threading.Event()

            def revalidate() -> bool:
                is_asked.set()
                return session.release.wait(PATIENCE)

            session.revalidate = revalidate  # type: ignore[method-assign]
            await wait_until(is_asked.is_set)
            assert await ask(client, text="x") == "x"
            await (await harness.connection()).push(["pushed"])
            assert await client.recv() == "pushed"
            assert not session.release.is_set()

    run(script, tmp_path, authenticates=True)


def test_a_validation_of_a_replaced_token_has_no_effect(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            await ask(client, action="authenticate")
            session, answers = harness.sessions[0], [False, True]

            def revalidate() -> bool:
                if answers == [False, True]:
                    session.identity = Identity("p", "user", frozenset(), None, 0.0)
                return answers.pop(0) if answers else True

            session.revalidate = revalidate  # type: ignore[method-assign]
            # Keystone is asked again, about the newer token.
            await wait_until(lambda: not answers)
            assert await ask(client, text="x") == "x"

    run(script, tmp_path, authenticates=True)


def test_an_idle_connection_without_subscriptions_is_closed(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as idle, harness.connect() as subscribed:
            subscribed_id = (await harness.connection(1)).id
            around = replace(harness.server._context, is_subscribed=lambda connection: connection == subscribed_id)
            for each in harness.server.connections:
                each.use(harness.sessions[0].parts, around)
            assert (await closed(idle))[0] == 4408
            await asyncio.sleep(0.5)
            assert await ask(subscribed, text="x") == "x"

    run(script, tmp_path, idle_timeout=0.3)


# -- notifications -----------------------------------------------------------------------------------------------------


def test_a_notification_waits_for_the_reply_to_the_request_under_way(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            await client.send(json.dumps({"action": "block", "text": "reply"}))
            connection = await harness.connection()
            await wait_until(lambda: harness.server.is_busy)
            pushes = [asyncio.create_task(connection.push([f"push {number}", b"binary"])) for number in range(3)]
            await asyncio.sleep(0.1)
            assert not any(push.done() for push in pushes)
            harness.sessions[0].release.set()
            received = [await client.recv() for _ in range(7)]
            assert received == ["reply", "push 0", b"binary", "push 1", b"binary", "push 2", b"binary"]
            await asyncio.gather(*pushes)

    run(script, tmp_path)


def test_too_many_bytes_do_not_wait_for_one_connection(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            await client.send(json.dumps({"action": "block", "text": "reply"}))
            connection = await harness.connection()
            await wait_until(lambda: harness.server.is_busy)
            first = asyncio.create_task(connection.push(["x" * 800]))
            await asyncio.sleep(0)
            with pytest.raises(TooSlow):
                await connection.push(["y" * 800])
            harness.sessions[0].release.set()
            await first
            # A notification that is larger than the bound is sent if no other waits.
            await connection.push(["z" * 2000])
            assert [len(await client.recv()) for _ in range(3)] == [5, 800, 2000]

    run(script, tmp_path, max_pending_push_size=1024)


def test_a_notification_does_not_wait_for_ever(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect() as client:
            await client.send(json.dumps({"action": "block", "text": "reply"}))
            connection = await harness.connection()
            await wait_until(lambda: harness.server.is_busy)
            with pytest.raises(TooSlow):
                await connection.push(["x"])
            harness.sessions[0].release.set()
            assert await client.recv() == "reply"
            await connection.push(["y"])
            assert await client.recv() == "y"

    run(script, tmp_path, write_timeout=0.2)


def test_a_client_that_does_not_read_is_closed(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect(max_queue=1) as client, harness.connect() as other:
            connection = await harness.connection(0)
            client.transport.pause_reading()
            with pytest.raises(Gone):
                await connection.push(["x" * 1_000_000] * 100)
            with pytest.raises(Gone):
                await connection.push(["x"])
            assert await ask(other, text="x") == "x"
            # The client never reads again, and is dropped.
            await wait_until(lambda: len(harness.server.connections) == 1)
            assert harness.server._server is not None
            assert len(harness.server._server.all_connections) == 1
            client.transport.abort()

    run(script, tmp_path, write_timeout=0.3)


def test_a_client_that_reads_late_is_told_why(tmp_path: Path) -> None:
    """The client reads on long after the time-out."""

    async def script(harness: Harness) -> None:
        async with harness.connect(max_queue=None, max_size=None) as client:
            connection = await harness.connection()
            client.transport.pause_reading()
            sending = asyncio.create_task(connection.push(["x" * 16_000_000]))
            # Its notifications may be sent again as soon as it counts as too slow.
            with pytest.raises(Gone):
                await sending
            await asyncio.sleep(0.6)
            client.transport.resume_reading()
            assert len(await client.recv()) == 16_000_000
            assert await closed(client) == (1013, "The client reads too slowly.")
            await wait_until(lambda: not len(harness.server.connections))

    run(script, tmp_path, write_timeout=0.3)


def test_a_client_that_reads_a_reply_late_is_told_why(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        ended: list[str] = []
        harness.server._closed = ended.append
        harness.server.use(make_parts(tmp_path), harness.server._settings)
        async with harness.connect(max_queue=None, max_size=None) as client:
            connection = await harness.connection()
            client.transport.pause_reading()
            for _ in range(3):
                await client.send(json.dumps({"large": 8_000_000}))
            # Its subscriptions end at the close frame, and not at the end of the TCP connection.
            await wait_until(lambda: ended == [connection.id])
            with pytest.raises(Gone):
                await connection.push(["x"])
            assert len(harness.server.connections) == 1
            client.transport.resume_reading()
            assert len(await client.recv()) == 8_000_000
            assert (await closed(client))[0] == 1013
        assert harness.sessions[0].answered == [""]

    run(script, tmp_path, write_timeout=0.3)


def test_a_client_that_does_not_read_does_not_delay_the_end(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect(max_queue=None, max_size=None) as client:
            connection = await harness.connection()
            client.transport.pause_reading()
            with pytest.raises(Gone):
                await connection.push(["x" * 16_000_000])
            began = time.monotonic()
            await harness.server.stop()
            assert time.monotonic() - began < 5.0
            client.transport.abort()

    run(script, tmp_path, write_timeout=0.2)


def test_a_client_on_a_slow_line_gets_all_of_a_large_reply(tmp_path: Path) -> None:
    """The reply takes many times the time-out."""

    async def script(harness: Harness) -> None:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.connect(("127.0.0.1", harness.port))
            sock.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=sock, limit=65536)
            writer.write(f"GET / HTTP/1.1\nHost: h\n{UPGRADE}{KEY}\n".replace("\n", "\r\n").encode())
            await reader.readuntil(b"\r\n\r\n")
            connection = await harness.connection()
            sending = asyncio.create_task(connection.push(["x" * 3_000_000, "last"]))
            began, left = time.monotonic(), 3_000_000 + 10 + 6
            while left:
                await asyncio.sleep(0.03)
                left -= len(await reader.readexactly(min(left, 100_000)))
            await sending
            assert time.monotonic() - began > 0.75
            writer.close()

    run(script, tmp_path, write_timeout=0.15)


def test_a_closed_connection_takes_no_notification(tmp_path: Path) -> None:
    async def script(harness: Harness) -> None:
        async with harness.connect():
            connection = await harness.connection()
        await wait_until(lambda: not len(harness.server.connections))
        with pytest.raises(Gone):
            await connection.push(["x"])

    run(script, tmp_path)
