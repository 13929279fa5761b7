# SPDX-License-Identifier: Apache-2.0
"""Bytes that no honest client sends, over raw sockets, against a running ``zaqar-websocket``.

Each input is answered with an error frame, a close code or an HTTP status below 500, and never by hanging; it is never
stored. All the time a neighbour on a connection of its own makes requests, which are all served, while some clients
hold handshakes open that they never finish.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
from websockets.exceptions import WebSocketException

from tests.acceptance.raw_websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    HANG_SECONDS,
    PING,
    PONG,
    TEXT,
    RawConnection,
    frame,
    handshake,
)
from tests.acceptance.server import STOP_SECONDS, free_port, wait_until
from tests.websocket import WebSocket
from zaqar.ipc import push_protocol

CLIENT = "3381af92-2b9e-11e3-b191-71861300734c"
LARGEST_POST = 262_144
LARGEST_FRAME = LARGEST_POST + 65_536
MEBIBYTE = 1 << 20
STALLED = 300
IDLE = 2_000


@dataclass
class WebSocketProcess:
    """A running ``zaqar-websocket``."""

    address: tuple[str, int]
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"ws://{self.address[0]}:{self.address[1]}"

    def resident_bytes(self) -> int:
        statm = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(statm[1]) * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"the server has ended:\n{self.log.read_text()}"
        try:
            with RawConnection(self.address) as connection:
                connection.open()
            return True
        except ConnectionRefusedError:
            return False


@contextmanager
def websocket_process(folder: Path, lines: str) -> Iterator[WebSocketProcess]:
    """Started with these lines in its configuration, with its data in the folder."""
    config, log = folder / "zaqar.conf", folder / "websocket.log"
    config.write_text(f"[DEFAULT]\nstate_dir = {folder / 'state'}\n{lines}")
    address = ("127.0.0.1", free_port())
    command = [sys.executable, "-m", "zaqar.cmd.websocket", "--bind", f"{address[0]}:{address[1]}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--config-file", str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    started = WebSocketProcess(address, log, process)
    try:
        wait_until(started.is_ready)
        yield started
    finally:
        process.terminate()
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert status == 0


class Neighbour(threading.Thread):
    """A client that posts and takes messages all the time, and records whether it is always served."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.served = 0
        self.failures: list[str] = []
        self._ends = threading.Event()
        self._client = WebSocket(url, project=uuid.uuid4().hex)

    def run(self) -> None:
        with self._client as client:
            while not self._ends.wait(0.005):
                try:
                    posted = client.request("message_post", {"queue_name": "q", "messages": [{"body": 1, "ttl": 60}]})
                    popped = client.request("message_delete_many", {"queue_name": "q", "pop": 1})
                except (OSError, AssertionError, WebSocketException) as exc:
                    self.failures.append(repr(exc))
                    return
                if (posted.status, popped.status) != (201, 200):
                    self.failures.append(f"{posted} {popped}")
                self.served += 1

    def wait_for_service(self, times: int = 1) -> None:
        """Return after it has been served so many more times."""
        wanted = self.served + times + 1
        wait_until(lambda: self.failures or self.served >= wanted, every=0.005)
        assert self.failures == []

    def end(self) -> None:
        self._ends.set()
        self.join(STOP_SECONDS)
        assert not self.is_alive()


