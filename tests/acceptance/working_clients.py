# SPDX-License-Identifier: Apache-2.0
"""Clients that work while the service is being killed, and a recorder of the answers that they get.

An answer is a promise. If none came (a broken connection, a 503), the operation may or may not have happened. Times
are of the monotonic clock of this process: a claim is certainly live from the moment its answer was here until the
moment a request that ends it was about to be sent.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.acceptance.server import Server

CLAIM_SECONDS = 3600
PATIENCE_SECONDS = 20.0


@dataclass
class Lease:
    """A message under a claim, for the time in which the claim is certainly live."""

    message_id: str
    body: str
    asked: float
    begun: float
    over: float = float("inf")


@dataclass
class Recorder:
    """The answers of all clients. Appending to a list is atomic, so threads share it without a lock."""

    posted: list[tuple[str, list[str], list[str]]] = field(default_factory=list)
    """Queue, bodies and ids of each post that was acknowledged."""
    maybe_posted: list[tuple[str, list[str]]] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    deleted: list[tuple[str, float]] = field(default_factory=list)
    """Message id, and when its deletion was known."""
    maybe_deleted: list[str] = field(default_factory=list)
    popped: list[tuple[str, str]] = field(default_factory=list)
    """Message id and body."""
    pages: list[str] = field(default_factory=list)
    """The bodies that the reader saw, in order."""
    lost_answers: list[str] = field(default_factory=list)
    wrong_answers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Route:
    """How clients reach the service, if it is not directly. ``pause`` is the time after each request, in seconds."""

    connect: Callable[[], http.client.HTTPConnection]
    headers: Mapping[str, str]
    pause: float


class Client:
    """One HTTP client. Its answers are None if none came."""

    def __init__(self, server: Server, project: str, recorder: Recorder, route: Route | None = None) -> None:
        self._route = route or Route(
            lambda: http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_SECONDS), {}, 0.0
        )
        self._headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project, **self._route.headers}
        self._recorder = recorder
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, document: Any = None) -> tuple[int, Any] | None:
        if self._connection is None:
            self._connection = self._route.connect()
        if self._route.pause:
            time.sleep(self._route.pause)
        body = None if document is None else json.dumps(document)
        try:
            self._connection.request(method, path, body, self._headers)
            response = self._connection.getresponse()
            status, raw = response.status, response.read()
        except (OSError, http.client.HTTPException) as exc:
            self._forget(f"{method} {path}: {exc!r}")
            return None
        if status == 503:
            self._forget(f"{method} {path}: 503 {raw!r}")
            return None
        if status >= 300:
            self._recorder.wrong_answers.append(f"{method} {path}: {status} {raw!r}")
            return None
        return status, json.loads(raw) if raw else None

    def _forget(self, why: str) -> None:
        self._recorder.lost_answers.append(why)
        self.close()
        time.sleep(0.02)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class WorkingClients:
    """The clients of one project, each a thread, from ``start`` to ``stop``."""

    def __init__(self, server: Server, route: Route | None = None) -> None:
        self.recorder = Recorder()
        self._route = route
        self.project = uuid.uuid4().hex
        self._server = server
        self._stopping = threading.Event()
        self._finishing = threading.Event()
        roles: list[Callable[[Client, str], None]] = [self._produce] * 3 + [self._consume] * 3 + [self._pop]
        self._threads = [threading.Thread(target=self._run, args=(role, f"c{n}")) for n, role in enumerate(roles)]
        self._reader = threading.Thread(target=self._run, args=(self._read, "reader"))

    def client(self) -> Client:
        return Client(self._server, self.project, self.recorder, self._route)

    def start(self) -> None:
        for thread in (*self._threads, self._reader):
            thread.start()

    def stop(self) -> None:
        """Stop the clients. The reader stops last, because it has to read all that the others wrote."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._finishing.set()
        self._reader.join()

    def all_messages(self, queue: str) -> Iterator[dict[str, Any]]:
        """All messages of a queue, including claimed ones."""
        client = self.client()
        path = f"/v2/queues/{queue}/messages?echo=true&include_claimed=true&limit=20"
        while True:
            answer = client.ask("GET", path)
            assert answer is not None
            if not answer[1]["messages"]:
                client.close()
                return
            yield from answer[1]["messages"]
            path = answer[1]["links"][0]["href"]

    def _run(self, role: Callable[[Client, str], None], name: str) -> None:
        client = self.client()
        try:
            role(client, name)
        finally:
            client.close()

    def _produce(self, client: Client, name: str) -> None:
        counter = itertools.count()
        while not self._stopping.is_set():
            for queue in ("work", "news", "once"):
                bodies = [f"{queue}-{name}-{next(counter)}" for _ in range(random.randint(1, 5))]
                document = {"messages": [{"body": body, "ttl": CLAIM_SECONDS} for body in bodies]}
                answer = client.ask("POST", f"/v2/queues/{queue}/messages", document)
                if answer is None:
                    self.recorder.maybe_posted.append((queue, bodies))
                else:
                    ids = [href.rpartition("/")[2] for href in answer[1]["resources"]]
                    self.recorder.posted.append((queue, bodies, ids))

    def _consume(self, client: Client, name: str) -> None:
        terms = {"ttl": CLAIM_SECONDS, "grace": 60}
        while not self._stopping.is_set():
            asked = time.monotonic()
            answer = client.ask("POST", "/v2/queues/work/claims?limit=5", terms)
            if answer is None or answer[1] is None:
                continue
            begun = time.monotonic()
            messages = answer[1]["messages"]
            leases = [Lease(message["id"], message["body"], asked, begun) for message in messages]
            self.recorder.leases.extend(leases)
            # One message is left for the time after the release.
            for lease, message in list(zip(leases, messages, strict=True))[1:]:
                self._delete(client, lease, message["href"])
            leases[0].over = time.monotonic()
            claim_id = messages[0]["href"].rpartition("=")[2]
            client.ask("DELETE", f"/v2/queues/work/claims/{claim_id}")

    def _delete(self, client: Client, lease: Lease, href: str) -> None:
        lease.over = time.monotonic()
        if client.ask("DELETE", href) is None:
            self.recorder.maybe_deleted.append(lease.message_id)
        else:
            self.recorder.deleted.append((lease.message_id, time.monotonic()))

    def _pop(self, client: Client, name: str) -> None:
        while not self._stopping.is_set():
            answer = client.ask("DELETE", "/v2/queues/once/messages?pop=5")
            if answer is not None:
                self.recorder.popped.extend((message["id"], message["body"]) for message in answer[1]["messages"])

    def _read(self, client: Client, name: str) -> None:
        path = "/v2/queues/news/messages?echo=true&limit=20"
        while True:
            last_round = self._finishing.is_set()
            answer = client.ask("GET", path)
            if answer is None:
                if last_round and not self._server.answers():
                    return
                continue
            page = answer[1]
            if page["messages"]:
                self.recorder.pages.extend(message["body"] for message in page["messages"])
                path = page["links"][0]["href"]
            elif last_round:
                return
            else:
                time.sleep(0.02)
