# SPDX-License-Identifier: Apache-2.0
"""Bytes that no honest client sends, over raw sockets, against both servers that ``zaqar-server`` can run.

Each input is answered with a 4xx or by closing the connection, never with a 5xx, and never by hanging. Nothing
of it is stored, and the next request of another client is served. All the time some clients hold requests open that
they never finish.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.acceptance import raw_http
from tests.acceptance.raw_http import request, talk
from tests.acceptance.server import HTTP_COMMAND, Server, running

MEBIBYTE = 1 << 20
POST = b'{"messages":[{"body":"stored","ttl":300}]}'
MESSAGES = "/v2/queues/q/messages"
CLOSE = b"Connection: close"
CHUNKED = b"Transfer-Encoding: chunked"
STALLED = 8
LET_GO_SECONDS = 75.0

# granian reads these cases as valid requests, and serves them: the same length twice (allowed by RFC 9112, 6.3),
# another Host, and chunked bodies whose data are complete but whose end is not.
SERVED_BY_GRANIAN = {"twice", "two hosts", "no line end after the data", "trailers without end"}
# granian has no time limit for a body: a client that stalls there keeps one of its threads.
LETS_GO = {"gunicorn": ("headers", "body"), "granian": ("headers",)}


@dataclass
class Target:
    """A service under attack. ``stalled`` are clients that stopped in the middle of the headers or of the body."""

    name: str
    server: Server
    stalled: dict[str, list[socket.socket]]

    def refuses(self, case: str) -> bool:
        return self.name == "gunicorn" or case not in SERVED_BY_GRANIAN


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    """Both servers, with one worker each, so that a client that blocks it blocks all others. The silent clients stay
    from the first test to the last."""
    whole = request("POST", MESSAGES, project="stalled", body=POST)
    cuts = {"headers": whole[:60], "body": whole[:-10]}
    with contextlib.ExitStack() as stack:
        found = {}
        for name in LETS_GO:
            state_dir = tmp_path_factory.mktemp(f"hostile-{name}") / "state"
            server = stack.enter_context(
                running(state_dir, options=("--server", name, "--workers", "1"), command=HTTP_COMMAND)
            )
            stalled = {where: [stack.enter_context(raw_http.connect(server)) for _ in range(STALLED)] for where in cuts}
            for where, cut in cuts.items():
                for sock in stalled[where]:
                    sock.sendall(cut)
            found[name] = Target(name, server, stalled)
        yield found


@pytest.fixture(params=LETS_GO)
def target(request: pytest.FixtureRequest, targets: dict[str, Target]) -> Target:
    return targets[request.param]


@pytest.fixture
def service(target: Target) -> Server:
    return target.server


@pytest.fixture
def project(service: Server) -> Iterator[str]:
    """A project for one test. After the test the service must still serve."""
    project = uuid.uuid4().hex
    yield project
    other = uuid.uuid4().hex
    assert raw_http.ask(service, "POST", MESSAGES, project=other, document=json.loads(POST)).status == 201
    assert raw_http.bodies(service, other) == ["stored"]


def assert_refused(conversation: raw_http.Conversation) -> None:
    """Assert that there were only 4xx answers, or that the connection was closed without one."""
    assert conversation.replies or conversation.closed
    for reply in conversation.replies:
        assert reply.status in range(400, 500), reply
        # Refusals that granian itself sends have no body. Every answer with a body is an error of the API.
        if reply.body:
            assert set(reply.json) == {"title", "description"}


def assert_refused_or_harmless(target: Target, case: str, conversation: raw_http.Conversation, project: str) -> None:
    """Assert that the request was refused with nothing stored, or served if the case is known to be harmless there."""
    if target.refuses(case):
        assert_refused(conversation)
        assert target.name == "granian" or all(reply.body for reply in conversation.replies)
        assert raw_http.bodies(target.server, project) == []
    else:
        assert {status < 300 for status in conversation.statuses} <= {True}


# -- framing -----------------------------------------------------------------------------------------------------------

LENGTHS = {
    "negative": [b"Content-Length: -1"],
    "word": [b"Content-Length: abc"],
    "hexadecimal": [b"Content-Length: 0x2a"],
    "float": [b"Content-Length: 42.0"],
    "exponent": [b"Content-Length: 4e1"],
    "signed": [b"Content-Length: +42"],
    "empty": [b"Content-Length:"],
    "list": [b"Content-Length: 42, 42"],
    "superscript": [b"Content-Length: 4\xb2"],
    "spaced": [b"Content-Length: 4 2"],
    "twice": [b"Content-Length: 42", b"Content-Length: 42"],
    "contradicting": [b"Content-Length: 42", b"Content-Length: 4"],
    "beyond 64 bits": [b"Content-Length: " + b"9" * 30],
    "huge": [b"Content-Length: 104857600"],
    "with chunked": [b"Content-Length: 42", CHUNKED],
    "after chunked": [CHUNKED, b"Content-Length: 42"],
    "space before colon": [b"Content-Length : 42"],
}
CODINGS = {
    "unknown": b"Transfer-Encoding: zap",
    "gzip": b"Transfer-Encoding: gzip",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked",
    "chunked, gzip": b"Transfer-Encoding: chunked, gzip",
    "chunked twice": b"Transfer-Encoding: chunked, chunked",
    "identity": b"Transfer-Encoding: identity",
    "look-alike": b"Transfer-Encoding: xchunked",
    "control": b"Transfer-Encoding: \x0bchunked",
}
CHUNKS = {
    "size is a word": b"zz\r\n" + POST + b"\r\n0\r\n\r\n",
    "size is negative": b"-2a\r\n" + POST + b"\r\n0\r\n\r\n",
    "size is empty": b"\r\n" + POST + b"\r\n0\r\n\r\n",
    "size has a prefix": b"0x2a\r\n" + POST + b"\r\n0\r\n\r\n",
    "size beyond 64 bits": b"f" * 20 + b"\r\n" + POST + b"\r\n0\r\n\r\n",
    "size without end": b"0" * 100_000,
    "extension without end": b"2a;" + b"x" * 100_000,
    "size too small": b"20\r\n" + POST + b"\r\n0\r\n\r\n",
    "no line end after the data": b"2a\r\n" + POST + b"0\r\n\r\n",
    "bare line feeds": b"2a\n" + POST + b"\n0\n\n",
    "trailers without end": b"2a\r\n" + POST + b"\r\n0\r\n" + b"X: y\r\n" * 100_000,
}


@pytest.mark.parametrize("case", LENGTHS)
def test_an_invalid_content_length_is_refused(target: Target, project: str, case: str) -> None:
    head = request("POST", MESSAGES, CLOSE, *LENGTHS[case], project=project)
    assert_refused_or_harmless(target, case, talk(target.server, head, POST), project)


@pytest.mark.parametrize("case", CODINGS)
def test_an_unsupported_transfer_coding_is_refused(target: Target, project: str, case: str) -> None:
    head = request("POST", MESSAGES, CLOSE, CODINGS[case], project=project)
    assert_refused_or_harmless(target, case, talk(target.server, head, raw_http.chunked(POST)), project)


@pytest.mark.parametrize("case", CHUNKS)
def test_broken_chunks_are_refused(target: Target, project: str, case: str) -> None:
    head = request("POST", MESSAGES, CLOSE, CHUNKED, project=project)
    assert_refused_or_harmless(target, case, talk(target.server, head, CHUNKS[case], half_close=True), project)


def test_chunks_in_http_1_0_are_refused(service: Server, project: str) -> None:
    head = request("POST", MESSAGES, CHUNKED, project=project, version=b"HTTP/1.0")
    assert_refused(talk(service, head, raw_http.chunked(POST)))
    assert raw_http.bodies(service, project) == []


def test_a_content_length_shorter_than_the_body_is_refused(service: Server, project: str) -> None:
    head = request("POST", MESSAGES, b"Content-Length: 20", project=project)
    assert_refused(talk(service, head, POST))
    assert raw_http.bodies(service, project) == []


def test_a_content_length_longer_than_the_body_stores_nothing(service: Server, project: str) -> None:
    head = request("POST", MESSAGES, b"Content-Length: 4000", project=project)
    assert_refused(talk(service, head, POST, half_close=True))
    assert raw_http.bodies(service, project) == []


def test_no_request_can_be_smuggled_with_two_framings(service: Server, project: str) -> None:
    inner = request("POST", MESSAGES, project=project, body=POST)
    for body, length in ((b"0\r\n\r\n" + inner, len(inner) + 5), (b"0\r\n\r\n" + inner, 5)):
        head = request("POST", MESSAGES, CHUNKED, b"Content-Length: %d" % length, project=project)
        assert_refused(talk(service, head, body))
    assert raw_http.bodies(service, project) == []


# -- mount path --------------------------------------------------------------------------------------------------------


FROM_A_PROXY = [
    (b"SCRIPT_NAME: /evil", b"PATH_INFO: /v2/queues"),
    (b"Script-Name: /evil", b"Path-Info: /v2/queues"),
    (b"X-Forwarded-Prefix: /evil", b"X-Script-Name: /evil", b"X-Forwarded-Host: evil.example"),
    (b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: on", b"X-Forwarded-Protocol: ssl"),
    (b"X-Forwarded-Proto: gopher", b"X-Forwarded-For: 192.0.2.1", b"Forwarded: host=evil.example;proto=https"),
]


@pytest.mark.parametrize("headers", FROM_A_PROXY)
def test_a_client_cannot_forge_the_mount_path(service: Server, project: str, headers: tuple[bytes, ...]) -> None:
    """A forged prefix header has no effect, even from this host, whose proxies gunicorn would trust."""
    (plain,) = talk(service, request("POST", MESSAGES, project=project, body=POST)).replies
    (posted,) = talk(service, request("POST", MESSAGES, *headers, project=project, body=POST)).replies
    assert posted.status == plain.status == 201
    assert posted.json["resources"][0].startswith(f"{MESSAGES}/")
    listing = "/v2/queues?detailed=true"
    (queues,) = talk(service, request("GET", listing, *headers, project=project)).replies
    assert queues.body == talk(service, request("GET", listing, project=project)).replies[0].body
    (outside,) = talk(service, request("GET", "/evil/v2/queues", *headers, project=project)).replies
    assert outside.status == 404


# -- size --------------------------------------------------------------------------------------------------------------


def test_a_huge_announced_body_is_refused_at_once(service: Server, project: str) -> None:
    head = request("POST", MESSAGES, b"Content-Length: %d" % (100 * MEBIBYTE), project=project)
    (reply,) = talk(service, head).replies
    assert reply.status == 400
    assert "body" in reply.json["description"]


def test_a_client_that_sends_a_refused_body_anyway_gets_its_answer(service: Server, project: str) -> None:
    body = b'{"messages":[{"body":"' + b"x" * 10 * MEBIBYTE + b'"}]}'
    (reply,) = talk(service, request("POST", MESSAGES, project=project, body=body)).replies
    assert reply.status == 400
    assert "body" in reply.json["description"]
    assert raw_http.bodies(service, project) == []


def test_an_endless_chunked_body_is_refused_early_in_little_memory(service: Server, project: str) -> None:
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    before = most = service.resident_bytes()
    sent = refused_at = 0
    with raw_http.connect(service) as sock:
        sock.sendall(request("POST", MESSAGES, CHUNKED, project=project))
        with contextlib.suppress(ConnectionError):
            while sent < 100 * MEBIBYTE:
                sock.sendall(piece)
                sent += len(piece)
                if not refused_at and select.select([sock], [], [], 0)[0]:
                    refused_at = sent
                if sent % (4 * MEBIBYTE) < len(piece):
                    most = max(most, service.resident_bytes())
        conversation = raw_http.listen(sock)
    assert_refused(conversation)
    assert (refused_at or sent) < 32 * MEBIBYTE
    assert most - before < 24 * MEBIBYTE
    assert raw_http.bodies(service, project) == []


def test_a_body_of_the_largest_size_is_accepted_with_either_framing(service: Server, project: str) -> None:
    frame = b'{"messages":[{"ttl":300,"body":"%s"}]}'
    body = frame % (b"x" * (262144 - len(frame) + 2))
    with_length = talk(service, request("POST", MESSAGES, CLOSE, project=project, body=body))
    head = request("POST", MESSAGES, CLOSE, CHUNKED, project=project)
    in_chunks = talk(
        service, head, raw_http.chunked(*(body[start : start + 1000] for start in range(0, len(body), 1000)))
    )
    assert with_length.statuses + in_chunks.statuses == [201, 201]
    one_more = body.replace(b"x", b"xx", 1)
    assert_refused(talk(service, request("POST", MESSAGES, CLOSE, project=project, body=one_more)))
    assert_refused(talk(service, head, raw_http.chunked(one_more)))


# -- heads -------------------------------------------------------------------------------------------------------------

PLAIN = request("GET", "/v2/queues", CLOSE)
HEADS = {
    "many headers": request("GET", "/v2/queues", CLOSE, *(b"X-%d: y" % number for number in range(5000))),
    "a long header": request("GET", "/v2/queues", CLOSE, b"X-Long: " + b"y" * 600_000),
    "a long header name": request("GET", "/v2/queues", CLOSE, b"x" * 600_000 + b": y"),
    "a long path": request("GET", "/v2/queues/" + "q" * 600_000, CLOSE),
    "a long query": request("GET", "/v2/queues?limit=" + "1" * 600_000, CLOSE),
    "a line that does not end": b"GET /" + b"q" * 600_000,
    "headers that do not end": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
    "a header without a colon": request("GET", "/v2/queues", CLOSE, b"nonsense"),
    "a header without a name": request("GET", "/v2/queues", CLOSE, b": y"),
    "a name with a space": request("GET", "/v2/queues", CLOSE, b"X Y: z"),
    "a name with a NUL": request("GET", "/v2/queues", CLOSE, b"X\x00Y: z"),
    "a value with a NUL": request("GET", "/v2/queues", CLOSE, b"X: \x00"),
    "a value with a carriage return": request("GET", "/v2/queues", CLOSE, b"X: y\rZ: 1"),
    "a folded header": request("GET", "/v2/queues", CLOSE, b"X: y\r\n z"),
    "a project with a line feed": request("GET", "/v2/queues", CLOSE, b"X: y\nX-Project-ID: other"),
    "two hosts": request("GET", "/v2/queues", CLOSE, b"Host: other"),
    "two Client-IDs": request("GET", "/v2/queues", CLOSE, b"Client-ID: 3381af92-2b9e-11e3-b191-71861300734c"),
    "two projects": request("GET", "/v2/queues", CLOSE, b"X-Project-ID: other"),
    "a Client-ID in Latin-1": PLAIN.replace(b"Client-ID: ", b"Client-ID: \xff"),
    "no method": PLAIN.replace(b"GET ", b" "),
    "a method in lower case": PLAIN.replace(b"GET ", b"get "),
    "a method with a NUL": PLAIN.replace(b"GET ", b"GE\x00T "),
    "a method of somebody else": PLAIN.replace(b"GET ", b"BREW "),
    "a tunnel": PLAIN.replace(b"GET /v2/queues", b"CONNECT localhost:22"),
    "trace": PLAIN.replace(b"GET ", b"TRACE "),
    "a space in the path": PLAIN.replace(b"/v2/queues", b"/v2/queues/a b"),
    "raw bytes in the path": PLAIN.replace(b"/v2/queues", b"/v2/queues/\xff\xfe"),
    "a NUL in the path": PLAIN.replace(b"/v2/queues", b"/v2/queues/\x00"),
    "a version of the future": PLAIN.replace(b"HTTP/1.1", b"HTTP/9.9"),
    "a version that is none": PLAIN.replace(b"HTTP/1.1", b"HTTP/x"),
    "no version": b"GET /v2/queues\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "bytes": b"\x00\xff\r\n\r\n" * 100,
    "empty lines": b"\r\n" * 50_000,
}


@pytest.mark.parametrize("case", HEADS)
def test_a_malformed_request_head_is_refused(target: Target, project: str, case: str) -> None:
    assert_refused_or_harmless(target, case, talk(target.server, HEADS[case], half_close=True), project)


PATHS = {
    "NUL": "/v2/queues/a%00",
    "line feed": "/v2/queues/a%0A",
    "carriage return": "/v2/queues/a%0D%0AX-Header:%20y",
    "slash": "/v2/queues/a%2Fb",
    "invalid escape": "/v2/queues/%zz",
    "half an escape": "/v2/queues/%",
    "bad UTF-8": "/v2/queues/%ff",
    "broken UTF-8": "/v2/queues/%c3%28",
    "overlong UTF-8": "/v2/queues/%c0%ae",
    "surrogate": "/v2/queues/%ed%a0%80",
    "dots": "/v2/queues/..",
    "escaped dots": "/v2/queues/%2e%2e",
    "emoji": "/v2/queues/%f0%9f%98%80",
    "65 characters": "/v2/queues/" + "q" * 65,
    "below": "/v2/queues/a%00/messages",
    "message id": MESSAGES + "/%00%ff%0a",
    "claim id": "/v2/queues/q/claims/%00%ff%0a",
    "unknown": "/v2/%00%ff",
    "slashes": "//v2//queues//",
    "parameters": "/v2/queues;x=y",
    "query NUL": MESSAGES + "?limit=%00",
    "query bad UTF-8": MESSAGES + "?marker=%ff",
    "query line feed": MESSAGES + "?limit=1%0a",
    "query digits of elsewhere": MESSAGES + "?limit=%ef%bc%91",
    "query twice": MESSAGES + "?limit=1&limit=2",
    "query of many": MESSAGES + "?" + "&".join(f"p{number}=1" for number in range(500)),
    "query huge number": MESSAGES + "?limit=" + "9" * 4000,
    "query ids NUL": MESSAGES + "?ids=%00",
    "query expression": "/v2/queues?name=(((",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_a_path_outside_the_api_is_refused(service: Server, project: str, path: str) -> None:
    conversation = talk(service, request("GET", path, CLOSE, project=project))
    assert len(conversation.replies) == 1
    assert_refused(conversation)


# -- unusual but valid -------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(service: Server, project: str) -> None:
    posts = [request("POST", MESSAGES, project=project, body=POST.replace(b"stored", b"%d" % n)) for n in range(10)]
    listing = request("GET", MESSAGES + "?echo=true&limit=20", CLOSE, project=project)
    conversation = talk(service, b"".join([*posts, listing]), replies=11)
    assert conversation.statuses == [201] * 10 + [200]
    assert [message["body"] for message in conversation.replies[-1].json["messages"]] == [str(n) for n in range(10)]


def test_a_refused_request_does_not_spoil_the_next_on_its_connection(service: Server, project: str) -> None:
    bad = request("POST", MESSAGES, project=project, body=b'{"messages":[{"body":1,"ttl":1}]}')
    conversation = talk(service, bad + request("POST", MESSAGES, CLOSE, project=project, body=POST), replies=2)
    assert conversation.statuses == [400, 201]


def test_expect_continue_is_supported(service: Server, project: str) -> None:
    head = request("POST", MESSAGES, CLOSE, b"Expect: 100-continue", b"Content-Length: %d" % len(POST), project=project)
    with raw_http.connect(service) as sock:
        sock.sendall(head)
        assert sock.recv(65536).startswith(b"HTTP/1.1 100 ")
        sock.sendall(POST)
        assert raw_http.listen(sock).statuses == [201]
    too_much = request("POST", MESSAGES, b"Expect: 100-continue", b"Content-Length: 9999999", project=project)
    assert talk(service, too_much).statuses == [400]
    assert raw_http.bodies(service, project) == ["stored"]


def test_http_1_0_is_supported(service: Server, project: str) -> None:
    head = raw_http.join([b"GET / HTTP/1.0"])
    conversation = talk(service, head, replies=None)
    assert (conversation.statuses, conversation.closed) == ([300], True)
    post = request("POST", MESSAGES, project=project, body=POST, version=b"HTTP/1.0")
    assert talk(service, post).statuses == [201]


def test_the_absolute_form_of_a_target_is_supported(service: Server, project: str) -> None:
    target = f"http://{service.host}:{service.port}{MESSAGES}"
    assert talk(service, request("POST", target, CLOSE, project=project, body=POST)).statuses == [201]
    assert raw_http.bodies(service, project) == ["stored"]


# -- to be run last: by then the time limit has nearly passed ----------------------------------------------------------


def test_silent_clients_are_disconnected(target: Target) -> None:
    deadline = time.monotonic() + LET_GO_SECONDS
    for sock in (sock for where in LETS_GO[target.name] for sock in target.stalled[where]):
        sock.settimeout(max(0.1, deadline - time.monotonic()))
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := sock.recv(65536):
                received += part
        replies, _ = raw_http.parse(received)
        assert all(reply.status in range(400, 500) for reply in replies)
    assert raw_http.bodies(target.server, "stalled") == []
