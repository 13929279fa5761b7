# SPDX-License-Identifier: Apache-2.0
"""A client of the application in-process, with the headers every request needs."""

from __future__ import annotations

import copy
import json
import uuid
from typing import Any

from falcon import testing

from tests.clock import FakeClock
from tests.conformance.drivers import Driver
from zaqar import app, conf
from zaqar.transport.wsgi.app import make_app

ALICE = "3381af92-2b9e-11e3-b191-71861300734c"
BOB = "98e1f4a6-2b9e-11e3-b191-71861300734d"
JSON_PATCH = "application/openstack-messaging-v2.0-json-patch"


PLANTED = "planted-0123456789-secret"
"""A secret that goes with each request, in headers that may have one. No record of the log may show it."""

SECRETS = {"Authorization": f"Basic {PLANTED}", "Cookie": f"session={PLANTED}"}


class Api:
    """One worker of the service: an application with caches of its own over stores that others may share."""

    def __init__(self, driver: Driver, address: str, *, clock: FakeClock, **options: Any) -> None:
        configuration = conf.load()
        for name, value in {"admin_mode": True, **options}.items():
            group, _, option = name.rpartition("__")
            configuration.set_override(option, value, group or None)
        self.clock = clock
        self.mounted_at = ""
        self.project = uuid.uuid4().hex
        self._messages = driver.open_messages(address)
        self.parts = app.build(
            configuration, clock=clock, management=driver.open_management(address), messages=self._messages
        )
        self._client = testing.TestClient(make_app(self.parts))

    def in_new_project(self) -> Api:
        """The same worker with requests for another project."""
        other = copy.copy(self)
        other.project = uuid.uuid4().hex
        return other

    def close(self) -> None:
        self.parts.close()
        if self.parts.conf.pooling:
            # With pools, a store is closed only in the application that opened it.
            self._messages.close()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        client: str = ALICE,
        headers: dict[str, str | None] | None = None,
        raw: bytes | None = None,
    ) -> testing.Result:
        """Send ``body`` as JSON, or ``raw`` as it is; a header given as None is left out."""
        # With Keystone the tests say which token a request has.
        token = {} if self.parts.tokens is not None else {"X-Auth-Token": PLANTED}
        sent = {**SECRETS, **token, "Client-ID": client, "X-Project-ID": self.project, **(headers or {})}
        content = raw if body is None else json.dumps(body).encode()
        path, _, query = path.partition("?")
        return self._client.simulate_request(
            method,
            path,
            query_string=query,
            root_path=self.mounted_at,
            headers={name: value for name, value in sent.items() if value is not None},
            body=content,
        )

    def get(self, path: str, **kwargs: Any) -> testing.Result:
        return self.request("GET", path, **kwargs)

    def put(self, path: str, body: Any = None, **kwargs: Any) -> testing.Result:
        return self.request("PUT", path, body, **kwargs)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> testing.Result:
        return self.request("POST", path, body, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> testing.Result:
        return self.request("DELETE", path, **kwargs)

    def patch(self, path: str, body: Any = None, **kwargs: Any) -> testing.Result:
        return self.request("PATCH", path, body, **kwargs)

    def patch_queue(self, queue: str, *operations: dict[str, Any]) -> testing.Result:
        return self.patch(f"/v2/queues/{queue}", list(operations), headers={"Content-Type": JSON_PATCH})

    # -- helpers -----------------------------------------------------------------------------------------------------

    def send(self, queue: str, *bodies: Any, client: str = ALICE, **fields: Any) -> list[str]:
        """Post messages. Returns their ids."""
        messages = [{"body": body, "ttl": 300, **fields} for body in bodies]
        result = self.post(f"/v2/queues/{queue}/messages", {"messages": messages}, client=client)
        assert result.status_code == 201, result.text
        return [href.rpartition("/")[2] for href in result.json["resources"]]

    def claim(self, queue: str, limit: int = 10, **terms: int) -> tuple[str, list[dict[str, Any]]]:
        """Claim messages. Returns the claim's id and the messages, or "" and an empty list if none was free."""
        result = self.post(f"/v2/queues/{queue}/claims?limit={limit}", terms or None)
        if result.status_code == 204:
            return "", []
        assert result.status_code == 201, result.text
        return result.headers["Location"].rpartition("/")[2], result.json["messages"]

    def bodies(self, queue: str, query: str = "echo=true&limit=20") -> list[Any]:
        """The bodies of one page."""
        return [message["body"] for message in self.get(f"/v2/queues/{queue}/messages?{query}").json["messages"]]

    def counts(self, queue: str) -> tuple[int, int, int]:
        """The numbers of free messages, claimed messages and all messages."""
        messages = self.get(f"/v2/queues/{queue}/stats").json["messages"]
        return messages["free"], messages["claimed"], messages["total"]