class SlowHandshake(threading.Thread):
    """A client that sends its handshake byte by byte. ``seconds`` is how long the server tolerated it."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.seconds: float | None = None
        self._connection = RawConnection(address)

    def run(self) -> None:
        started = time.monotonic()
        with self._connection as connection:
            for byte in handshake():
                connection.send(bytes([byte]))
                if connection.is_closed():
                    self.seconds = time.monotonic() - started
                    return
                time.sleep(0.3)


@dataclass
class Target:
    """A running server under attack. ``stalled`` are connections that have sent nothing, or half of a handshake.

    ``notifications`` is where notifiers on other hosts reach it.
    """

    process: WebSocketProcess
    notifications: tuple[str, int]
    neighbour: Neighbour
    stalled: list[RawConnection]
    slow: SlowHandshake

    def connect(self) -> RawConnection:
        return RawConnection(self.process.address)

    def open(self) -> RawConnection:
        return self.connect().open()


def fields(action: str, project: str, body: Any = None) -> dict[str, Any]:
    """The document of a request."""
    document: dict[str, Any] = {"action": action, "headers": {"Client-ID": CLIENT, "X-Project-ID": project}}
    return document if body is None else {**document, "body": body}


def text(action: str, project: str, body: Any = None) -> bytes:
    return json.dumps(fields(action, project, body)).encode()


def reply_to(connection: RawConnection) -> tuple[int, Any]:
    """The status and the body of the next frame, which must be a reply."""
    (answer,) = connection.frames(1)
    assert answer.opcode in (TEXT, BINARY), answer
    document = json.loads(answer.payload) if answer.opcode == TEXT else msgpack.unpackb(answer.payload)
    assert set(document) == {"request", "body", "headers"}
    return document["headers"]["status"], document["body"]


def queues(connection: RawConnection, project: str) -> list[str]:
    """The queues of the project, requested on the same connection, which must still be usable."""
    connection.send(frame(text("queue_list", project)))
    status, body = reply_to(connection)
    assert status == 200, body
    return [queue["name"] for queue in body["queues"]]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    lines = f"[drivers:transport:websocket]\nwrite_timeout = 2\nmax_connections = {IDLE + 200}\n"
    lines += f"max_connections_per_project = {IDLE}\n"
    notifications = ("127.0.0.1", free_port())
    lines += f"notification_bind = {notifications[0]}\nnotification_port = {notifications[1]}\n"
    with websocket_process(folder, lines) as process, ExitStack() as stack:
        neighbour = Neighbour(process.url)
        neighbour.start()
        slow = SlowHandshake(process.address)
        slow.start()
        cut = handshake()[:-30]
        stalled = [stack.enter_context(RawConnection(process.address)) for _ in range(STALLED)]
        for connection in stalled[: STALLED // 2]:
            connection.send(cut)
        yield Target(process, notifications, neighbour, stalled, slow)
        neighbour.wait_for_service(3)
        neighbour.end()
        assert neighbour.failures == []
        log = process.log.read_text()
        # Clients that send nonsense do not fill the log.
        assert not any(word in log for word in ("Traceback", " ERROR ", " WARNING ")), log[-20_000:]


@pytest.fixture
def project(target: Target) -> Iterator[str]:
    """A project for one test. After the test the neighbour must be served, and nothing may be stored."""
    project = uuid.uuid4().hex
    yield project
    target.neighbour.wait_for_service()
    with target.open() as connection:
        assert queues(connection, project) == []


# -- messages that are no requests -----------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


BAD_TEXTS: dict[str, bytes] = {
    "empty": b"",
    "half an object": b"{",
    "a list": b"[1]",
    "a number": b"5",
    "null": b"null",
    "a string": b'"queue_list"',
    "an empty object": b"{}",
    "two documents": b"{}{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a NUL": b"\x00",
    "no JSON": b"GET / HTTP/1.1\r\n\r\n",
    "nested deeply": b'{"action":' + nested(100_000).encode() + b"}",
    "no action": b'{"headers":{}}',
    "an action that is none": b'{"action":"nope"}',
    "an action that is a number": b'{"action":5}',
    "an action that is a list": b'{"action":["queue_list"]}',
    "no headers": b'{"action":"queue_list"}',
    "headers that are a list": b'{"action":"queue_list","headers":[]}',
    "the same key twice": b'{"action":"queue_list","action":"queue_list"}',
}
# The value is in the metadata of a queue, so it would be stored.
BAD_VALUES: dict[str, str] = {
    "not a number": "NaN",
    "infinity": "-Infinity",
    "beyond a double": "1e999",
    "beyond 64 bits": str(2**63),
    "an endless number": "9" * 20_000,
    "half a surrogate pair": r'"\ud83d"',
    "the same key twice": '{"a":1,"a":2}',
    "nested too deep": nested(101),
    "trailing comma": "[1,]",
    "single quotes": "'a'",
    "a comment": "/* */ 1",
    "a control character": '"\x01"',
    "a bad escape": r'"\x41"',
    "half": '{"a',
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_a_text_that_is_no_request_is_400(target: Target, project: str, case: str) -> None:
    with target.open() as connection:
        connection.send(frame(BAD_TEXTS[case]))
        status, body = reply_to(connection)
        assert status == 400
        assert isinstance(body["error"], str)
        assert queues(connection, project) == []


@pytest.mark.parametrize("case", BAD_VALUES)
def test_an_invalid_json_value_is_400(target: Target, project: str, case: str) -> None:
    whole = text("queue_create", project, {"queue_name": "q", "metadata": {"k": "HERE"}})
    with target.open() as connection:
        connection.send(frame(whole.replace(b'"HERE"', BAD_VALUES[case].encode())))
        assert reply_to(connection)[0] == 400
        assert queues(connection, project) == []


def packed(project: str, value: bytes) -> bytes:
    """A request in MessagePack with these bytes in the metadata of a queue."""
    whole: bytes = msgpack.packb(fields("queue_create", project, {"queue_name": "q", "metadata": {"k": "HERE"}}))
    return whole.replace(msgpack.packb("HERE"), value)


BAD_PACKED: dict[str, bytes] = {
    "bytes": b"\xc4\x01a",
    "an extension": b"\xd4\x05a",
    "a timestamp": msgpack.packb(msgpack.Timestamp(1)),
    "not a number": b"\xcb\x7f\xf8" + bytes(6),
    "infinity": b"\xcb\x7f\xf0" + bytes(6),
    "a short infinity": b"\xca\xff\x80\x00\x00",
    "beyond 64 bits": b"\xcf" + b"\xff" * 8,
    "an integer as key": b"\x81\x01\x01",
    "nil as key": b"\x81\xc0\x01",
    "bytes as key": b"\x81\xc4\x01a\x01",
    "a list as key": b"\x81\x90\x01",
    "a float as key": b"\x81\xca\x00\x00\x00\x00\x01",
    "the same key twice": b"\x82\xa1a\x01\xa1a\x02",
    "nested too deep": b"\x91" * 101 + b"\x01",
    "nested deeply": b"\x91" * 5_000 + b"\x01",
    "nested maps": b"\x81\xa1a" * 5_000 + b"\x01",
    "text that is not UTF-8": b"\xa2\xc3\x28",
    "a surrogate": b"\xa3\xed\xa0\xbd",
    "the reserved byte": b"\xc1",
    "an array without end": b"\xdd\xff\xff\xff\xff",
    "a map without end": b"\xdf\xff\xff\xff\xff",
    "text without end": b"\xdb\xff\xff\xff\xff",
    "bytes without end": b"\xc6\xff\xff\xff\xff",
    "an extension without end": b"\xc9\xff\xff\xff\xff\x05",
    "cut off": b"\xa5ab",
}
BAD_MESSAGES: dict[str, bytes] = {
    "empty": b"",
    "nil": b"\xc0",
    "a list": b"\x90",
    "an integer": b"\x01",
    "two documents": b"\x80\x80",
    "an array of nothing": b"\xdd\xff\xff\xff\xff",
    "JSON": b'{"action":"queue_list"}',
    "random": bytes(range(256)),
}


@pytest.mark.parametrize("case", BAD_PACKED)
def test_a_messagepack_value_that_json_cannot_have_is_400(target: Target, project: str, case: str) -> None:
    with target.open() as connection:
        connection.send(frame(packed(project, BAD_PACKED[case]), BINARY))
        status, body = reply_to(connection)
        assert status == 400
        assert isinstance(body["error"], str)
        assert queues(connection, project) == []


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_a_binary_message_that_is_no_request_is_400(target: Target, project: str, case: str) -> None:
    with target.open() as connection:
        connection.send(frame(BAD_MESSAGES[case], BINARY))
        assert reply_to(connection)[0] == 400
        assert queues(connection, project) == []


# -- frames that break the protocol ----------------------------------------------------------------------------------

HALF = b'{"action":"queue_'
BAD_FRAMES: dict[str, tuple[bytes, set[int]]] = {
    "not masked": (frame(b"{}", masked=False), {1002}),
    "a ping that is not masked": (frame(b"", PING, masked=False), {1002}),
    **{f"reserved bits {bits}": (frame(b"{}", rsv=bits), {1002}) for bits in range(1, 8)},
    "a ping with a reserved bit": (frame(b"", PING, rsv=4), {1002}),
    **{f"opcode {code}": (frame(b"{}", code), {1002}) for code in (0x3, 0x4, 0x5, 0x6, 0x7)},
    **{f"opcode {code}": (frame(b"", code), {1002}) for code in (0xB, 0xC, 0xD, 0xE, 0xF)},
    "a ping of 126 bytes": (frame(b"x" * 126, PING), {1002}),
    "a pong of 126 bytes": (frame(b"x" * 126, PONG), {1002}),
    "a close of 126 bytes": (frame(b"\x03\xe8" + b"x" * 124, CLOSE), {1002}),
    "a ping in fragments": (frame(b"", PING, fin=False), {1002}),
    "a close in fragments": (frame(b"\x03\xe8", CLOSE, fin=False), {1002}),
    "a continuation of nothing": (frame(b"{}", CONTINUATION), {1002}),
    "a message in a message": (frame(HALF, fin=False) + frame(b"{}"), {1002}),
    "another kind in a message": (frame(HALF, fin=False) + frame(b"\x80", BINARY), {1002}),
    "a close of one byte": (frame(b"\x03", CLOSE), {1002}),
    **{
        f"close code {code}": (frame(struct.pack("!H", code), CLOSE), {1002})
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)
    },
    "a close whose reason is not UTF-8": (frame(b"\x03\xe8\xc3\x28", CLOSE), {1002, 1007}),
    "a length beyond 63 bits": (frame(b"", announced=2**63, width=8), {1002, 1009}),
    "the largest length": (frame(b"", announced=2**64 - 1, width=8), {1002, 1009}),
    "a huge length": (frame(b"", announced=2**40, width=8), {1009}),
    "one byte too many": (frame(b" " * (LARGEST_FRAME + 1)), {1009}),
    "one byte too many, binary": (frame(b" " * (LARGEST_FRAME + 1), BINARY), {1009}),
    "too much in fragments": (
        frame(b" " * 65_000, fin=False) + frame(b" " * 65_000, CONTINUATION, fin=False) * 6,
        {1009},
    ),
    "fragments without number": (frame(b"", fin=False) + frame(b"", CONTINUATION, fin=False) * 10_000, {1009}),
    "not UTF-8": (frame(b"\xc3\x28"), {1007}),
    "overlong UTF-8": (frame(b"\xc0\xae"), {1007}),
    "a surrogate in UTF-8": (frame(b"\xed\xa0\x80"), {1007}),
    "a character that is cut off": (frame(b'"\xf0\x9f\x98'), {1007}),
    "beyond the last character": (frame(b"\xf4\x90\x80\x80"), {1007}),
    "not UTF-8 in fragments": (frame(b'"\xf0\x9f', fin=False) + frame(b'"', CONTINUATION), {1007}),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_a_frame_that_violates_the_protocol_closes_the_connection(target: Target, project: str, case: str) -> None:
    raw, codes = BAD_FRAMES[case]
    create = frame(text("queue_create", project, {"queue_name": "q"}))
    with target.open() as connection:
        # The frame behind it is not read.
        connection.send(raw, create)
        assert connection.close_code() in codes


def test_a_compressed_frame_without_an_agreement_closes_the_connection(target: Target, project: str) -> None:
    compressed = zlib.compressobj(wbits=-15)
    body = compressed.compress(text("queue_create", project, {"queue_name": "q"})) + compressed.flush(zlib.Z_SYNC_FLUSH)
    for offer in (b"permessage-deflate", b"permessage-deflate; client_max_window_bits", b"x-unknown", b";;,=,"):
        with target.connect() as connection:
            connection.send(handshake(b"Sec-WebSocket-Extensions: " + offer))
            head = connection.head()
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"sec-websocket-extensions" not in head.lower()
            connection.send(frame(body[:-4], rsv=4))
            assert connection.close_code() == 1002


def test_frames_after_a_close_frame_are_not_read(target: Target, project: str) -> None:
    with target.open() as connection:
        connection.send(
            frame(b"\x03\xe8", CLOSE), frame(text("queue_create", project, {"queue_name": "q"})), frame(b"", PING)
        )
        assert connection.frames() == [(CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("cut", [1, 2, 5, 6, 20, -1])
def test_a_client_that_disconnects_in_the_middle_of_a_frame_stores_nothing(
    target: Target, project: str, cut: int
) -> None:
    create = frame(text("queue_create", project, {"queue_name": "q"}))
    with target.open() as connection:
        connection.send(create[:cut])
    with target.open() as connection:
        connection.send(create[:cut])
        connection.sock.shutdown(socket.SHUT_WR)
        connection.frames()


# -- unusual but valid -----------------------------------------------------------------------------------------------


def test_a_request_in_tiny_fragments_with_pings_in_between_is_read(target: Target, project: str) -> None:
    """Frames are cut inside a character of several bytes, too."""
    sent = json.dumps(fields("queue_list", project, {"marker": "ä€😀"}), ensure_ascii=False).encode()
    pieces = [sent[start : start + 1] for start in range(len(sent))]
    with target.open() as connection:
        connection.send(frame(pieces[0], fin=False))
        for number, piece in enumerate(pieces[1:-1]):
            connection.send(frame(piece, CONTINUATION, fin=False))
            if number % 40 == 0:
                connection.send(frame(b"%d" % number, PING))
                assert connection.frames(1) == [(PONG, b"%d" % number)]
        connection.send(frame(pieces[-1], CONTINUATION))
        status, body = reply_to(connection)
        # The message arrived whole: the error names the field that is wrong.
        assert (status, body["error"].partition(":")[0]) == (400, "marker")
        assert queues(connection, project) == []


def test_a_message_of_the_largest_size_is_accepted(target: Target, project: str) -> None:
    """Spaces count towards the size."""
    request = text("queue_list", project)
    with target.open() as connection:
        connection.send(frame(request + b" " * (LARGEST_FRAME - len(request))))
        assert reply_to(connection) == (200, {"queues": []})


def test_frames_in_one_packet_with_the_handshake_are_read(target: Target, project: str) -> None:
    """A client may send frames before it has the answer to its handshake, at its own risk."""
    with target.connect() as connection:
        connection.send(handshake() + frame(text("queue_list", project)) * 2)
        assert connection.head().startswith(b"HTTP/1.1 101 ")
        assert reply_to(connection) == reply_to(connection) == (200, {"queues": []})


def test_pipelined_requests_are_answered_in_order(target: Target, project: str) -> None:
    requests = [fields("queue_get", project, {"queue_name": f"q{number}"}) for number in range(50)]
    with target.open() as connection:
        connection.send(
            b"".join(
                frame(msgpack.packb(each), BINARY) if number % 2 else frame(json.dumps(each).encode())
                for number, each in enumerate(requests)
            )
        )
        answers = connection.frames(50)
    assert [answer.opcode for answer in answers] == [TEXT, BINARY] * 25
    named = [json.loads(each.payload) if each.opcode == TEXT else msgpack.unpackb(each.payload) for each in answers]
    assert [each["request"]["body"]["queue_name"] for each in named] == [f"q{number}" for number in range(50)]


# -- handshakes ------------------------------------------------------------------------------------------------------

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
BAD_HANDSHAKES: dict[str, bytes] = {
    "a plain request": GET + b"\r\n",
    "a post": b"POST /v2/queues/q/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
    "a request for another protocol": handshake(Upgrade=b"h2c"),
    "no Upgrade": handshake(Upgrade=None),
    "no Connection": handshake(Connection=None),
    "another Connection": handshake(Connection=b"close"),
    "no key": handshake(Sec_WebSocket_Key=None),
    "an empty key": handshake(Sec_WebSocket_Key=b""),
    "a short key": handshake(Sec_WebSocket_Key=b"YWJj"),
    "a key that is no base64": handshake(Sec_WebSocket_Key=b"!" * 24),
    "two keys": handshake(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    "no version": handshake(Sec_WebSocket_Version=None),
    "an old version": handshake(Sec_WebSocket_Version=b"8"),
    "a version that is none": handshake(Sec_WebSocket_Version=b"x"),
    "subprotocols that are none": handshake(b"Sec-WebSocket-Protocol: \xff,,"),
    "another origin": handshake(b"Origin: https://evil.example"),
    "the origin null": handshake(b"Origin: null"),
    "HTTP/1.0": handshake().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "another method": handshake().replace(b"GET ", b"BREW "),
    "no method": handshake().replace(b"GET ", b" "),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,
    "bytes": b"\x00\xff\r\n\r\n" * 100,
    "empty lines": b"\r\n" * 10_000,
    "a frame": frame(text("queue_list", "x")),
    "a line that does not end": b"GET /" + b"x" * 100_000,
    "a long path": handshake(target=b"/" + b"x" * 100_000),
    "a path that is none": handshake(target=b"\xff\x00"),
    "headers that do not end": GET + b"X: y\r\n" * 50_000,
    "a long header": handshake(b"X-Long: " + b"y" * 100_000),
    "a header without a colon": handshake(b"nonsense"),
    "a header with a NUL": handshake(b"X: \x00"),
    "a name with a space": handshake(b"X Y: z"),
    "a folded header": handshake(b"X: y\r\n z"),
    "a body without end": GET + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000,
    "a huge body": GET + b"Content-Length: 1000000000\r\n\r\n" + b"x" * 200_000,
}


HALF_HANDSHAKES = {"a frame", "TLS"}


@pytest.mark.parametrize("case", BAD_HANDSHAKES)
def test_a_malformed_handshake_is_refused(target: Target, project: str, case: str) -> None:
    with target.connect() as connection:
        connection.send(BAD_HANDSHAKES[case])
        if not connection.has_answer(seconds=0.2):
            # The server waits for the rest until the handshake has taken too long.
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_WR)
        answer = connection.read()
    # Only half a request may get no answer. 505 is for other versions of HTTP.
    assert answer or case in HALF_HANDSHAKES
    assert not answer or int(answer.split(b" ", 2)[1]) in (*range(400, 500), 505), answer[:200]


@pytest.mark.parametrize("path", [b"/", b"/v2", b"/any/path?token=x", b"*", b"http://localhost/"])
def test_a_handshake_may_name_any_path(target: Target, project: str, path: bytes) -> None:
    with target.connect() as connection:
        connection.send(handshake(target=path))
        assert connection.head().startswith(b"HTTP/1.1 101 ")
        assert queues(connection, project) == []


# -- the port of notifiers -------------------------------------------------------------------------------------------

HELLO = push_protocol.MAGIC + bytes(push_protocol.NONCE_BYTES)
NO_NOTIFIERS: dict[str, bytes] = {
    "a plain request": GET + b"\r\n",
    "a handshake of WebSocket": handshake(),
    "TLS": BAD_HANDSHAKES["TLS"],
    "a frame of notifications": b"\x00\x00\x00\x02\x91\x97" + bytes(16),
    "a wrong proof": HELLO + bytes(push_protocol.PROOF_BYTES),
    "a wrong proof and a huge frame": HELLO + bytes(push_protocol.PROOF_BYTES) + b"\xff" * 100_000,
    "a lot": b"zaqar" * 200_000,
}


@pytest.mark.parametrize("case", NO_NOTIFIERS)
def test_a_client_without_the_key_cannot_hand_in_notifications(target: Target, project: str, case: str) -> None:
    with RawConnection(target.notifications) as connection:
        connection.send(NO_NOTIFIERS[case])
        # At most the server's own proof, which is different each time.
        assert len(connection.read()) <= push_protocol.NONCE_BYTES + push_protocol.PROOF_BYTES


def test_the_proof_of_the_server_is_not_valid_as_a_proof_of_a_notifier(target: Target, project: str) -> None:
    size = push_protocol.NONCE_BYTES + push_protocol.PROOF_BYTES
    with RawConnection(target.notifications) as connection, RawConnection(target.notifications) as other:
        connection.send(HELLO)
        proof = connection.read(size)[push_protocol.NONCE_BYTES :]
        connection.send(proof)
        assert connection.read() == b""
        # Nor is the proof valid that another connection got for the same nonce.
        other.send(HELLO)
        other.read(size)
        other.send(proof)
        assert other.read() == b""


def test_unauthenticated_connections_at_the_port_of_notifiers_are_limited(target: Target, project: str) -> None:
    before = target.process.open_files()
    with ExitStack() as stack:
        strangers = [stack.enter_context(RawConnection(target.notifications)) for _ in range(300)]
        # The oldest are closed to make room for the others, which have some seconds to prove themselves.
        for connection in strangers[:200]:
            assert connection.read() == b""
        assert target.process.open_files() < before + 150


# -- many clients, and slow ones ---------------------------------------------------------------------------------------


def test_a_client_that_sends_only_pings_and_reads_nothing_is_closed(target: Target, project: str) -> None:
    before = target.process.resident_bytes()
    with target.open() as connection:
        connection.sock.settimeout(0.2)
        flood, sent = frame(b"x" * 125, PING) * 1_000, 0
        end = time.monotonic() + 3
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                sent += connection.sock.send(flood[sent % len(flood) :])
        target.neighbour.wait_for_service(3)
    assert target.process.resident_bytes() - before < 16 * MEBIBYTE


def test_a_client_that_never_reads_is_closed(target: Target, project: str) -> None:
    """The client requests large replies. When the system's buffers are full, the server stops reading, then closes."""
    body = "x" * 200_000
    before = target.process.resident_bytes()
    with target.open() as connection, target.open() as other:
        other.send(frame(text("message_post", project, {"queue_name": "q", "messages": [{"body": body, "ttl": 60}]})))
        assert reply_to(other)[0] == 201
        listing = frame(text("message_list", project, {"queue_name": "q", "echo": True}))
        connection.sock.settimeout(0.2)
        with contextlib.suppress(ConnectionError):
            # The client's send blocks when the server stops reading, and fails after it has closed.
            end = time.monotonic() + HANG_SECONDS
            while time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    connection.sock.sendall(listing)
                time.sleep(0.001)
            raise AssertionError("the server waits for a client that never reads")
        assert target.process.resident_bytes() - before < 32 * MEBIBYTE
        other.send(frame(text("queue_delete", project, {"queue_name": "q"})))
        assert reply_to(other)[0] == 204


