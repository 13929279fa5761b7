# SPDX-License-Identifier: Apache-2.0
"""The webhook task against receivers on loopback that behave well, badly and worse."""

from __future__ import annotations

import asyncio
import datetime
import json
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.clock import START
from tests.unit.notification.certificates import authorities, server_context, system_authorities
from tests.unit.notification.sink import OK, Answer, Sink, answer_of, receiving, saying
from tests.unit.notification.subjects import SUBSCRIPTION_ID, a_conf, a_delivery, a_subscription, default_confirmations
from zaqar.model import SUBSCRIPTION_CONFIRMATION, UNSUBSCRIBE_CONFIRMATION, Secret
from zaqar.notification.confirmation import Confirmations
from zaqar.notification.senders.base import MOST_OF_AN_ANSWER, Outcome
from zaqar.notification.senders.http_answers import MOST_READ
from zaqar.notification.senders.webhook import WebhookSender
from zaqar.notification.webhook_signatures import new_secret
from zaqar.notification.webhook_targets import WebhookTargetPolicy

LOOPBACK = "127.0.0.0/8"


def a_sender(*allowed: str, resolver: Callable[[str], list[str]] | None = None, **settings: Any) -> WebhookSender:
    target_policy = WebhookTargetPolicy(allowed or (LOOPBACK,), **({"resolver": resolver} if resolver else {}))
    return WebhookSender(target_policy, default_confirmations(), **({"tls": system_authorities()} | settings))


def try_out(
    use: Callable[[WebhookSender, Sink], Awaitable[Outcome | None]],
    answer: Answer | None = None,
    *,
    sender: WebhookSender | None = None,
    tls: ssl.SSLContext | None = None,
) -> tuple[Outcome | None, Sink]:
    """Return what ``use`` returns, with a sender and a receiver that gives this answer to each request."""

    async def run() -> tuple[Outcome | None, Sink]:
        tried = sender or a_sender()
        async with receiving(answer or saying(OK), tls=tls) as sink:
            try:
                return await use(tried, sink), sink
            finally:
                await tried.close()

    return asyncio.run(run())


def send_once(
    answer: Answer | None = None,
    *,
    url: str = "",
    sender: WebhookSender | None = None,
    trace: str | None = None,
    **changes: Any,
) -> tuple[Outcome, Sink]:
    async def once(tried: WebhookSender, sink: Sink) -> Outcome:
        subscriber = url.format(port=sink.port) or sink.url
        return await tried.send(a_delivery(trace=trace), a_subscription(subscriber, **changes), now=START)

    outcome, sink = try_out(once, answer, sender=sender)
    assert outcome is not None
    return outcome, sink


def test_the_request_of_a_notification() -> None:
    outcome, sink = send_once()
    assert outcome == Outcome(True, 200, "ok")
    (request,) = sink.requests
    assert request.line == "POST /hook HTTP/1.1"
    assert json.loads(request.body) == {
        "body": {"n": 1},
        "ttl": 300,
        "queue_name": "orders",
        "Message_Type": "Notification",
        "id": a_delivery().id,
    }
    assert request.headers == {
        "host": f"127.0.0.1:{sink.port}",
        "content-type": "application/json",
        "content-length": str(len(request.body)),
        "user-agent": "zaqar",
        "accept": "*/*",
        "accept-encoding": "identity",
        "webhook-id": f"{a_delivery().id}_{SUBSCRIPTION_ID}",
        "webhook-timestamp": str(int(START)),
    }


def test_signatures_are_verified_by_the_reference_library_during_a_rotation() -> None:
    now = time.time()
    old, new = new_secret(), new_secret()

    async def twice(sender: WebhookSender, sink: Sink) -> None:
        subscription = a_subscription(sink.url, secrets=(Secret(new), Secret(old, now + 60)))
        await sender.send(a_delivery(), subscription, now=now)
        await sender.send(a_delivery(), subscription, now=now + 1)

    _, sink = try_out(twice)
    for request in sink.requests:
        assert Webhook(old).verify(request.body, request.headers) == Webhook(new).verify(request.body, request.headers)
    assert len({request.headers["webhook-id"] for request in sink.requests}) == 1


