# SPDX-License-Identifier: Apache-2.0
"""The examples of the WebSocket reference: a request for each action, carried out by the real session in memory.

The page shows what :func:`run` returns, and ``tests/api/test_websocket_reference.py`` runs the same. Ids, which differ
from run to run, are replaced by others of their form, and the time stands still.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from zaqar import app, conf
from zaqar.model import DEAD, QUEUE, Attempt, Delivery, QueueName
from zaqar.storage.base.nodes import Node
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.websocket.action import Action
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.asyncapi_messages import CLIENT, PROJECT
from zaqar.transport.websocket.session import Session

NOW = 1_893_456_000.0
"""2030-01-01T00:00:00Z."""

# The examples of pools make a store, whose log of migrations is of no use here.
logging.getLogger("alembic").setLevel(logging.WARNING)

OTHER_CLIENT = "98e1f4a6-2b9e-11e3-b191-71861300734d"
WEBHOOK = "http://192.0.2.1/hook"

Json = Mapping[str, Any]


class Example(NamedTuple):
    """The bodies of a request and of its reply as the page shows them, and the status."""

    request: Any
    status: int
    reply: Any


class Service:
    """A service in memory. :meth:`prepare` makes the queues, messages and so on that an example names."""

    def __init__(self, folder: Path, *, form: str = "json") -> None:
        configuration = conf.load([], default_config_files=[])
        for name, value in (
            ("state_dir", str(folder)),
            ("admin_mode", True),
            ("pooling", True),
            ("pooling:catalog__enable_virtual_pool", True),
            ("notification__webhook_allowed_networks", ["192.0.2.0/24"]),
            ("signed_url__secret_key", "k" * 32),
        ):
            group, _, option = name.rpartition("__")
            configuration.set_override(option, value, group or None)
        self._parts = app.build(
            configuration, clock=lambda: NOW, management=MemoryManagementStore(), messages=MemoryMessageStore()
        )
        self.session = Session(self._parts, connection=uuid.uuid4().hex)
        self._folder = folder
        self._form = form

    def close(self) -> None:
        self.session.streams.close()
        self._parts.hub.drain()
        self._parts.close()

    def signature(self, path: str, method: str) -> dict[str, Any]:
        """The headers of a pre-signed URL."""
        expires = "2030-01-02T00:00:00"
        signature = self._parts.signed_urls.sign(project=PROJECT, paths=[path], methods=[method], expires=expires)
        return {"URL-Signature": signature, "URL-Paths": [path], "URL-Methods": [method], "URL-Expires": expires}

    def ask(
        self, action: str, body: Json | None, *, client: str = CLIENT, headers: Json | None = None
    ) -> tuple[int, Any]:
        """Send a frame and return the status and body of its reply. ``headers`` are added to those of the frame."""
        headers = {"Client-ID": client, "X-Project-ID": PROJECT, "X-Roles": "admin", **(headers or {})}
        if action == "authenticate":
            headers["X-Auth-Token"] = "gAAAAA..."
        frame: dict[str, Any] = {"action": action, "headers": headers}
        if body is not None:
            frame["body"] = body
        text: str | bytes = json.dumps(frame) if self._form == "json" else msgpack.packb(frame)
        reply = self.session.answer(self.session.read(text))
        answer = json.loads(reply.frame) if isinstance(reply.frame, str) else msgpack.unpackb(reply.frame)
        return answer["headers"]["status"], answer["body"]

    def prepare(self, action: Action) -> dict[str, Any]:
        """Make the objects that the example of an action names. Returns the body of the example with their ids."""
        body = dict(action.example)
        if action.name == "queue_create":
            return body
        self._made("queue_create", {"queue_name": "greetings"})
        if "topic_name" in action.fields and action.name != "topic_create":
            self._made("topic_create", {"topic_name": "news", "metadata": {"_default_message_ttl": 3600}})
            self._made("message_post", {"topic_name": "news", "messages": [{"body": {"to": "all"}}]})
        drafts = [{"body": {"to": name}, "ttl": 3600} for name in ("ann", "bob", "eve")]
        posted = {"queue_name": "greetings", "messages": drafts}
        ids = self._made("message_post", posted, client=OTHER_CLIENT)["message_ids"]
        if "message_id" in body:
            body["message_id"] = ids[0]
        if "message_ids" in body:
            body["message_ids"] = ids[: len(body["message_ids"])]
        if "claim_id" in body:
            body["claim_id"] = self._made("claim_create", {"queue_name": "greetings", "limit": 1})["claim_id"]
        if "subscription_id" in body or action.name == "subscription_list":
            # A webhook, as only those have a secret.
            wanted = {"queue_name": "greetings", "subscriber": WEBHOOK, "ttl": 86400}
            made = self._made("subscription_create", wanted)["subscription_id"]
            if "subscription_id" in body:
                body["subscription_id"] = made
            if action.name.startswith("delivery_") or action.name == "subscription_resend":
                delivery = self._give_up_delivery(made)
                body |= {"delivery_id": delivery} if "delivery_id" in body else {}
        if action.name in ("stream_credit", "stream_close"):
            self._made("stream_open", {"queue_name": "greetings", "credit": 1})
        self._prepare_pools(action, body)
        return body

    def prepare_node(self) -> None:
        """Store a node, so that the connection can subscribe."""
        node = Node("0" * 32, "here", "localhost", 0, "", NOW + 20, b"key")
        self._parts.management.nodes.add(node=node)
        self._parts.connection_subscriptions.serve_as(node.id)

    def _prepare_pools(self, action: Action, body: dict[str, Any]) -> None:
        noun, _, verb = action.name.partition("_")
        if noun not in ("pool", "flavor"):
            return
        if verb != "create" or noun == "flavor":
            self._made("pool_create", {"pool_name": "gold", "uri": self._uri(), "weight": 100})
        if noun == "flavor" and verb != "create":
            self._made("flavor_create", {**ACTIONS["flavor_create"].example})
        if "uri" in body:
            # A store that exists. The page shows the URI of the example instead.
            body["uri"] = self._uri()

    def _uri(self) -> str:
        return f"sqlite:///{self._folder}/gold.db"

    def _made(self, action: str, body: Json, *, client: str = CLIENT) -> Any:
        status, answer = self.ask(action, body, client=client)
        if status not in (200, 201, 204):
            raise RuntimeError(f"{action}: {status} {answer}")
        return answer

    def _give_up_delivery(self, subscription_id: str) -> str:
        """Make a dead delivery, as a notifier does after its last attempt, and return its id."""
        self._made("message_post", {"queue_name": "greetings", "messages": [{"body": {"to": "joe"}, "ttl": 3600}]})
        known = self._parts.queues.find(QueueName(PROJECT, QUEUE, "greetings"), create=False)
        if known is None:
            raise RuntimeError("the queue is gone")
        store = known.store_ref.store
        (posted,) = store.outbox.take(owner="n", until=NOW + 60, now=NOW, limit=10)
        draft, uid = posted.drafts[0], posted.queue_uid
        delivery = Delivery(
            uid, subscription_id, posted.first, draft.body, draft.ttl, posted.created, posted.client_id, NOW
        )
        store.outbox.expand(posted=posted, deliveries=[delivery], position=None, until=NOW)
        (taken,) = store.deliveries.take(owner="n", until=NOW + 60, now=NOW, limit=10, most_of_one=10, without=())
        attempts = (Attempt(NOW, 503, 0.021, "Service Unavailable"),)
        dead = replace(taken, state=DEAD, tries=20, attempts=attempts, keep_until=NOW + 1000)
        store.deliveries.settle(owner="n", settled=[dead], now=NOW)
        return str(dead.id)


@contextmanager
def service(*, form: str = "json") -> Iterator[Service]:
    # The thread that listens for other processes may remove its socket at the same time.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made = Service(Path(folder), form=form)
        try:
            yield made
        finally:
            made.close()


def run(action: Action, *, form: str = "json", own: bool = False) -> Example:
    """Carry out the example of an action, on a service that has the objects that it names.

    If ``own`` is true, the example of ``subscription_create`` has no subscriber, so the connection subscribes itself.
    """
    with service(form=form) as made:
        body = made.prepare(action)
        if own:
            made.prepare_node()
            del body["subscriber"]
        status, answer = made.ask(action.name, body or None)
    shown = dict(body)
    if "uri" in shown:
        shown["uri"] = action.example["uri"]
    return Example(mask(shown), status, mask(answer))


_MASKS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"whsec_[\w+/=-]+"), lambda _: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    (re.compile(r"sqlite:///\S+\.db"), lambda _: str(ACTIONS["pool_create"].example["uri"])),
    # The id of a message: the queue and a sequence number.
    (re.compile(r"\b[0-9a-f]{24}([0-9a-f]{12})\b"), lambda match: f"3f6c2a9e51d84b07a1c95e2d{match[1]}"),
    (re.compile(r"\b[0-9a-f]{64}\b"), lambda _: "6b8a3c1f0d5e4927" * 4),
    (re.compile(r"\b[0-9a-f]{32}\b"), lambda _: "51db6f78c52511e7a1c95e2d7f80b463"),
    (re.compile(r"\b[0-9a-f]{24}\b"), lambda _: "5f1c9a7b0e2d4c6f8a1b3d5e"),
)


def mask(value: Any) -> Any:
    """A copy with fixed ids, secrets and durations, so that the page is the same after each build."""
    if isinstance(value, Mapping):
        return {mask(name): 0.001 if name == "seconds" else mask(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [mask(inner) for inner in value]
    if isinstance(value, str):
        for pattern, shown in _MASKS:
            value = pattern.sub(shown, value)
    return value
