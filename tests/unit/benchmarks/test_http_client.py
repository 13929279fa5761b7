# SPDX-License-Identifier: Apache-2.0
"""The HTTP client, against a server that sends given bytes."""

from __future__ import annotations

import pytest

from tests.unit.benchmarks.serving import scripted
from zaqar.benchmarks.http_client import Answer, Connection, Endpoint

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://127.0.0.1:8888", Endpoint("http", "127.0.0.1", 8888)),
        ("http://127.0.0.1:8888/", Endpoint("http", "127.0.0.1", 8888)),
        ("http://zaqar.example", Endpoint("http", "zaqar.example", 80)),
        ("https://zaqar.example", Endpoint("https", "zaqar.example", 443)),
        ("http://[::1]:8888", Endpoint("http", "::1", 8888)),
    ],
)
def test_a_url_names_an_endpoint(url: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(url) == endpoint


@pytest.mark.parametrize("url", ["", "127.0.0.1:8888", "ftp://host", "http://", "http://host/prefix", "http://host:x"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Endpoint.parse(url)


def test_an_ipv6_address_stands_in_brackets_in_the_host_header() -> None:
    assert Endpoint("http", "::1", 8888).host_header == "[::1]:8888"


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ([HELLO], Answer(200, b"hello")),
        ([HELLO[:7], HELLO[7:30], HELLO[30:42], HELLO[42:]], Answer(200, b"hello")),
        ([b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n"], Answer(200, b"")),
        ([b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n"], Answer(204, b"")),
        (
            [
                b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
                b"lo\r\n6;x=y\r\n world\r\n0\r",
                b"\n\r\n",
            ],
            Answer(201, b"hello world"),
        ),
    ],
)
def test_an_answer_is_read_however_it_arrives(pieces: list[bytes], answer: Answer) -> None:
    with scripted([[pieces, [HELLO]]]) as endpoint:
        connection = Connection(endpoint)
        assert connection.exchange(REQUEST) == answer
        # The connection is still the same one, and nothing of the first answer is left in it.
        assert connection.exchange(REQUEST) == Answer(200, b"hello")
        connection.close()


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
def test_a_connection_that_the_server_closes_is_opened_again(first: bytes) -> None:
    with scripted([[[first]], [[HELLO]]]) as endpoint:
        connection = Connection(endpoint)
        assert connection.exchange(REQUEST) == Answer(200, b"hello")
        assert connection.exchange(REQUEST) == Answer(200, b"hello")
        connection.close()


@pytest.mark.parametrize(
    "broken", [HELLO[:20], HELLO[:-1], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"]
)
def test_an_answer_that_breaks_off_is_an_error_and_the_next_request_connects_again(broken: bytes) -> None:
    with scripted([[[broken]], [[HELLO]]]) as endpoint:
        connection = Connection(endpoint)
        with pytest.raises(ConnectionResetError):
            connection.exchange(REQUEST)
        assert connection.exchange(REQUEST) == Answer(200, b"hello")
        connection.close()
