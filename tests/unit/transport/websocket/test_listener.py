# SPDX-License-Identifier: Apache-2.0
"""The listener of a WebSocket process and the links of notifiers, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from zaqar.errors import StartupError
from zaqar.ipc import push_protocol
from zaqar.ipc.push_protocol import NotifierPeer, Push, Status
from zaqar.notification.senders import node_connection as links
from zaqar.notification.senders.node_connection import NodeConnection, Unreachable
from zaqar.storage.base.nodes import Node
from zaqar.transport.websocket import listener as listeners
from zaqar.transport.websocket.listener import Listener

MACHINE = "this-host"


def accept(push: Push, answer: Callable[[Status], None]) -> None:
    answer(Status.PUSHED)


@asynccontextmanager
async def listening(folder: Path, receive: listeners.Receive = accept) -> AsyncIterator[tuple[Listener, Node]]:
    listener = Listener(receive)
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
            link = NodeConnection(node, machine=machine)
            statuses = await asyncio.gather(*(link.send(make(number)) for number in range(100)))
            link.close()
            return statuses

    assert asyncio.run(go()) == [Status(number % 3) for number in range(100)]


def test_the_largest_message_comes_through(tmp_path: Path) -> None:
    async def go() -> Status:
        async with listening(tmp_path) as (_, node):
            link = NodeConnection(node, machine=MACHINE)
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
            link = NodeConnection(replace(node, port=0), machine=MACHINE)
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
            link = NodeConnection(replace(node, socket=""), machine=MACHINE)
            status = await link.send(make(1))
            link.close()
            return status

    assert asyncio.run(go()) is Status.PUSHED


def test_the_start_succeeds_if_only_the_tcp_port_can_be_opened(tmp_path: Path) -> None:
    async def go() -> Status:
        async with listening(tmp_path) as (_, node):
            link = NodeConnection(replace(node, socket=str(tmp_path / "absent.sock")), machine=MACHINE)
            status = await link.send(make(1))
            link.close()
            return status

    assert asyncio.run(go()) is Status.PUSHED


def test_a_port_that_is_taken_is_one_sentence_for_the_operator(tmp_path: Path) -> None:
    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            other = Listener(accept)
            with pytest.raises(StartupError) as refused:
                await other.start(folder=tmp_path / "other", host="127.0.0.1", port=node.port)
            other.stop()
            assert str(refused.value) == (
                "[drivers:transport:websocket] notification_bind, notification_port: cannot listen on "
                f"127.0.0.1:{node.port}: Address already in use."
            )

    asyncio.run(go())


def test_a_host_without_an_address_is_one_sentence_for_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        async def create_server(*args: object, **options: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(asyncio.get_running_loop(), "create_server", create_server)
        other = Listener(accept)
        with pytest.raises(StartupError, match=r"cannot listen on nowhere:0: Name or service not known\.$"):
            await other.start(folder=tmp_path / "other", host="nowhere", port=0)
        other.stop()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("host", "reason"), [("192.0.2.1", "Cannot assign requested address"), ("nosuch.invalid", r"[A-Z][^:]*")]
)
def test_an_address_that_is_not_here_is_one_sentence_for_the_operator(tmp_path: Path, host: str, reason: str) -> None:
    async def go() -> None:
        listener = Listener(accept)
        sentence = rf"^\[drivers:transport:websocket\] notification_bind, .*: cannot listen on {host}:0: {reason}\.$"
        with pytest.raises(StartupError, match=sentence):
            await listener.start(folder=tmp_path, host=host, port=0)
        listener.stop()

    asyncio.run(go())


@pytest.mark.parametrize(
    "rubbish", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 5000, push_protocol.MAGIC + b"x" * 200, b"{}"]
)
def test_peers_without_the_key_that_send_rubbish_are_dropped_at_once(tmp_path: Path, rubbish: bytes) -> None:
    async def go() -> bytes:
        async with listening(tmp_path) as (_, node):
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            writer.write(rubbish)
            try:
                # They get no challenge and nothing else.
                return await asyncio.wait_for(reader.read(), 2)
            except ConnectionResetError:
                return b""
            finally:
                writer.close()

    assert asyncio.run(go()) == b""


@pytest.mark.parametrize("first", [b"", b"zaqar", push_protocol.MAGIC + b"n" * 32])
def test_silent_peers_without_the_key_are_dropped_after_a_timeout(
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


def test_many_silent_peers_without_the_key_do_not_block_a_notifier(tmp_path: Path) -> None:
    async def go() -> Status:
        async with listening(tmp_path) as (_, node):
            silent_peers = [
                await asyncio.open_connection("127.0.0.1", node.port) for _ in range(2 * listeners.MAX_UNPROVEN_LINKS)
            ]
            link = NodeConnection(node, machine="another-host")
            status = await link.send(make(1))
            link.close()
            for _, writer in silent_peers:
                writer.close()
            return status

    assert asyncio.run(go()) is Status.PUSHED


def test_an_address_that_opens_many_links_keeps_no_other_one_out_of_its_handshake(tmp_path: Path) -> None:
    """The handshake of another address goes on, however fast it opens links."""

    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            reader, writer = await asyncio.open_unix_connection(node.socket)
            peer = NotifierPeer(node.key, node.id, most=1000)
            writer.write(peer.hello()[:5])
            silent_peers = [
                await asyncio.open_connection("127.0.0.1", node.port) for _ in range(2 * listeners.MAX_UNPROVEN_LINKS)
            ]
            writer.write(peer.hello()[5:])
            _, proof = peer.feed(await reader.readexactly(64))
            writer.write(proof + peer.seal(push_protocol.encode([make(1)(1)])))
            assert await reader.read(1)
            for each in (writer, *(writer for _, writer in silent_peers)):
                each.close()

    asyncio.run(go())


@asynccontextmanager
async def impostor(path: Path, says: bytes) -> AsyncIterator[list[bytes]]:
    """A foreign process with a Unix socket at that path. It sends ``says`` and reads on."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        while data := await reader.read(1000):
            heard.append(data)
        writer.close()

    path.parent.mkdir(exist_ok=True)
    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield heard
    finally:
        server.close()