def test_headers_and_template_of_the_subscriber() -> None:
    options = {
        "post_data": '{"input": "$zaqar_message$"}',
        "post_headers": {"X-One": "1 x", "CONTENT-TYPE": "application/x", "User-Agent": "mine", "Cookie": "a=b"},
    }
    _, sink = send_once(options=options)
    (request,) = sink.requests
    assert json.loads(request.body)["input"]["body"] == {"n": 1}
    assert request.headers["x-one"] == "1 x"
    assert request.headers["content-type"] == "application/x"
    assert request.headers["user-agent"] == "mine"
    assert request.headers["cookie"] == "a=b"


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("state", ["", "rojo=1,congo=2"])
def test_the_trace_context_of_the_message_goes_to_the_subscriber(state: str) -> None:
    _, sink = send_once(trace=f"{PARENT} {state}".strip())
    (request,) = sink.requests
    assert request.headers["traceparent"] == PARENT
    assert request.headers.get("tracestate", "") == state


def test_a_subscriber_may_replace_the_trace_context() -> None:
    own = PARENT.replace("4b", "5c")
    _, sink = send_once(trace=PARENT, options={"post_headers": {"Traceparent": own}})
    (request,) = sink.requests
    assert request.headers["traceparent"] == own


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nHost: evil"},
        {"X": "a\nb"},
        {"X": "a\rb"},
        {"X": "a\x00b"},
        {"X\r\nY": "a"},
        {"X Y": "a"},
        {"X:": "a"},
        {"": "a"},
        {"Host": "evil"},
        {"hOST": "evil"},
        {"Content-Length": "1"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"Expect": "100-continue"},
        {"Upgrade": "h2c"},
        {"Proxy-Authorization": "x"},
        {"Webhook-Id": "x"},
        {"X-One": "é"},
        {"X_Project_Id": "x"},
        {"Metadata-Flavor": "Google"},
    ],
)
def test_headers_that_are_refused_are_not_sent(headers: dict[str, str]) -> None:
    outcome, sink = send_once(options={"post_headers": headers})
    assert not outcome.delivered
    assert "post_headers" in outcome.answer
    assert sink.connections == 0


@pytest.mark.parametrize("path", ["/a%2Fb?sig=%2B%20x&y={z}", "/?", "/a;b,c", "/%0d%0aX:y"])
def test_the_url_is_sent_as_it_was_given(path: str) -> None:
    _, sink = send_once(url="http://127.0.0.1:{port}" + path.replace("{", "{{").replace("}", "}}"))
    assert sink.requests[0].line in (f"POST {path} HTTP/1.1", f"POST {path.rstrip('?')} HTTP/1.1")


@pytest.mark.parametrize("path", ["/ HTTP/1.1\r\nX: y\r\n\r\n", "/a b", "/\x00", "/\n", "\\@evil/"])
def test_a_url_with_more_than_a_url_is_not_sent_to(path: str) -> None:
    outcome, sink = send_once(url="http://127.0.0.1:{port}" + path)
    assert not outcome.delivered
    assert sink.connections == 0


@pytest.mark.parametrize(
    ("status", "delivered", "gone"),
    [
        (200, True, False),
        (201, True, False),
        (202, True, False),
        (204, True, False),
        (299, True, False),
        (300, False, False),
        (400, False, False),
        (404, False, False),
        (410, False, True),
        (500, False, False),
        (503, False, False),
    ],
)
def test_only_2xx_is_success_and_410_is_the_end(status: int, delivered: bool, gone: bool) -> None:
    outcome, _ = send_once(answer_of(status))
    assert outcome == Outcome(delivered, status, "", gone=gone)


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [
        (429, "7", 7.0),
        (503, " 120 ", 120.0),
        (503, format_datetime(datetime.datetime.fromtimestamp(START + 90, datetime.UTC), usegmt=True), 90.0),
        (503, format_datetime(datetime.datetime.fromtimestamp(START - 90, datetime.UTC), usegmt=True), 0.0),
        (429, "-7", None),
        (429, "soon", None),
        (429, "1.5", None),
        (429, "\u0667", None),
        (429, "9" * 400, 999_999_999_999.0),
        (500, "7", None),
        (200, "7", None),
    ],
)
def test_retry_after_is_read_from_429_and_503(status: int, value: str, seconds: float | None) -> None:
    outcome, _ = send_once(answer_of(status, f"Retry-After: {value}\r\n"))
    assert outcome.status == status
    assert outcome.retry_after == seconds


def test_a_redirect_is_a_failure_and_not_followed() -> None:
    async def run() -> None:
        sender = a_sender()
        async with receiving(saying(OK)) as other:
            async with receiving(answer_of(302, f"Location: {other.url}\r\n")) as sink:
                outcome = await sender.send(a_delivery(), a_subscription(sink.url), now=START)
                assert (outcome.delivered, outcome.status) == (False, 302)
                assert len(sink.requests) == 1
            assert other.connections == 0
        await sender.close()

    asyncio.run(run())


