# SPDX-License-Identifier: Apache-2.0
"""Two services in memory, and the HTTP client of the copy without a network between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from falcon import testing

from zaqar import app, conf
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.wsgi.app import make_app
from zaqar.upgrade.service import Service, Unavailable

PROJECT = "p"
CLIENT = "3381af92-2b9e-11e3-b191-71861300734c"
HEADERS = {"Client-ID": CLIENT, "X-Project-ID": PROJECT, "Content-Type": "application/json"}


class InProcess(Service):
    """A service without a network. ``faults`` has an exception or an answer for each of the next requests of a method.

    An exception comes after the request had its effect, as if the connection broke before the answer.
    """

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:8888", project=PROJECT, client_id=CLIENT)
        configuration = conf.load([], default_config_files=[])
        configuration.set_override("webhook_allowed_networks", ["192.0.2.0/24"], "notification")
        self.now = 1_000_000.0
        parts = app.build(
            configuration,
            clock=lambda: self.now,
            management=MemoryManagementStore(),
            messages=MemoryMessageStore(),
        )
        self._client = testing.TestClient(make_app(parts))
        self.faults: dict[str, list[Exception | tuple[int, bytes] | None]] = {}
        self.requests: list[str] = []

    def _exchange(self, method: str, path: tuple[str, ...], query: Mapping[str, str], body: Any) -> tuple[int, bytes]:
        self.requests.append(f"{method} {'/'.join(path)}")
        planned = self.faults.get(method, [])
        fault = planned.pop(0) if planned else None
        if isinstance(fault, tuple):
            return fault
        target = "/v2/" + "/".join(quote(each, safe="") for each in path)
        result = self._client.simulate_request(
            method,
            target,
            query_string=urlencode(query),
            headers=HEADERS,
            body=None if body is None else json.dumps(body),
        )
        if fault is not None:
            raise fault
        return result.status_code, result.content

    def fill(self, queue: str, bodies: list[Any], **fields: Any) -> None:
        self.post("queues", queue, "messages", body={"messages": [{"body": body, **fields} for body in bodies]})

    def bodies(self, queue: str) -> list[Any]:
        return [message["body"] for message in self.messages(queue)]

    def messages(self, queue: str) -> list[dict[str, Any]]:
        query = {"echo": "true", "include_claimed": "true", "include_delayed": "true"}
        return [message for page in self.pages("queues", queue, "messages", query=query) for message in page]


BROKEN = Unavailable("the connection broke")
