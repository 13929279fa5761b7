# SPDX-License-Identifier: Apache-2.0
"""The first final status decides a request, whatever the receiver sends before and after it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.notification.certificates import authorities, server_context, system_authorities
from tests.unit.notification.sink import OK, Answer, Sink, receiving, saying
from zaqar.notification import webhook_targets
from zaqar.notification.senders import http_answers, http_client
from zaqar.notification.senders.http_answers import (
    ANSWER_SECONDS,
    MOST_CHUNKS,
    MOST_INTERIM_ANSWERS,
    MOST_OF_A_HEAD,
    MOST_READ,
    MOST_SHOWN,
    NoAnswer,
)
from zaqar.notification.senders.http_answers import Answer as Received
from zaqar.notification.senders.http_client import IDLE_SECONDS, MOST_IDLE, HttpClient
from zaqar.notification.webhook_targets import WebhookTargetPolicy

LOOPBACK = WebhookTargetPolicy(["127.0.0.0/8"])
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


def use(
    call: Callable[[HttpClient, Sink], Awaitable[None]],
    answer: Answer,
    *,
    certificate: Path | None = None,
    total_seconds: float = 10.0,
) -> None:
    """Run ``call`` with a client and a receiver; by https if there is a certificate."""
    tls = system_authorities() if certificate is None else authorities(certificate)

    async def run() -> None:
        client = HttpClient(LOOPBACK, total_seconds=total_seconds, tls=tls)
        async with receiving(answer, tls=None if certificate is None else server_context(certificate)) as sink:
            try:
                await call(client, sink)
            finally:
                client.close()

    asyncio.run(run())


def post(answer: Answer, *, certificate: Path | None = None, total_seconds: float = 10.0) -> Received:
    found: list[Received] = []

    async def call(client: HttpClient, sink: Sink) -> None:
        found.append(await client.post(sink.url, {"x-a": "b"}, b"{}"))

    use(call, answer, certificate=certificate, total_seconds=total_seconds)
    return found[0]


def closing(answer: bytes) -> Answer:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    return write


def resetting(answer: bytes) -> Answer:
    """Answer, then end the connection by a reset."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.transport.abort()

    return write