def test_connections_are_kept_and_cookies_are_not() -> None:
    async def thrice(sender: WebhookSender, sink: Sink) -> None:
        for _ in range(3):
            await sender.send(a_delivery(), a_subscription(sink.url), now=START)

    _, sink = try_out(thrice, answer_of(200, "Set-Cookie: a=b\r\n", b"x" * 1000))
    assert (len(sink.requests), sink.connections) == (3, 1)
    assert all("cookie" not in request.headers for request in sink.requests)


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    outcome, _ = send_once()
    assert outcome.delivered


def test_a_large_answer_is_not_read_to_its_end() -> None:
    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"\xc3\xa9" * 0x8000 + b"\r\n")
            await writer.drain()

    async def once(sender: WebhookSender, sink: Sink) -> Outcome:
        outcome = await sender.send(a_delivery(), a_subscription(sink.url), now=START)
        await asyncio.wait_for(sink.closed.wait(), 60)
        return outcome

    outcome, _ = try_out(once, flood)
    assert outcome == Outcome(True, 200, "é" * (MOST_OF_AN_ANSWER // 2))


@pytest.mark.parametrize(("size", "connections"), [(MOST_READ, 1), (16 * MOST_READ, 2)])
def test_a_connection_is_used_again_if_the_answer_was_read(size: int, connections: int) -> None:
    async def twice(sender: WebhookSender, sink: Sink) -> None:
        for _ in range(2):
            outcome = await sender.send(a_delivery(), a_subscription(sink.url), now=START)
            assert outcome.delivered

    _, sink = try_out(twice, answer_of(200, "", b"x" * size))
    assert sink.connections == connections


def test_an_answer_is_shown_in_one_line() -> None:
    outcome, _ = send_once(answer_of(500, "", b"a\r\nb\x1b[31m\x00\xff\xc2\x9b" + b"c" * 500))
    assert outcome.answer.startswith(
        "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31m"
    )
    assert outcome.answer.isprintable()
    assert len(outcome.answer) <= MOST_OF_AN_ANSWER


async def hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drip(writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 103 Early Hints\r\n" + b"X: y\r\n" * 1000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("answer", [hang, drip])
def test_a_subscriber_has_to_answer_in_time(answer: Answer) -> None:
    outcome, _ = send_once(answer, sender=a_sender(total_seconds=0.2))
    assert outcome == Outcome(False, None, "no answer within 0.2 seconds", reached=False, failure="timeout")


def test_a_connection_that_is_closed_without_an_answer() -> None:
    async def close(writer: asyncio.StreamWriter) -> None:
        writer.close()

    outcome, _ = send_once(close)
    assert outcome == Outcome(False, None, "the connection was closed without an answer", reached=False)


def test_a_port_on_which_no_process_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome, _ = send_once(url=f"http://user:pass-word@127.0.0.1:{unused.getsockname()[1]}/")
    assert not outcome.delivered
    assert not outcome.reached
    assert outcome.answer.startswith("no connection can be made: ")
    assert "pass-word" not in outcome.answer


def test_an_attempt_is_cancelled_at_once() -> None:
    async def cancelled(sender: WebhookSender, sink: Sink) -> None:
        sending = asyncio.create_task(sender.send(a_delivery(), a_subscription(sink.url), now=START))
        while not sink.requests:
            await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    try_out(cancelled, hang)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]", "a:b@127.0.0.1", "127.0.0.1."]
)
def test_loopback_is_refused_unless_it_is_allowed(host: str) -> None:
    outcome, sink = send_once(url=f"http://{host}:{{port}}/", sender=a_sender("10.0.0.0/8"))
    assert not outcome.delivered
    assert not outcome.reached
    assert sink.connections == 0


def test_a_name_leads_to_the_address_that_was_checked() -> None:
    asked: list[str] = []

    def resolve(name: str) -> list[str]:
        asked.append(name)
        return ["127.0.0.1"]

    outcome, sink = send_once(url="http://hooks.example:{port}/x", sender=a_sender(resolver=resolve))
    assert outcome.delivered
    assert asked == ["hooks.example"]
    assert sink.requests[0].headers["host"] == f"hooks.example:{sink.port}"


def test_a_name_that_is_rebound_is_refused_at_the_next_connect() -> None:
    answers = iter([["127.0.0.2"], ["127.0.0.2"], ["127.0.0.1"]])
    allowed = WebhookTargetPolicy(["127.0.0.2"], resolver=lambda _: next(answers))
    sender = WebhookSender(allowed, default_confirmations())
    allowed.check_url("http://rebinding.example/", field="subscriber")

    async def run() -> None:
        async with receiving(answer_of(200, "Connection: close\r\n"), host="127.0.0.2") as sink:
            subscription = a_subscription(f"http://rebinding.example:{sink.port}/")
            assert (await sender.send(a_delivery(), subscription, now=START)).delivered
            outcome = await sender.send(a_delivery(), subscription, now=START)
            assert not outcome.delivered
            assert "not public" in outcome.answer
            assert "127.0.0" not in outcome.answer
            assert sink.connections == 1
        await sender.close()

    asyncio.run(run())


def test_a_name_without_address_is_a_failure() -> None:
    def resolve(name: str) -> list[str]:
        raise OSError("no such name")

    outcome, _ = send_once(url="http://nowhere.example/", sender=a_sender(resolver=resolve))
    assert outcome == Outcome(False, None, "the name cannot be resolved", reached=False)


@pytest.mark.parametrize(
    ("host", "trusted", "delivered"),
    [
        ("127.0.0.1", True, True),
        ("right.example", True, True),
        ("wrong.example", True, False),
        ("127.0.0.1", False, False),
    ],
)
def test_certificates_are_verified(certificate: Path, host: str, trusted: bool, delivered: bool) -> None:
    trusts = authorities(certificate) if trusted else None

    async def once(sender: WebhookSender, sink: Sink) -> Outcome:
        return await sender.send(a_delivery(), a_subscription(f"https://{host}:{sink.port}/"), now=START)

    outcome, sink = try_out(
        once, sender=a_sender(resolver=lambda _: ["127.0.0.1"], tls=trusts), tls=server_context(certificate)
    )
    assert outcome is not None
    assert outcome.delivered is delivered
    if not delivered:
        assert outcome.answer.startswith("the TLS certificate cannot be verified: ")
        assert sink.requests == []


def test_a_server_without_tls() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def run() -> Outcome:
        sender = a_sender()
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            outcome = await sender.send(a_delivery(), a_subscription(f"https://127.0.0.1:{port}/"), now=START)
        await sender.close()
        return outcome

    assert asyncio.run(run()) == Outcome(False, None, "no TLS connection can be made", reached=False, failure="tls")


@pytest.mark.parametrize("kind", [SUBSCRIPTION_CONFIRMATION, UNSUBSCRIBE_CONFIRMATION])
def test_confirmations_are_sent_without_template_and_with_an_id_of_their_own(kind: str) -> None:
    async def thrice(sender: WebhookSender, sink: Sink) -> None:
        subscription = a_subscription(sink.url, options={"post_data": "{}"}, secrets=(Secret(new_secret()),))
        for created in (START, START, START + 0.5):
            delivery = a_delivery(b"", kind=kind, number=0, created=created)
            assert (await sender.send(delivery, subscription, now=START)).delivered

    _, sink = try_out(thrice)
    assert all(json.loads(request.body)["Message_Type"] == kind for request in sink.requests)
    first, again, other = (request.headers["webhook-id"] for request in sink.requests)
    assert first == again
    assert first != other
    assert all("webhook-signature" in request.headers for request in sink.requests)


def test_no_confirmation_without_a_key() -> None:
    sender = WebhookSender(WebhookTargetPolicy([LOOPBACK]), Confirmations(a_conf(secret_key=None)))

    async def once(tried: WebhookSender, sink: Sink) -> Outcome:
        return await tried.send(
            a_delivery(b"", kind=SUBSCRIPTION_CONFIRMATION, number=0), a_subscription(sink.url), now=START
        )

    outcome, sink = try_out(once, sender=sender)
    assert outcome is not None
    assert not outcome.delivered
    assert sink.connections == 0


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://Example.org/x", "example.org:80"),
        ("https://example.org", "example.org:443"),
        ("https://example.org:8443/", "example.org:8443"),
        ("trust+https://example.org/", "example.org:443"),
        ("TRUST+HTTP://example.org/", "example.org:80"),
        ("http://[2606:4700::1]:81/", "2606:4700::1:81"),
    ],
)
def test_the_target_is_host_and_port(url: str, target: str) -> None:
    assert WebhookSender.from_conf(a_conf()).target(a_subscription(url)) == target
