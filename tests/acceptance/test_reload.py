# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: limits, the policy and the log change in every process of a running server, and no request fails."""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.acceptance.server import Server, running, wait_until
from tests.acceptance.test_server import MESSAGES, POST, ask
from tests.websocket import WebSocket

LARGE = json.dumps({"messages": [{"body": "x" * 200, "ttl": 300}]}).encode()
IN_A_ROW = 20
"""After so many new answers in a row no process with the old configuration answers any more."""


class Poster(threading.Thread):
    """Posts small messages, one after the other, until it is told to end. Every status counts."""

    def __init__(self, post: Callable[[], int]) -> None:
        super().__init__()
        self._post = post
        self._end = threading.Event()
        self.statuses: list[int] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._end.wait(0.02):
                self.statuses.append(self._post())
        except Exception as exc:  # noqa: BLE001, the test raises it
            self.error = exc

    def finish(self) -> None:
        self._end.set()
        self.join()
        assert self.error is None
        assert set(self.statuses) == {201}


class Reloading:
    """A server whose files a test changes, with clients of both transports."""

    def __init__(self, server: Server, folder: Path, client: WebSocket) -> None:
        self.server, self._folder, self._client = server, folder, client

    def reload(self, text: str, policy: str) -> int:
        """Write both files and send SIGHUP. Returns the length of the log before."""
        (self._folder / "zaqar.conf").write_text(text)
        (self._folder / "policy.yaml").write_text(policy)
        self.server.process.send_signal(signal.SIGHUP)
        return len(self.server.log.read_text())

    def post(self, body: bytes) -> tuple[int, int]:
        """The statuses of a post over HTTP and over WebSocket."""
        document = {"queue_name": "q", **json.loads(body)}
        return ask(self.server, "POST", MESSAGES, body)[0], self._client.request("message_post", document).status

    def create_queue(self) -> tuple[int, int]:
        """The statuses of making a queue over HTTP and over WebSocket."""
        websocket = self._client.request("queue_create", {"queue_name": "other"}).status
        return ask(self.server, "PUT", "/v2/queues/other", b"{}")[0], websocket

    def wait_until_all(self, ask: Callable[[], tuple[int, int]], *expected: tuple[int, int]) -> None:
        seen: list[tuple[int, int]] = []

        def are_all_new() -> bool:
            seen.append(ask())
            return len(seen) >= IN_A_ROW and all(each in expected for each in seen[-IN_A_ROW:])

        wait_until(are_all_new)

    def records(self, since: int) -> list[dict[str, Any]]:
        """The log records after a position of the log."""
        lines = self.server.log.read_text()[since:].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def parts(self, since: int, matches: Callable[[dict[str, Any]], bool]) -> set[str]:
        """The kinds of processes that have logged such a record."""
        return {record["part"] for record in self.records(since) if matches(record)}


def is_access(record: dict[str, Any]) -> bool:
    return bool(record["logger"] == "zaqar.access")


def is_debug(record: dict[str, Any]) -> bool:
    return bool(record["level"] == "DEBUG")


MADE = {201, 204}
"""The statuses of a queue that is new, and of one that was there."""

TRANSPORTS = {"api", "websocket"}
JSON = "[logging]\nformat = json\n"
ACCESS = f"{JSON}access = all\n"


def test_a_reload_changes_limits_policy_and_log_and_no_request_fails(tmp_path: Path) -> None:
    config, policy = tmp_path / "zaqar.conf", tmp_path / "policy.yaml"
    config.write_text(JSON)
    policy.write_text("{}")
    options = ("--config-file", str(config), "--workers", "1")
    with running(tmp_path / "state", options=options) as server, WebSocket(server.websocket_url, project="p") as client:
        with WebSocket(server.websocket_url, project="p") as other:
            small = {"queue_name": "q", **json.loads(POST)}
            posters = [
                Poster(lambda: ask(server, "POST", MESSAGES, POST)[0]),
                Poster(lambda: other.request("message_post", small).status),
            ]
            for poster in posters:
                poster.start()
            try:
                check_reloads(Reloading(server, tmp_path, client))
            finally:
                for poster in posters:
                    poster.finish()
        assert server.process.poll() is None


def check_reloads(service: Reloading) -> None:
    assert service.post(LARGE) == (201, 201)
    assert set(service.create_queue()) <= MADE

    # Lower limits, a stricter policy, and an access log whose level hides it.
    hidden = f"[DEFAULT]\ndefault_log_levels = zaqar.access=ERROR\n[transport]\nmax_messages_post_size = 100\n{ACCESS}"
    since = service.reload(hidden, '"queues:create": "role:nobody"\n')
    service.wait_until_all(lambda: service.post(LARGE), (400, 400))
    assert service.create_queue() == (403, 403)
    assert service.parts(since, is_access) == service.parts(since, is_debug) == set()

    # The level is no longer configured, so the access log is there. Debug, also of libraries.
    debug = f"[DEFAULT]\ndebug = True\ndefault_log_levels = zaqar=INFO\n{ACCESS}"
    since = service.reload(debug, '"queues:create": "role:nobody"\n')
    service.wait_until_all(lambda: service.post(LARGE), (201, 201))
    wait_until(lambda: service.parts(since, is_access) == TRANSPORTS)
    assert service.create_queue() == (403, 403)

    # The default policy. Each part logs how it reads a policy, which shows the level.
    since = service.reload(debug, "{}")
    service.wait_until_all(service.create_queue, *itertools.product(MADE, MADE))
    wait_until(lambda: service.parts(since, is_debug) >= TRANSPORTS)

    # A mistake changes nothing.
    service.reload("[transport]\nmax_messages_post_size = x\n", "{}")
    wait_until(lambda: "SIGHUP changes nothing" in service.server.log.read_text())
    assert service.post(LARGE) == (201, 201)