def endless(start: bytes, repeated: bytes) -> Answer:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        block = repeated * (1 + 4096 // len(repeated))
        while True:
            writer.write(block)
            await writer.drain()

    return write


def dripping(start: bytes, repeated: bytes) -> Answer:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(repeated)
            await writer.drain()
            await asyncio.sleep(0.01)

    return write


AS_THE_STATUS_SAYS = {
    "204 with a length and a body": (204, b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok"),
    "204 with a chunked body": (204, b"HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    "204 with bytes after it": (204, b"HTTP/1.1 204 X\r\n\r\nok"),
    "304 with a body": (304, b"HTTP/1.1 304 X\r\nContent-Length: 2\r\n\r\nok"),
    "200 with two lengths": (200, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
    "200 with a negative length": (200, b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok"),
    "200 with a length that is a word": (200, b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok"),
    "200 with a huge length": (200, b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\nok"),
    "200 with less than its length": (200, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok"),
    "200 with more than its length": (200, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more"),
    "200 with length and chunks": (
        200,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
    ),
    "200 with a broken chunk": (200, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok"),
    "200 with a chunk without end": (200, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokok\r\n"),
    "200 with an unknown coding": (200, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nok"),
    "200 with a coding that it has not": (
        200,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
    ),
    "200 with garbage for headers": (200, b"HTTP/1.1 200 OK\r\n\x00\xff no header\r\n: x\r\n\r\n"),
    "200 with a continued header": (200, b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\nok"),
    "200 with a blank before the colon": (200, b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"),
    "200 with line feeds only": (200, b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    "200 without an end of its line": (200, b"HTTP/1.1 200 OK"),
    "200 without a reason": (200, b"HTTP/1.1 200\r\n\r\n"),
    "200 and no more": (200, b"HTTP/1.1 200"),
    "200 without an end of its headers": (200, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"),
    "200 with a long reason": (200, b"HTTP/1.1 200 " + b"x" * 200_000 + b"\r\n\r\n"),
    "200 with headers of 1 MB": (200, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 170_000 + b"\r\n"),
    "200 with a header of 100 KB": (200, b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
    "200 of HTTP/1.0": (200, b"HTTP/1.0 200 OK\r\n\r\nok"),
    "200 after blank lines": (200, b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    "200 after interim answers": (200, b"HTTP/1.1 100 Continue\r\n\r\n" + 3 * EARLY + b"HTTP/1.1 200 OK\r\n\r\n"),
    "500 with less than its length": (500, b"HTTP/1.1 500 X\r\nContent-Length: 100\r\n\r\nno"),
    "101": (101, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    "999": (999, b"HTTP/1.1 999 X\r\n\r\n"),
}


@pytest.mark.parametrize("way", ["http", "https", "http, ended by a reset"])
@pytest.mark.parametrize(("status", "answer"), AS_THE_STATUS_SAYS.values(), ids=AS_THE_STATUS_SAYS.keys())
def test_the_status_decides_whatever_follows(certificate: Path, status: int, answer: bytes, way: str) -> None:
    end = resetting if "reset" in way else closing
    assert post(end(answer), certificate=certificate if way == "https" else None).status == status


WITHOUT_END = {
    "body that drips": dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "chunks that drip": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "headers that drip": dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "reason that drips": dripping(b"HTTP/1.1 200 ", b"x"),
    "body": endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 10_000),
    "chunks": endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
    "trailers": endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n" * 1000),
    "headers": endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "reason": endless(b"HTTP/1.1 200 ", b"x" * 10_000),
    "answers": endless(b"HTTP/1.1 204 OK\r\n\r\n", b"HTTP/1.1 500 X\r\n\r\n"),
}


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("answer", WITHOUT_END.values(), ids=WITHOUT_END.keys())
def test_an_answer_without_end_is_a_success_at_once(
    monkeypatch: pytest.MonkeyPatch, certificate: Path, answer: Answer, secure: bool
) -> None:
    assert ANSWER_SECONDS <= 1
    monkeypatch.setattr(http_answers, "ANSWER_SECONDS", 0.1)
    took: list[float] = []

    async def call(client: HttpClient, sink: Sink) -> None:
        began = time.monotonic()
        assert (await client.post(sink.url, {}, b"{}")).status in (200, 204)
        took.append(time.monotonic() - began)
        # The connection is closed, too.
        await asyncio.wait_for(sink.closed.wait(), 60)

    use(call, answer, certificate=certificate if secure else None, total_seconds=60.0)
    # With room for a busy machine. Without a bound of its own this would take the 60 seconds in all.
    assert took[0] < 20


BEFORE_THE_STATUS = {
    "early hints": endless(b"", EARLY),
    "100 Continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers of early hints": endless(b"HTTP/1.1 103 Early Hints\r\n", b"Link: </a>\r\n"),
    "reason of early hints": endless(b"HTTP/1.1 103 ", b"x" * 1000),
    "blank lines": endless(b"", b"\r\n" * 1000),
    "one too many": closing(EARLY * (MOST_INTERIM_ANSWERS + 1) + OK),
    "a large one": closing(b"HTTP/1.1 103 X\r\nX: " + b"y" * MOST_OF_A_HEAD + b"\r\n\r\n" + OK),
}


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("answer", BEFORE_THE_STATUS.values(), ids=BEFORE_THE_STATUS.keys())
def test_bytes_before_the_status_are_bounded(certificate: Path, answer: Answer, secure: bool) -> None:
    async def call(client: HttpClient, sink: Sink) -> None:
        # Long before the time is over, which is the other bound.
        with pytest.raises(NoAnswer, match="no final status"):
            await client.post(sink.url, {}, b"{}")
        await asyncio.wait_for(sink.closed.wait(), 60)

    use(call, answer, certificate=certificate if secure else None, total_seconds=120.0)


def test_the_time_before_the_status_is_bounded() -> None:
    with pytest.raises(NoAnswer, match=r"no answer within 0\.3 seconds"):
        post(dripping(b"", b"\r\n"), total_seconds=0.3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"220 mail.example ESMTP\r\n\r\n", "the answer is not valid HTTP"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "the answer is not valid HTTP"),
        (b"HTTP/1.1 20", "the answer is not valid HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "the answer is not valid HTTP"),
        (b"HTTP/1.1 -20 OK\r\n\r\n", "the answer is not valid HTTP"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "the answer is not valid HTTP"),
        (b"HTTP/1.1  200 OK\r\n\r\n", "the answer is not valid HTTP"),
        (b"<html>", "the answer is not valid HTTP"),
        (b"", "the connection was closed without an answer"),
        (b"\r\n", "the connection was closed without an answer"),
        (EARLY, "the connection was closed without an answer"),
        (EARLY[:-2], "the answer has no final status"),
    ],
)
def test_bytes_that_are_no_status_are_no_answer(answer: bytes, reason: str) -> None:
    with pytest.raises(NoAnswer) as caught:
        post(closing(answer))
    assert str(caught.value) == reason


@pytest.mark.parametrize("size", [60_000, MOST_OF_A_HEAD - 100])
def test_headers_are_taken_up_to_their_bound(size: int) -> None:
    answer = b"HTTP/1.1 503 X\r\nX: " + b"y" * size + b"\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno"
    assert post(saying(answer)) == Received(503, b"no", "7")


def test_an_answer_comes_before_all_of_the_request_is_read() -> None:
    async def run() -> None:
        answered = asyncio.Event()

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 413 Too Large\r\n\r\n")
            await writer.drain()
            await answered.wait()
            writer.close()

        client = HttpClient(LOOPBACK, total_seconds=60.0)
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            # More than the buffers of the system hold.
            assert (await client.post(url, {}, b"x" * 50_000_000)).status == 413
            answered.set()
        client.close()

    asyncio.run(run())


# Each of them leaves a connection in a state that the next answer could be mistaken in, or that has ended.
NOT_USED_AGAIN = {name: answer for name, (_, answer) in AS_THE_STATUS_SAYS.items()} | {
    "asked to close": b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok",
    "too long": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MOST_READ + 1) + b"x" * (MOST_READ + 1),
    "too many chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"1\r\nx\r\n" * MOST_CHUNKS
    + b"0\r\n\r\n",
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
}
for other in ("200 with line feeds only", "200 with a coding that it has not", "200 and no more"):
    # The first two end where they say; the third is none before the connection ends.
    del NOT_USED_AGAIN[other]


@pytest.mark.parametrize("answer", NOT_USED_AGAIN.values(), ids=NOT_USED_AGAIN.keys())
def test_a_connection_in_doubt_is_not_used_again(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(http_answers, "ANSWER_SECONDS", 0.02)

    async def twice(client: HttpClient, sink: Sink) -> None:
        statuses = {(await client.post(sink.url, {}, b"{}")).status for _ in range(2)}
        assert len(statuses) == 1
        assert sink.connections == 2

    use(twice, saying(answer), total_seconds=60.0)


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 204 X\r\n\r\n",
        b"HTTP/1.1 204 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MOST_READ + b"x" * MOST_READ,
        EARLY + OK,
    ],
)
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_connection_is_used_again_after_a_whole_answer(certificate: Path, answer: bytes, secure: bool) -> None:
    async def thrice(client: HttpClient, sink: Sink) -> None:
        for _ in range(3):
            await client.post(sink.url, {}, b"{}")
        assert sink.connections == 1

    use(thrice, saying(answer), certificate=certificate if secure else None)


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    """Bytes that come on an idle connection end it."""
    late = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 204 X\r\n\r\n")
        await writer.drain()
        await late.wait()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async def twice(client: HttpClient, sink: Sink) -> None:
        assert (await client.post(sink.url, {}, b"{}")).status == 204
        late.set()
        await asyncio.wait_for(sink.closed.wait(), 60)
        assert (await client.post(sink.url, {}, b"{}")).status == 204
        assert sink.connections == 2

    use(twice, answer)


def test_a_connection_that_was_closed_meanwhile_costs_no_attempt() -> None:
    async def once_each(writer: asyncio.StreamWriter) -> None:
        # It reads the next request and closes: the client cannot know before.
        if once_each.__dict__.setdefault("asked", []):
            once_each.__dict__["asked"].clear()
            writer.close()
            return
        once_each.__dict__["asked"].append(1)
        writer.write(OK)

    async def twice(client: HttpClient, sink: Sink) -> None:
        assert (await client.post(sink.url, {}, b"{}")).status == 200
        assert (await client.post(sink.url, {}, b"{}")).status == 200
        assert (sink.connections, len(sink.requests)) == (2, 3)

    use(twice, once_each)


def test_idle_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MOST_IDLE", 2)

    async def run() -> None:
        client = HttpClient(LOOPBACK, total_seconds=60.0)
        async with receiving(saying(OK)) as a, receiving(saying(OK)) as b, receiving(saying(OK)) as c:
            for sink in (a, b, c):
                await client.post(sink.url, {}, b"{}")
            # The one that was idle for longest was closed.
            await asyncio.wait_for(a.closed.wait(), 60)
            assert not b.closed.is_set()
            for sink in (b, c):
                await client.post(sink.url, {}, b"{}")
                assert sink.connections == 1
            client.close()
            await asyncio.wait_for(b.closed.wait(), 60)
            await asyncio.wait_for(c.closed.wait(), 60)

    asyncio.run(run())
    assert MOST_IDLE >= 2


def test_an_idle_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "IDLE_SECONDS", 0.05)

    async def once(client: HttpClient, sink: Sink) -> None:
        await client.post(sink.url, {}, b"{}")
        await asyncio.wait_for(sink.closed.wait(), 60)
        assert (await client.post(sink.url, {}, b"{}")).status == 200

    use(once, saying(OK))
    assert IDLE_SECONDS > 1


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_request_that_is_cancelled_leaves_no_connection(certificate: Path, secure: bool) -> None:
    async def cancel(client: HttpClient, sink: Sink) -> None:
        request = asyncio.create_task(client.post(sink.url, {}, b"{}"))
        while not sink.requests:
            await asyncio.sleep(0.001)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.wait_for(sink.closed.wait(), 60)

    use(cancel, dripping(b"", b"\r\n"), certificate=certificate if secure else None)


def test_no_socket_is_opened_to_an_address_that_is_refused() -> None:
    """Whatever came past the checks before."""

    class Fooled(WebhookTargetPolicy):
        def addresses_of(self, host: str) -> list[str]:
            return ["127.0.0.1"]

    async def run() -> None:
        async with receiving(saying(OK)) as sink:
            with pytest.raises(PermissionError):
                await webhook_targets.connect(Fooled([]), "a.example", sink.port, asyncio.Protocol, tls=None)
            assert sink.connections == 0

    asyncio.run(run())


def test_the_next_address_of_a_name_is_tried() -> None:
    async def run() -> None:
        async with receiving(saying(OK), host="127.0.0.3") as sink:
            target_policy = WebhookTargetPolicy(["127.0.0.0/8"], resolver=lambda _: ["127.0.0.2", "127.0.0.3"])
            client = HttpClient(target_policy, total_seconds=60.0)
            assert (await client.post(f"http://a.example:{sink.port}/", {}, b"{}")).status == 200
            client.close()

    asyncio.run(run())


def test_the_addresses_that_one_attempt_tries_are_bounded() -> None:
    tried: list[str] = []

    class Recording(WebhookTargetPolicy):
        def check(self, address: object) -> None:
            tried.append(str(address))

    async def run() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            target_policy = Recording([], resolver=lambda _: [f"127.0.1.{n}" for n in range(1, 101)])
            client = HttpClient(target_policy, total_seconds=60.0)
            with pytest.raises(NoAnswer, match="no connection can be made"):
                await client.post(f"http://a.example:{port}/", {}, b"{}")

    asyncio.run(run())
    # Each is checked when the name was resolved, and the first of them again when a socket is made.
    assert len(tried) == 100 + webhook_targets.MOST_ADDRESSES


@settings(max_examples=25, deadline=None)
@given(
    status=st.integers(200, 999),
    rest=st.lists(
        st.sampled_from(
            [
                *(
                    b"\r\n",
                    b"\n",
                    b" ",
                    b":",
                    b"x",
                    b"\x00",
                    b"\xff",
                    b"0",
                    b"ok",
                    b"2\r\nok\r\n",
                    b"Connection: close\r\n",
                ),
                *(b"HTTP/1.1 500 X\r\n\r\n", b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"),
            ]
        )
    ).map(b"".join),
)
@example(status=204, rest=b"\r\nContent-Length: 2\r\n\r\nok")
def test_no_bytes_after_a_status_change_it(status: int, rest: bytes) -> None:
    answer = post(closing(b"HTTP/1.1 %d " % status + rest))
    assert answer.status == status
    assert len(answer.start) <= MOST_SHOWN