@pytest.mark.parametrize("says", [b"", b"zaqarpu1", b"n" * 64, b"n" * 100_000])
def test_a_foreign_socket_at_the_path_learns_no_key_and_stops_no_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    monkeypatch.setattr(links, "HANDSHAKE_SECONDS", 0.1)

    async def go() -> None:
        async with listening(tmp_path) as (_, node), impostor(tmp_path / "theirs" / "a.sock", says) as heard:
            link = NodeConnection(replace(node, socket=str(tmp_path / "theirs" / "a.sock")), machine=MACHINE)
            assert await link.send(make(1, b"secret")) is Status.PUSHED
            # The foreign process gets a nonce, and nothing that was made with the key.
            assert len(b"".join(heard)) == len(push_protocol.MAGIC) + push_protocol.NONCE_BYTES
            link.close()

    asyncio.run(go())


def test_the_socket_of_another_node_at_the_path_stops_no_delivery(tmp_path: Path) -> None:
    """For example, two hosts have the same name or share a state directory."""

    async def go() -> None:
        refused: list[Push] = []
        async with (
            listening(tmp_path) as (_, node),
            listening(tmp_path / "other", lambda push, answer: refused.append(push)) as (_, other),
        ):
            link = NodeConnection(replace(node, socket=other.socket), machine=MACHINE)
            assert await link.send(make(1)) is Status.PUSHED
            assert refused == []
            link.close()

    asyncio.run(go())


def test_a_node_that_reads_nothing_does_not_fill_the_memory_of_a_notifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_MAX_UNSENT_BYTES", 1_000_000)

    async def go() -> None:
        async with listening(tmp_path) as (listener, node):
            link = NodeConnection(node, machine=MACHINE)
            assert await link.send(make(1)) is Status.PUSHED
            for each in listener._links:
                each._transport.pause_reading()
            sending = []
            for number in range(100):
                sending.append(asyncio.create_task(link.send(make(number, b"x" * 100_000))))
                await asyncio.sleep(0)
            done, waiting = await asyncio.wait(sending, timeout=0.1)
            assert done
            assert waiting
            assert all(isinstance(each.exception(), Unreachable) for each in done)
            # The limit of unsent bytes, and the buffers of the operating system, hold fewer than that.
            assert len(waiting) < 40
            for each in listener._links:
                each._transport.resume_reading()
            assert [await each for each in waiting] == [Status.PUSHED] * len(waiting)
            assert await link.send(make(1)) is Status.PUSHED
            link.close()

    asyncio.run(go())


def test_a_notification_that_is_too_large_does_not_delay_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MOST_TEXT_BYTES", 1000)

    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            link = NodeConnection(node, machine=MACHINE)
            assert await link.send(make(1, b"x" * 1000)) is Status.PUSHED
            stream = link._stream
            with pytest.raises(links.TooLarge):
                await link.send(make(1, b"x" * 1001))
            assert await link.send(make(1)) is Status.PUSHED
            assert link._stream is stream
            link.close()

    asyncio.run(go())


def test_callers_that_wait_for_a_link_get_an_error_when_it_closes(tmp_path: Path) -> None:
    async def go() -> None:
        async with listening(tmp_path) as (_, node), impostor(tmp_path / "silent" / "a.sock", b"") as heard:
            link = NodeConnection(replace(node, port=0, socket=str(tmp_path / "silent" / "a.sock")), machine=MACHINE)
            sending = asyncio.create_task(link.send(make(1)))
            cancelled = asyncio.create_task(link.send(make(2)))
            while not heard:
                await asyncio.sleep(0.005)
            cancelled.cancel()
            link.close()
            with pytest.raises(Unreachable):
                await sending
            with pytest.raises(asyncio.CancelledError):
                await cancelled

    asyncio.run(go())


