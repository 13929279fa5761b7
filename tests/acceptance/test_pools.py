# SPDX-License-Identifier: Apache-2.0
"""Pools of different drivers in one service: placement, a pool that dies, dead letters between pools."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests import servers
from tests.acceptance.backends import MONGODB, REDIS, started
from tests.acceptance.server import HTTP_COMMAND, Server, running

PATIENCE = 60.0
QUICK = 8.0
"""The time limit of a request for a queue on a dead pool: 5 s, and an allowance for a busy machine."""


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    document: Any
    seconds: float


@dataclass
class Cloud:
    """A service with pools ``redis``, ``mongodb`` and ``sqlite``, and a flavor of each name with ``-only``."""

    server: Server
    redis: servers.Redis
    mongodb: servers.MongoSet

    def ask(self, method: str, path: str, document: Any = None) -> Answer:
        headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": "cloud", "X-Roles": "admin"}
        body = None if document is None else json.dumps(document)
        began = time.monotonic()
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        return Answer(response.status, response.headers, json.loads(text) if text else None, time.monotonic() - began)

    def must(self, status: int, method: str, path: str, document: Any = None) -> Any:
        answer = self.ask(method, path, document)
        assert answer.status == status, (method, path, answer)
        return answer.document

    def post(self, queue: str, *bodies: Any, status: int = 201) -> Any:
        messages = [{"body": body, "ttl": 3600} for body in bodies]
        return self.must(status, "POST", f"/v2/queues/{queue}/messages", {"messages": messages})

    def bodies(self, queue: str) -> list[Any]:
        page = self.must(200, "GET", f"/v2/queues/{queue}/messages?limit=20&echo=true")
        return [message["body"] for message in page["messages"]]

    def claim_and_release(self, queue: str) -> None:
        """Claim all messages and release them."""
        answer = self.ask("POST", f"/v2/queues/{queue}/claims?limit=20")
        if answer.status == 201:
            self.must(204, "DELETE", answer.headers["Location"])


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("cloud")
    config = folder / "zaqar.conf"
    config.write_text("[DEFAULT]\nadmin_mode = True\npooling = True\n")
    with ExitStack() as stack:
        redis, mongodb = stack.enter_context(started(REDIS)), stack.enter_context(started(MONGODB))
        options = ("--config-file", str(config), "--workers", "2")
        cloud = Cloud(
            stack.enter_context(running(folder / "state", options=options, command=HTTP_COMMAND)), redis, mongodb
        )
        mongo_host, _, mongo_query = mongodb.uri.partition("/?")
        for name, uri in {
            "redis": redis.uri,
            "mongodb": f"{mongo_host}/pool?{mongo_query}",
            "sqlite": f"sqlite:///{folder}/pool.db",
        }.items():
            cloud.must(201, "PUT", f"/v2/pools/{name}", {"uri": uri, "weight": 100})
            cloud.must(201, "PUT", f"/v2/flavors/{name}-only", {"pool_list": [name]})
        for name in ("any-redis", "any-mongodb"):
            kind = name.removeprefix("any-")
            uri = f"{redis.uri}?dbid=1" if kind == "redis" else f"{mongo_host}/another?{mongo_query}"
            cloud.must(201, "PUT", f"/v2/pools/{name}", {"uri": uri, "weight": 100})
        yield cloud


def queue_of(cloud: Cloud, flavor: str, **metadata: Any) -> str:
    name = f"q-{uuid.uuid4().hex[:12]}"
    cloud.must(201, "PUT", f"/v2/queues/{name}", {"_flavor": f"{flavor}-only", **metadata})
    return name


@pytest.mark.parametrize("flavor", ["redis", "mongodb", "sqlite"])
def test_a_queue_lives_on_the_pool_of_its_flavor(cloud: Cloud, flavor: str) -> None:
    queue = queue_of(cloud, flavor)
    before = keys(cloud.redis)
    cloud.post(queue, *range(10))
    assert cloud.bodies(queue) == list(range(10))
    assert (keys(cloud.redis) > before) == (flavor == "redis")
    cloud.must(204, "DELETE", f"/v2/queues/{queue}")


def keys(redis: servers.Redis) -> int:
    return int(redis.client().dbsize())


@pytest.mark.parametrize(
    ("source", "dead_letter_pool"),
    [("redis", "mongodb"), ("mongodb", "sqlite"), ("sqlite", "redis"), ("mongodb", "redis")],
)
def test_dead_letters_move_from_pool_to_pool(cloud: Cloud, source: str, dead_letter_pool: str) -> None:
    dead = queue_of(cloud, dead_letter_pool)
    queue = queue_of(cloud, source, _max_claim_count=2, _dead_letter_queue=dead)
    cloud.post(queue, *range(8))
    for _ in range(3):
        cloud.claim_and_release(queue)
    assert cloud.bodies(queue) == []
    assert cloud.bodies(dead) == list(range(8))
    cloud.claim_and_release(queue)
    assert cloud.must(200, "GET", f"/v2/queues/{dead}/stats")["messages"]["free"] == 8


def test_a_dead_pool_affects_only_its_own_queues(cloud: Cloud) -> None:
    alive = [queue_of(cloud, "mongodb"), queue_of(cloud, "sqlite")]
    lost = queue_of(cloud, "redis")
    for queue in (*alive, lost):
        cloud.post(queue, "before")
    cloud.redis.kill()
    try:
        for method, path in (("GET", f"/v2/queues/{lost}/messages"), ("POST", f"/v2/queues/{lost}/claims")):
            answer = cloud.ask(method, path)
            assert (answer.status, answer.headers["Retry-After"] is None) == (503, False)
            assert answer.seconds < QUICK
        for queue in alive:
            cloud.post(queue, "meanwhile")
            assert cloud.bodies(queue) == ["before", "meanwhile"]
        # New queues without a flavor go to a pool that answers.
        for _ in range(12):
            cloud.post(f"new-{uuid.uuid4().hex[:12]}", "x")
        assert cloud.ask("GET", "/v2/ping").status == 204
        report = cloud.ask("GET", "/v2/health")
        assert report.status == 200
        assert report.document["storage_reachable"] is False
        assert "redis://" not in json.dumps(report.document)
    finally:
        cloud.redis.start()
    # Each of the two workers notices it for itself, so one answer says nothing about the other worker.
    deadline = time.monotonic() + PATIENCE
    posts = f"/v2/queues/{lost}/messages"
    while cloud.ask("POST", posts, {"messages": [{"body": "after", "ttl": 3600}]}).status != 201:
        assert time.monotonic() < deadline, "the pool does not recover"
        time.sleep(0.05)
    while (answer := cloud.ask("GET", f"{posts}?limit=20&echo=true")).status != 200:
        assert time.monotonic() < deadline, "the pool does not recover"
        time.sleep(0.05)
    assert [message["body"] for message in answer.document["messages"]] == ["before", "after"]
