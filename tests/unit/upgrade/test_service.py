# SPDX-License-Identifier: Apache-2.0
"""The client of the copy against a server on a loopback socket: retries, tokens, paths and bounds."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from zaqar.upgrade import __main__ as command
from zaqar.upgrade import service
from zaqar.upgrade.service import Refused, Service, Unavailable


class Answers(HTTPServer):
    """Answers with ``planned`` in order, then with the last of them, and notes the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.planned: list[tuple[int, Any]] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        planned = self.server.planned
        status, body = planned.pop(0) if len(planned) > 1 else planned[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    do_PUT = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """No line for each request."""


@pytest.fixture
def server() -> Iterator[Answers]:
    server = Answers()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(service.time, "sleep", slept.append)
    return slept


def client(server: Answers, **options: Any) -> Service:
    return Service(server.url + "/mount/", project="p", client_id="c", **options)


def test_a_request_has_the_headers_the_mount_path_and_a_quoted_name(server: Answers) -> None:
    server.planned = [(200, {"a": 1})]
    assert client(server).get("queues", "a b/ü", query={"limit": "1"}) == {"a": 1}
    ((method, path, headers),) = server.seen
    assert (method, path) == ("GET", "/mount/v2/queues/a%20b%2F%C3%BC?limit=1")
    assert (headers["Client-ID"], headers["X-Project-ID"], headers["Accept"]) == ("c", "p", "application/json")


def test_a_request_is_repeated_with_growing_pauses(server: Answers, pauses: list[float]) -> None:
    server.planned = [(503, b"<html>a proxy"), (429, {}), (200, {})]
    assert client(server).get("queues") == {}
    assert pauses == [1.0, 2.0]


def test_the_attempts_end(server: Answers, pauses: list[float]) -> None:
    server.planned = [(503, {"title": "away"})]
    with pytest.raises(Unavailable, match="away"):
        client(server).put("queues", "q", body={})
    assert len(server.seen) == service.ATTEMPTS
    assert sum(pauses) == 31


def test_a_refusal_is_not_repeated(server: Answers) -> None:
    server.planned = [(400, {"description": "field: why"})]
    with pytest.raises(Refused, match="field: why"):
        client(server).get("queues")
    assert len(server.seen) == 1


def test_a_service_that_is_not_there_is_unavailable(pauses: list[float]) -> None:
    with pytest.raises(Unavailable, match="ConnectionRefusedError"):
        Service("http://127.0.0.1:9", project=None, client_id="c").get("queues")


def test_a_token_is_read_again_when_it_has_expired(server: Answers, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    caller = client(server, token_file=token)
    token.write_text("new\n")
    server.planned = [(401, {}), (200, {})]
    assert caller.get("queues") == {}
    assert [headers["X-Auth-Token"] for _, _, headers in server.seen] == ["old", "new"]
    server.planned = [(401, {})]
    with pytest.raises(Refused, match="401"):
        caller.get("queues")


def test_an_answer_has_a_bound(server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_BYTES", 10)
    server.planned = [(200, "more than ten bytes")]
    with pytest.raises(Refused, match="more than 10 bytes"):
        client(server).get("queues")


def listing(marker: str, *names: str) -> dict[str, Any]:
    links = [{"rel": "next", "href": f"/v2/queues?marker={marker}"}]
    return {"queues": [{"name": name} for name in names], "links": links}


@pytest.mark.parametrize("end", [(200, {"queues": [], "links": []}), (204, b""), (200, listing("b", "b"))])
def test_pages_end_with_an_empty_or_a_repeated_page(server: Answers, end: tuple[int, Any]) -> None:
    server.planned = [(200, listing("a", "a")), (200, listing("b", "b")), end]
    pages = client(server).pages("queues", query={"limit": "1"})
    assert [[queue["name"] for queue in page] for page in pages] == [["a"], ["b"]]
    assert [path.partition("?")[2] for _, path, _ in server.seen] == ["limit=1", "limit=1&marker=a", "limit=1&marker=b"]


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8888", "ftp://127.0.0.1", "http://", "http://host/?a=b", "http://user@host"]
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not a URL"):
        Service(url, project=None, client_id="c")


def test_a_mistake_ends_the_command_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nowhere", "http://127.0.0.1:9", "--dry-run"]) == command.STOPPED
    assert capsys.readouterr().err.startswith("Stopped: not a URL")
