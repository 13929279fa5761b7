# SPDX-License-Identifier: Apache-2.0
"""For the tests of access: the application in this process behind a real Keystone, and resources for callers."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from falcon import testing

from tests.conformance.drivers import DRIVERS
from tests.keystone import Keystone
from zaqar import app, conf
from zaqar.model import DEAD, QUEUE, TOPIC, Delivery, Posted, QueueName
from zaqar.transport.wsgi.app import make_app

CLIENT = str(uuid.uuid4())
JSON_PATCH = "application/openstack-messaging-v2.0-json-patch"
SECRET_KEY = "a key of the tests that signs URLs, and nothing else"

_CONFIGURATION = f"""\
[DEFAULT]
admin_mode = true
pooling = true
[storage]
message_pipeline = zaqar.notification.notifier
[notification]
webhook_allowed_networks = 192.0.2.0/24
[signed_url]
secret_key = {SECRET_KEY}
"""

_BODIES: Mapping[tuple[str, str], Any] = {
    ("PUT", "/v2/queues/{queue}"): {},
    ("PUT", "/v2/topics/{topic}"): {},
    ("PATCH", "/v2/queues/{queue}"): [{"op": "add", "path": "/metadata/colour", "value": "red"}],
    ("PATCH", "/v2/topics/{topic}"): [{"op": "add", "path": "/metadata/colour", "value": "red"}],
    ("POST", "/v2/queues/{queue}/messages"): {"messages": [{"body": "intruder", "ttl": 300}]},
    ("POST", "/v2/topics/{topic}/messages"): {"messages": [{"body": "intruder", "ttl": 300}]},
    ("PATCH", "/v2/queues/{queue}/claims/{claim}"): {"ttl": 400, "grace": 400},
    ("POST", "/v2/queues/{queue}/subscriptions"): {"subscriber": "http://192.0.2.66/intruder", "ttl": 600},
    ("POST", "/v2/topics/{topic}/subscriptions"): {"subscriber": "http://192.0.2.66/intruder", "ttl": 600},
    ("PATCH", "/v2/queues/{queue}/subscriptions/{subscription}"): {"ttl": 700},
    ("PATCH", "/v2/topics/{topic}/subscriptions/{subscription}"): {"ttl": 700},
    ("PUT", "/v2/queues/{queue}/subscriptions/{subscription}/confirm"): {"confirmed": False},
    ("PUT", "/v2/topics/{topic}/subscriptions/{subscription}/confirm"): {"confirmed": False},
    ("PATCH", "/v2/pools/{pool}"): {"weight": 0},
    ("POST", "/v2/queues/{queue}/purge"): {"resource_types": ["messages", "subscriptions"]},
    ("POST", "/v2/topics/{topic}/purge"): {"resource_types": ["messages", "subscriptions"]},
    ("POST", "/v2/queues/{queue}/subscriptions/{subscription}/resend"): {"state": "dead"},
    ("POST", "/v2/topics/{topic}/subscriptions/{subscription}/resend"): {"state": "dead"},
    ("PUT", "/v2/flavors/{flavor}"): {"pool_list": ["second"]},
    ("PATCH", "/v2/flavors/{flavor}"): {"pool_list": ["second"]},
}
"""The bodies of requests to endpoints; ``{}`` for endpoints that are not listed."""

_QUERIES = {
    ("DELETE", "/v2/queues/{queue}/messages"): "pop=1",
    ("DELETE", "/v2/topics/{topic}/messages"): "pop=1",
    ("GET", "/v2/queues/{queue}/messages"): "echo=true",
    ("GET", "/v2/topics/{topic}/messages"): "echo=true",
}
_HAVE_NO_BODY = ("GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT")


class Service:
    """The application with the API, and with the lines of ``options`` in its configuration."""

    def __init__(self, keystone: Keystone, folder: Path, options: str = "") -> None:
        self.folder = folder
        file = folder / "zaqar.conf"
        file.write_text(keystone.options() + _CONFIGURATION + options)
        driver = DRIVERS["sqlite"]
        self._management = driver.open_management(driver.prepare(folder))
        self.parts = app.build(conf.load([f"--config-file={file}"]), management=self._management)
        self.wsgi = make_app(self.parts)
        self._client = testing.TestClient(self.wsgi)
        self.keystone = keystone
        self.admin = keystone.token("admin")
        self.project = keystone.id_of("project", "demo")
        self.add_pool("first", weight=1)
        # A pool of a flavor takes only queues that ask for the flavor.
        self.add_pool("second", weight=0)

    def close(self) -> None:
        self.parts.close()

    def add_pool(self, name: str, *, weight: int) -> None:
        """Register a pool; one of weight 0 gets no queue by chance."""
        body = {"uri": f"sqlite:///{self.folder}/{name}.db", "weight": weight}
        assert self.ask("PUT", f"/v2/pools/{name}", body).status_code == 201

    def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **more: Any
    ) -> testing.Result:
        """The answer to a request with a Client-ID and these headers; other arguments are those of falcon's client."""
        path, _, query = path.partition("?")
        kind = JSON_PATCH if isinstance(body, list) else "application/json"
        return self._client.simulate_request(
            method,
            path,
            query_string=query,
            headers={"Client-ID": CLIENT, "Content-Type": kind, **(headers or {})},
            body=None if body is None else json.dumps(body).encode(),
            **more,
        )

    def try_endpoint(
        self, target: Target, method: str, template: str, headers: Mapping[str, str], **more: Any
    ) -> testing.Result:
        """The answer to a complete and valid request to a path of the table."""
        query, body = _QUERIES.get((method, template), ""), _BODIES.get((method, template))
        if (method, template) == ("PUT", "/v2/pools/{pool}"):
            body = {"uri": f"sqlite:///{self.folder}/{target.names['pool']}.db", "weight": 0}
        elif body is None and method not in _HAVE_NO_BODY:
            body = {}
        return self.send(method, f"{target.path(template)}?{query}", body, headers, **more)

    def ask(self, method: str, path: str, body: Any = None, *, token: str = "") -> testing.Result:
        """Send the same request from a caller in ``demo``: the administrator, unless a token is given."""
        return self.send(method, path, body, {"X-Auth-Token": token or self.admin})

    def dump(self) -> set[str]:
        """All stored rows."""
        rows = set()
        for path in sorted(self.folder.glob("*.db")):
            with closing(sqlite3.connect(path)) as database:
                rows.update(f"{path.name}: {row}" for row in database.iterdump() if "sqlite_sequence" not in row)
        return rows

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Fail if anything is written inside the block."""
        before = self.dump()
        yield
        after = self.dump()
        assert after == before, f"written: {sorted(after - before)}, removed: {sorted(before - after)}"

    def new_target(self, path: str) -> Target:
        """Create in ``demo`` the resources that a path of the table names."""
        return Target(self, path)


class Target:
    """A queue, topic, pool or flavor of one test, with one of each resource that the path names."""

    def __init__(self, service: Service, path: str) -> None:
        self._service = service
        name = f"n{uuid.uuid4().hex}"
        self.text = f"text-{name}"
        """A text in every answer that shows the contents of the target, and in no other answer."""
        self.folder = service.folder
        self.names = dict.fromkeys(("queue", "topic", "pool", "flavor"), name)
        self.names |= {"message": "-", "claim": "-", "subscription": "-", "id": "-"}
        for kind in (QUEUE, TOPIC):
            if f"{{{kind}}}" in path:
                self._make_queue(kind, name, path)
        if "{pool}" in path:
            service.add_pool(name, weight=0)
        if "{flavor}" in path:
            assert service.ask("PUT", f"/v2/flavors/{name}", {"pool_list": ["second"]}).status_code == 201

    def _make_queue(self, kind: str, name: str, path: str) -> None:
        base, ask = f"/v2/{kind}s/{name}", self._service.ask
        assert ask("PUT", base, {"label": self.text}).status_code == 201
        if "/subscriptions" in path:
            wanted = {"subscriber": f"http://192.0.2.1/{self.text}"}
            made = ask("POST", f"{base}/subscriptions", wanted)
            self.names["subscription"] = made.json["subscription_id"]
        wanted_messages = {"messages": [{"body": self.text, "ttl": 300}, {"body": self.text, "ttl": 300}]}
        posted = ask("POST", f"{base}/messages", wanted_messages)
        assert posted.status_code == 201, posted.text
        self.names["message"] = posted.json["resources"][1].rpartition("/")[2]
        if "/claims/" in path and kind == QUEUE:
            made = ask("POST", f"{base}/claims?limit=1", {"ttl": 300, "grace": 300})
            self.names["claim"] = made.headers["location"].rpartition("/")[2]
        if "/resend" in path or "/deliveries" in path:
            self.names["id"] = self._give_up_delivery(kind, name)

    def _give_up_delivery(self, kind: str, name: str) -> str:
        """Store a dead delivery, as a notifier does after the last attempt. Returns its id."""
        parts = self._service.parts
        known = parts.queues.find(QueueName(self._service.project, kind, name), create=False)
        assert known is not None
        store, now = known.store_ref.store, parts.clock()
        for posted in store.outbox.take(owner="n", until=now + 60, now=now, limit=1000):
            deliveries = []
            if posted.queue_uid == known.queue.uid:
                deliveries = [self._delivery(posted, index, now) for index in range(len(posted.drafts))]
            store.outbox.expand(posted=posted, deliveries=deliveries, position=None, until=now)
        taken = store.deliveries.take(owner="n", until=now + 60, now=now, limit=1000, most_of_one=1000, without=())
        dead = [replace(each, state=DEAD, tries=1, keep_until=now + 1000) for each in taken]
        store.deliveries.settle(owner="n", settled=dead, now=now)
        return max(each.id for each in dead if each.subscription_id == self.names["subscription"])

    def _delivery(self, posted: Posted, index: int, now: float) -> Delivery:
        draft = posted.drafts[index]
        return Delivery(
            posted.queue_uid,
            self.names["subscription"],
            posted.first + index,
            draft.body,
            draft.ttl,
            posted.created,
            posted.client_id,
            now,
        )

    def path(self, template: str) -> str:
        return template.format(**self.names)
