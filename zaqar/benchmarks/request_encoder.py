# SPDX-License-Identifier: Apache-2.0
"""Encodes requests of the Messaging API v2 as bytes, and reads ids and links from its answers."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from zaqar.benchmarks.http_client import Answer, Endpoint

Draft = Mapping[str, Any]

BODY_BYTES = 1024
MESSAGE_TTL = 3600


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def make_body(size: int = BODY_BYTES) -> dict[str, Any]:
    """A body that resembles an event. Its compact JSON has ``size`` bytes, or more if the fields need more."""
    body: dict[str, Any] = {
        "event": "object.created",
        "number": 7,
        "weight": 0.25,
        "tags": ["a", "b"],
        "owner": {"name": "bench", "active": True},
        "text": "",
    }
    body["text"] = "x" * (size - len(encode(body)))
    return body


def make_name() -> str:
    """A random queue name, which no other client uses."""
    return f"bench-{secrets.token_hex(6)}"


def next_page(page: Answer) -> str | None:
    """The path of the ``next`` link; None if the page has none."""
    links = json.loads(page.body)["links"]
    return next((link["href"] for link in links if link["rel"] == "next"), None)


def hrefs(answer: Answer) -> list[str]:
    """The paths of the messages in a claim or a listing."""
    return [message["href"] for message in json.loads(answer.body)["messages"]] if answer.body else []


def resources(posted: Answer) -> list[str]:
    """The paths of the messages that a POST stored."""
    return list(json.loads(posted.body)["resources"])


@dataclass(frozen=True, slots=True)
class RequestEncoder:
    """Encodes the requests of one client of one project to one server."""

    endpoint: Endpoint
    project: str
    token: str | None = None
    client_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.endpoint.host_header}",
            "Accept: application/json",
            f"Client-ID: {self.client_id}",
            f"X-Project-ID: {self.project}",
        ]
        if self.token is not None:
            lines.append(f"X-Auth-Token: {self.token}")
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def create(self, queue: str, metadata: Mapping[str, Any]) -> bytes:
        return self.request("PUT", f"/v2/queues/{queue}", encode(metadata))

    def drop(self, queue: str) -> bytes:
        return self.request("DELETE", f"/v2/queues/{queue}")

    def post(self, queue: str, drafts: Sequence[Draft]) -> bytes:
        return self.request("POST", f"/v2/queues/{queue}/messages", encode({"messages": drafts}))

    def page(self, queue: str, *, limit: int) -> bytes:
        """The request for the first page of a listing. :func:`next_page` gives the path of the page after it."""
        return self.get(f"/v2/queues/{queue}/messages?limit={limit}")

    def get(self, path: str) -> bytes:
        return self.request("GET", path)

    def claim(self, queue: str, *, limit: int, ttl: int = 300, grace: int = 60) -> bytes:
        return self.request("POST", f"/v2/queues/{queue}/claims?limit={limit}", encode({"ttl": ttl, "grace": grace}))

    def delete(self, href: str) -> bytes:
        """The request to delete a message by its path. The href of a claimed message has the id of the claim."""
        return self.request("DELETE", href)

    def delete_claimed(self, queue: str, claimed: Sequence[str]) -> bytes:
        """The request to delete the messages of one claim, by their hrefs."""
        ids, claim_ids = [], set()
        for href in claimed:
            path, _, query = href.partition("?claim_id=")
            ids.append(path.rpartition("/")[2])
            claim_ids.add(query)
        query = urlencode({"ids": ",".join(ids), "claim_ids": ",".join(claim_ids)}, safe=",")
        return self.request("DELETE", f"/v2/queues/{queue}/messages?{query}")
