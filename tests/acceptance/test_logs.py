# SPDX-License-Identifier: Apache-2.0
"""The log of a running server as machines read it: JSON, with the id of a request from the post to the delivery."""

from __future__ import annotations

import json
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from tests.acceptance.server import COMMAND, Server, running, wait_until

SECRET = "planted-0123456789-secret"
CONF = f"""
[DEFAULT]
debug = true
[logging]
format = json
access = all
[signed_url]
secret_key = {SECRET}
[notification]
webhook_allowed_networks = 127.0.0.0/8
"""


def records_of(server: Server) -> list[dict[str, Any]]:
    """The records so far. The banner and the sentences of the supervisor are for people."""
    lines = server.log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def request(server: Server, path: str, body: object) -> str:
    """Send a POST. Returns the id of the request."""
    headers = {
        "Client-ID": str(uuid.uuid4()),
        "X-Project-ID": "demo",
        "X-Auth-Token": SECRET,
        "Content-Type": "application/json",
    }
    sent = urllib.request.Request(server.url + path, json.dumps(body).encode(), headers, method="POST")
    with urllib.request.urlopen(sent, timeout=60) as answer:
        return str(answer.headers["X-OpenStack-Request-ID"])


def test_one_search_finds_the_post_and_its_delivery(tmp_path: Path) -> None:
    """The subscriber cannot be reached, so the notifier logs the attempt."""
    config = tmp_path / "zaqar.conf"
    config.write_text(CONF)
    with running(tmp_path / "state", command=COMMAND, options=("--config-file", str(config))) as server:
        options = {"post_headers": {"X-Key": SECRET}}
        subscription = {"subscriber": "http://127.0.0.1:9/hook", "ttl": 3600, "options": options}
        request(server, "/v2/queues/q/subscriptions", subscription)
        request_id = request(server, "/v2/queues/q/messages", {"messages": [{"body": SECRET, "ttl": 300}]})

        def found() -> dict[str, dict[str, Any]]:
            mine = [record for record in records_of(server) if record.get("request_id") == request_id]
            parts = {record["part"]: record for record in mine if record["part"] == "notifier" or "route" in record}
            return parts if len(parts) == 2 else {}

        api, notifier = (wait_until(found)[part] for part in ("api", "notifier"))
    assert (api["method"], api["route"], api["status"]) == ("POST", "/v2/queues/{queue_name}/messages", 201)
    assert (api["project"], api["queue"]) == ("demo", "q")
    assert 0 < api["seconds"] < 60
    assert notifier["delivery"]
    assert notifier["subscription"]
    assert {record["part"] for record in records_of(server)} >= {"api", "notifier"}
    assert SECRET not in server.log.read_text()