FLOODS = {
    # 94 MiB, of which unauthenticated clients may have a quarter of a third of 384 MiB, and 16 KiB each.
    "large messages in part": (300, frame(b" " * LARGEST_FRAME)[:-1], 64 * MEBIBYTE),
    "messages in tiny fragments": (100, frame(b"{", fin=False) + frame(b" ", CONTINUATION, fin=False) * 4_000, 0),
    "tiny messages": (100, frame(b"5") * 20_000, 0),
    "headers": (250, handshake(b"X: " + b"y" * 8_000, *[b"X: " + b"y" * 8_000] * 100), 0),
}


@pytest.mark.parametrize("case", FLOODS)
def test_floods_of_many_connections_use_bounded_memory(target: Target, case: str) -> None:
    count, data, most = FLOODS[case]
    before = target.process.resident_bytes()
    with ExitStack() as stack:
        flood = [stack.enter_context(target.connect()) for _ in range(count)]
        for connection in flood:
            if case != "headers":
                connection.open()
            connection.sock.setblocking(False)
        for connection in flood:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                connection.sock.send(data)
        target.neighbour.wait_for_service(3)
        assert target.process.resident_bytes() - before < max(most, 20 * MEBIBYTE)


def test_thousands_of_idle_connections_use_bounded_memory(target: Target, project: str) -> None:
    before = target.process.resident_bytes()
    with ExitStack() as stack:
        idle: list[RawConnection] = []
        for number in range(IDLE):
            idle.append(stack.enter_context(target.connect()))
            # At any time a hundred connections have sent nothing yet.
            if number >= 100:
                idle[number - 100].send(handshake())
        for connection in idle[-100:]:
            connection.send(handshake())
        for connection in idle:
            assert connection.head().startswith(b"HTTP/1.1 101 ")
        target.neighbour.wait_for_service(3)
        assert target.process.resident_bytes() - before < IDLE * 50_000
        assert queues(idle[0], project) == queues(idle[-1], project) == []
        assert not any(connection.is_closed() for connection in idle)
    # The clients disconnected without a close frame, and their slots are free.
    wait_until(lambda: target.process.open_files() < IDLE // 2)


def test_handshakes_that_never_end_are_closed(target: Target) -> None:
    """To be run last: these handshakes began before all other tests."""
    target.slow.join(HANG_SECONDS)
    assert target.slow.seconds is not None, "a handshake has no time limit"
    for connection in target.stalled:
        assert not connection.read().startswith(b"HTTP/1.1 101")