def test_both_ends_of_a_tcp_stream_notice_that_the_other_host_is_gone(tmp_path: Path) -> None:
    async def go() -> None:
        async with listening(tmp_path) as (listener, node):
            link = NodeConnection(node, machine="another-host")
            await link.send(make(1))
            assert link._stream is not None
            (theirs,) = listener._links
            for each in (theirs._transport, link._stream._transport):
                assert each is not None
                found = each.get_extra_info("socket")
                assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert 0 < found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 20_000
            link.close()

    asyncio.run(go())


def test_a_notifier_with_another_key_cannot_reach_the_node(tmp_path: Path) -> None:
    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            link = NodeConnection(replace(node, key=b"x" * 32), machine=MACHINE)
            with pytest.raises(Unreachable):
                await link.send(make(1))
            link.close()

    asyncio.run(go())


def test_a_lost_link_fails_its_notifications_and_is_opened_again(tmp_path: Path) -> None:
    answers: list[Callable[[Status], None]] = []

    async def go() -> Status:
        async with listening(tmp_path, lambda push, answer: answers.append(answer)) as (listener, node):
            link = NodeConnection(node, machine=MACHINE)
            first = asyncio.create_task(link.send(make(1)))
            while not answers:
                await asyncio.sleep(0.01)
            listener.drop_links()
            with pytest.raises(Unreachable):
                await first
            # A late answer has no effect.
            answers.pop()(Status.PUSHED)
            second = asyncio.create_task(link.send(make(1)))
            while not answers:
                await asyncio.sleep(0.01)
            answers.pop()(Status.WAIT)
            status = await second
            link.close()
            return status

    assert asyncio.run(go()) is Status.WAIT


def test_the_log_says_once_that_a_node_cannot_be_reached_and_once_that_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(links, "FIRST_PAUSE_SECONDS", 0.0)

    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            link = NodeConnection(replace(node, key=b"x" * 32), machine="another")
            for _ in range(3):
                with pytest.raises(Unreachable):
                    await link.send(make(1))
            link.node = node
            assert await link.send(make(1)) is Status.PUSHED
            link.close()

    with caplog.at_level(logging.WARNING, logger=links.__name__):
        asyncio.run(go())
    away, back = (record.getMessage() for record in caplog.records)
    assert "cannot be reached" in away
    assert "the other side does not have the key of this node" in away
    assert "can be reached again" in back


def test_a_node_that_is_away_is_not_tried_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "FIRST_PAUSE_SECONDS", 5.0)

    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            pass
        link = NodeConnection(node, machine=MACHINE)
        with pytest.raises(Unreachable):
            await link.send(make(1))
        async with listening(tmp_path) as (_, found):
            # The node could be reached again, but the link does not try yet.
            link.node = replace(node, port=found.port, socket=found.socket)
            with pytest.raises(Unreachable, match="cannot be reached"):
                await link.send(make(1))
        link.close()

    asyncio.run(go())


def test_links_to_an_earlier_node_are_dropped(tmp_path: Path) -> None:
    async def go() -> None:
        async with listening(tmp_path) as (listener, node):
            link = NodeConnection(node, machine=MACHINE)
            assert await link.send(make(1)) is Status.PUSHED
            listener.serve_as("b" * 24, os.urandom(32))
            with pytest.raises(Unreachable):
                await link.send(make(1))
            link.close()

    asyncio.run(go())


def test_a_notifier_that_reads_no_answers_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "_MAX_UNREAD_BYTES", 1000)

    async def go() -> None:
        async with listening(tmp_path) as (_, node):
            mine = socket.socket()
            # The system buffers little for this socket.
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            mine.setblocking(False)
            await asyncio.get_running_loop().sock_connect(mine, ("127.0.0.1", node.port))
            reader, writer = await asyncio.open_connection(sock=mine, limit=1)
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
        listener = Listener(accept)
        assert await listener.start(folder=tmp_path / "nodes", host=None, port=0) is not None
        assert listener.port == 0
        listener.stop()
        # A host that is configured must have an address.
        with pytest.raises(StartupError, match=r"192\.0\.2\.1"):
            await listener.start(folder=tmp_path / "nodes", host="192.0.2.1", port=0)
        listener.stop()

    asyncio.run(go())
    assert "notification_bind" in caplog.text


@pytest.mark.parametrize("key", [b"", b"\0" * 32])
def test_no_link_is_admitted_before_the_process_is_a_node(tmp_path: Path, key: bytes) -> None:
    async def go() -> None:
        listener = Listener(accept)
        path = await listener.start(folder=tmp_path / "nodes", host="127.0.0.1", port=0)
        link = NodeConnection(Node("", MACHINE, "127.0.0.1", listener.port, str(path), 0.0, key), machine=MACHINE)
        with pytest.raises(Unreachable):
            await link.send(make(1))
        link.close()
        listener.stop()

    asyncio.run(go())
