# SPDX-License-Identifier: Apache-2.0
"""Streams and waiting over WebSocket between real processes: posts over HTTP wake the clients of the other process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.server import Server, wait_until
from tests.acceptance.test_websocket import MODULE, ask, serving
from tests.websocket import WebSocket

PROJECT = "admin"
"""The project of requests over HTTP in these tests."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as server:
        yield server


def post_over_http(server: Server, *bodies: Any, queue: str = "q") -> None:
    messages = [{"body": body, "ttl": 300} for body in bodies]
    ask(server, "POST", f"/v2/queues/{queue}/messages", {"messages": messages})


def follow(client: WebSocket, queue: str = "q", **fields: Any) -> str:
    reply = client.request("stream_open", {"queue_name": queue, "credit": 1000, **fields})
    assert reply.status == 200, reply
    position: str = reply.body["position"]
    return position


def test_a_claim_and_a_stream_get_messages_posted_over_http(server: Server) -> None:
    with (
        WebSocket(server.websocket_url, project=PROJECT) as claimer,
        WebSocket(server.websocket_url, project=PROJECT) as reader,
    ):
        follow(reader, "claimed")
        for number in range(3):
            claimer.send(claimer.frame("claim_create", {"queue_name": "claimed", "wait": 20}))
            post_over_http(server, number, queue="claimed")
            claimed = claimer.reply()
            assert claimed.status == 201
            assert [each["body"] for each in claimed.body["messages"]] == [number]
            frame = reader.push()
            assert (frame["event"], frame["data"]["body"]) == ("message", number)


def test_a_reader_resumes_after_a_kill_a_reload_and_a_restart(server: Server, folder: Path) -> None:
    seen: list[int] = []
    posted = 0

    def go_on(client: WebSocket, count: int) -> str:
        marker = ""
        for _ in range(count):
            frame = client.push()
            assert frame["event"] == "message", frame
            marker = frame["id"]
            seen.append(frame["data"]["body"])
        return marker

    def send(count: int) -> None:
        nonlocal posted
        post_over_http(server, *range(posted, posted + count))
        posted += count

    pid = server.part(MODULE)
    with WebSocket(server.websocket_url, project=PROJECT) as client:
        follow(client)
        send(3)
        marker = go_on(client, 3)
        send(2)
        os.kill(pid, signal.SIGKILL)
        send(2)
    with (
        WebSocket(server.websocket_url, project=PROJECT) as client,
        WebSocket(server.websocket_url, project=PROJECT) as claimer,
    ):
        claimer.send(claimer.frame("claim_create", {"queue_name": "none", "wait": 20}))
        follow(client, marker=marker)
        go_on(client, 4)
        # A reload does not affect this connection.
        (folder / "zaqar.conf").write_text("[transport]\nmax_messages_post_size = 1000\n")
        server.process.send_signal(signal.SIGHUP)
        large = {"queue_name": "other", "messages": [{"body": "x" * 2000, "ttl": 300}]}
        wait_until(lambda: client.request("message_post", large).status == 400)
        send(5)
        marker = go_on(client, 5)
        # The close code says that the process ends.
        os.kill(server.part(MODULE), signal.SIGTERM)
        bye = client.push()
        assert (bye["event"], bye["data"], bye["id"]) == ("bye", {"reason": "drain"}, marker)
        assert client.closed()[0] == 1001
        # The claim has waited all the time, and is answered now.
        assert claimer.reply().status == 204
        assert claimer.closed()[0] == 1001
        send(3)
    with WebSocket(server.websocket_url, project=PROJECT) as client:
        follow(client, marker=marker)
        go_on(client, 3)
    assert seen == list(range(posted))
    wait_until(server.answers)
