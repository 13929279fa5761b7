# SPDX-License-Identifier: Apache-2.0
"""The listener of a WebSocket process and the links of notifiers, over real sockets."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from zaqar import push_protocol
from zaqar.errors import StartupError
from zaqar.notification import link as links
from zaqar.notification.link import Link, Unreachable
from zaqar.push_protocol import NotifierPeer, Push, Status
from zaqar.storage.base.nodes import Node
from zaqar.transport.websocket import listener as listeners
from zaqar.transport.websocket.listener import Listener

MACHINE = "this-host"


def accept(push: Push, answer: Callable[[Status], None]) -> None:
    answer(Status.PUSHED)


@asynccontextmanager
async def listening(
    folder: Path, receive: listeners.Receive = accept, *, most: int = 1000
) -> AsyncIterator[tuple[Listener, Node]]:
    listener = Listener(receive, largest_post=most)
    node = Node("a" * 24, MACHINE, "127.0.0.1", 0, "", 0.0, os.urandom(32))
    path = await listener.start(folder=folder / "nodes", host="127.0.0.1", port=0)
    listener.serve_as(node.id, node.key)
    try:
        yield listener, replace(node, port=listener.port, socket=str(path))
    finally:
        listener.stop()


def make(number: int, text: bytes = b"{}") -> Callable[[int], Push]:
    return lambda call: Push(call, "c", "q", "s", number, 0, text)


@pytest.mark.parametrize("machine", [MACHINE, "another-host"])
def test_many_notifications_are_under_way_at_a_time_and_answered_in_any_order(tmp_path: Path, machine: str) -> None:
    waiting: list[tuple[Push, Callable[[Status], None]]] = []

    def receive(push: Push, answer: Callable[[Status], None]) -> None:
        waiting.append((push, answer))
        if len(waiting) == 100:
            for each, tell in reversed(waiting):
                tell(Status(each.number % 3))

    async def go() -> list[Status]:
        async with listening(tmp_path, receive) as (_, node):
            link = Link(node, machine=machine)
            statuses = await asyncio.gather(*(link.send(make(number)) for number in range(100)))
            link.close()
            return statuses

    assert asyncio.run(go()) == [Status(number % 3) for number in range(100)]


def test_the_largest_message_comes_through(tmp_path: Path) -> None:
    async def go() -> Status:
        async with listening(tmp_path, most=1_000_000) as (_, node):
            link = Link(node, machine=MACHINE)
            status = await link.send(make(1, b"x" * 1_000_000))
            link.close()
            return status

    assert asyncio.run(go()) is Status.PUSHED


def test_the_socket_is_closed_to_other_users_and_removed_at_the_end(tmp_path: Path) -> None:
    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            found = Path(node.socket).stat()
            assert stat.S_IMODE(found.st_mode) & 0o077 == 0
            assert stat.S_IMODE(Path(node.socket).parent.stat().st_mode) == 0o700
        assert not Path(node.socket).exists()

    asyncio.run(go())


def test_a_socket_with_a_long_path_works_and_one_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)

    async def go() -> None:
        async with listening(folder) as (_, node):
            left = Path(node.socket)
            link = Link(replace(node, port=0), machine=MACHINE)
            assert await link.send(make(1)) is Status.PUSHED
            link.close()
            left.rename(left.with_name("killed.sock"))
        async with listening(folder) as (_, node):
            assert list((folder / "nodes").iterdir()) == [Path(node.socket)]

    asyncio.run(go())


def test_without_a_unix_socket_notifiers_come_by_tcp(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("no folder")

    async def go() -> Status:
        async with listening(tmp_path) as (_, node):
            link = Link(replace(node, socket=""), machine=MACHINE)
            status = await link.send(make(1))
            link.close()
            return status

    assert asyncio.run(go()) is Status.PUSHED


def test_a_socket_that_cannot_be_opened_is_no_obstacle_if_the_port_can(tmp_path: Path) -> None:
    async def go() -> Status:
        async with listening(tmp_path) as (_, node):
            link = Link(replace(node, socket=str(tmp_path / "absent.sock")), machine=MACHINE)
            status = await link.send(make(1))
            link.close()
            return status

    assert asyncio.run(go()) is Status.PUSHED


def test_a_port_that_is_taken_is_one_sentence_for_the_operator(tmp_path: Path) -> None:
    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            other = Listener(accept, largest_post=1000)
            with pytest.raises(StartupError, match="notification_port"):
                await other.start(folder=tmp_path / "other", host="127.0.0.1", port=node.port)
            other.stop()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("host", "reason"), [("192.0.2.1", "Cannot assign requested address"), ("nosuch.invalid", r"[A-Z][^:]*")]
)
def test_an_address_that_is_not_here_is_one_sentence_for_the_operator(tmp_path: Path, host: str, reason: str) -> None:
    async def go() -> None:
        listener = Listener(accept, largest_post=1000)
        sentence = (
            rf"^\[drivers:transport:websocket\] notification_bind, .*: {host}:0 cannot be listened on: {reason}\.$"
        )
        with pytest.raises(StartupError, match=sentence):
            await listener.start(folder=tmp_path, host=host, port=0)
        listener.stop()

    asyncio.run(go())


@pytest.mark.parametrize(
    "rubbish", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 5000, push_protocol.MAGIC + b"x" * 200, b"{}"]
)
def test_strangers_who_send_rubbish_are_dropped_at_once(tmp_path: Path, rubbish: bytes) -> None:
    async def go() -> bytes:
        async with listening(tmp_path) as (_, node):
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            writer.write(rubbish)
            try:
                # Neither a challenge nor anything else that would help them on.
                return await asyncio.wait_for(reader.read(), 2)
            except ConnectionResetError:
                return b""
            finally:
                writer.close()

    assert asyncio.run(go()) == b""


@pytest.mark.parametrize("first", [b"", b"zaqar", push_protocol.MAGIC + b"n" * 32])
def test_strangers_who_fall_silent_are_dropped_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(listeners, "HANDSHAKE_SECONDS", 0.05)

    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            writer.write(first)
            try:
                await asyncio.wait_for(reader.read(), 2)
            except ConnectionResetError:
                pass
            finally:
                writer.close()

    asyncio.run(go())


def test_many_silent_strangers_do_not_keep_a_notifier_out(tmp_path: Path) -> None:
    async def go() -> Status:
        async with listening(tmp_path) as (_, node):
            crowd = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(2 * listeners.MOST_STRANGERS)]
            link = Link(node, machine="another-host")
            status = await link.send(make(1))
            link.close()
            for _, writer in crowd:
                writer.close()
            return status

    assert asyncio.run(go()) is Status.PUSHED


def test_whoever_has_another_key_is_told_that_the_node_cannot_be_reached(tmp_path: Path) -> None:
    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            link = Link(replace(node, key=b"x" * 32), machine=MACHINE)
            with pytest.raises(Unreachable):
                await link.send(make(1))
            link.close()

    asyncio.run(go())


def test_a_lost_stream_fails_what_is_under_way_and_is_opened_again(tmp_path: Path) -> None:
    answers: list[Callable[[Status], None]] = []

    async def go() -> Status:
        async with listening(tmp_path, lambda push, answer: answers.append(answer)) as (listener, node):
            link = Link(node, machine=MACHINE)
            first = asyncio.create_task(link.send(make(1)))
            while not answers:
                await asyncio.sleep(0.01)
            listener.drop_links()
            with pytest.raises(Unreachable):
                await first
            # What is answered late goes nowhere.
            answers.pop()(Status.PUSHED)
            second = asyncio.create_task(link.send(make(1)))
            while not answers:
                await asyncio.sleep(0.01)
            answers.pop()(Status.WAIT)
            status = await second
            link.close()
            return status

    assert asyncio.run(go()) is Status.WAIT


def test_a_node_that_is_away_is_not_tried_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "FIRST_PAUSE_SECONDS", 5.0)

    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            pass
        link = Link(node, machine=MACHINE)
        with pytest.raises(Unreachable):
            await link.send(make(1))
        async with listening(tmp_path) as (_, found):
            # It could be reached again, but that is not known yet.
            link.node = replace(node, port=found.port, socket=found.socket)
            with pytest.raises(Unreachable, match="cannot be reached"):
                await link.send(make(1))
        link.close()

    asyncio.run(go())


def test_links_of_an_earlier_node_are_dropped(tmp_path: Path) -> None:
    async def go() -> None:
        async with listening(tmp_path) as (listener, node):
            link = Link(node, machine=MACHINE)
            assert await link.send(make(1)) is Status.PUSHED
            listener.serve_as("b" * 24, os.urandom(32))
            with pytest.raises(Unreachable):
                await link.send(make(1))
            link.close()

    asyncio.run(go())


def test_a_notifier_that_reads_no_answers_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "_MOST_UNREAD_BYTES", 1000)

    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port, limit=1)
            peer = NotifierPeer(node.key, node.id, most=1000)
            writer.write(peer.hello())
            _, proof = peer.feed(await reader.readexactly(64))
            writer.write(proof)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            batch = push_protocol.encode([make(number)(number) for number in range(1000)])
            with suppress(ConnectionError):
                while True:
                    writer.write(peer.seal(batch))
                    await writer.drain()
            writer.close()

    asyncio.run(asyncio.wait_for(go(), 20))


def test_a_host_whose_name_is_no_address_is_still_reached_by_its_notifiers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "192.0.2.1")

    async def go() -> None:
        listener = Listener(accept, largest_post=1000)
        assert await listener.start(folder=tmp_path / "nodes", host=None, port=0) is not None
        assert listener.port == 0
        listener.stop()
        # One that was asked for has to be there.
        with pytest.raises(StartupError, match=r"192\.0\.2\.1"):
            await listener.start(folder=tmp_path / "nodes", host="192.0.2.1", port=0)
        listener.stop()

    asyncio.run(go())
    assert "notification_bind" in caplog.text


@pytest.mark.parametrize("key", [b"", b"\0" * 32])
def test_before_it_is_a_node_nobody_has_its_key(tmp_path: Path, key: bytes) -> None:
    async def go() -> None:
        listener = Listener(accept, largest_post=1000)
        path = await listener.start(folder=tmp_path / "nodes", host="127.0.0.1", port=0)
        link = Link(Node("", MACHINE, "127.0.0.1", listener.port, str(path), 0.0, key), machine=MACHINE)
        with pytest.raises(Unreachable):
            await link.send(make(1))
        link.close()
        listener.stop()

    asyncio.run(go())
