# SPDX-License-Identifier: Apache-2.0
"""Traces by osprofiler, for requests that are signed with the key and for no others."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests

from tests import servers
from tests.acceptance.server import HTTP_COMMAND, running

KEY = "key-of-the-operator"


def trace_headers(key: str, base_id: str) -> dict[str, str]:
    """The headers that clients of OpenStack send with ``--os-profile``."""
    info = json.dumps({"base_id": base_id, "parent_id": base_id, "hmac_key": key}).encode()
    packed = base64.urlsafe_b64encode(info)
    return {"X-Trace-Info": packed.decode(), "X-Trace-HMAC": hmac.new(key.encode(), packed, hashlib.sha1).hexdigest()}


def test_a_signed_request_is_traced(tmp_path: Path) -> None:
    redis: Any = pytest.importorskip("redis")
    uri = servers.shared("redis").uri
    config = tmp_path / "zaqar.conf"
    config.write_text(
        f"[profiler]\nenabled = True\ntrace_wsgi_transport = True\nhmac_keys = other,{KEY}\nconnection_string = {uri}\n"
    )
    signed, forged = str(uuid.uuid4()), str(uuid.uuid4())
    with running(tmp_path / "state", options=("--config-file", str(config)), command=HTTP_COMMAND) as server:
        headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": "p"}
        for more in (trace_headers(KEY, signed), trace_headers("SECRET_KEY", forged), {"X-Trace-Info": "x"}, {}):
            path = f"{server.url}/v2/queues/q/messages"
            answer = requests.post(path, json={"messages": [{"body": 1}]}, headers={**headers, **more}, timeout=30)
            assert answer.status_code == 201
        assert len(requests.get(f"{path}?echo=true", headers=headers, timeout=30).json()["messages"]) == 4
        assert "osprofiler" not in server.log.read_text()
    with redis.Redis.from_url(uri) as store:
        keys = [key.decode() for key in store.keys("osprofiler*")]
        traced = [json.loads(text) for key in keys if signed in key for text in store.lrange(key, 0, -1)]
    assert {point["name"] for point in traced} == {"wsgi-start", "wsgi-stop"}
    (begin,) = [point["info"]["request"] for point in traced if point["name"] == "wsgi-start"]
    assert (begin["method"], begin["path"]) == ("POST", "/v2/queues/q/messages")
    assert not any(forged in key for key in keys)
