# SPDX-License-Identifier: Apache-2.0
"""What access costs a POST: with a Keystone token that is remembered, a signed URL, or an encrypted queue.

``python docs/decisions/measure_access.py`` sends the same request to four applications in this process, in turns, and
compares their CPU time with that of the one without authentication. The stores are in memory, and no HTTP server is
involved, so that the differences are those of the code alone. Needs the extras ``keystone`` and ``encryption``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zaqar import app, conf
from zaqar.access.identity import Answer, Identity
from zaqar.access.token_cache import key_of
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.transport.wsgi.app import make_app

PROJECT = "measured"
PATH = "/v2/queues/q/messages"
HEADERS = {"HTTP_CLIENT_ID": str(uuid.uuid4()), "HTTP_X_PROJECT_ID": PROJECT}
CONFIG = f"""
[transport]
message_encryption_key = {"k" * 32}
[signed_url]
secret_key = {"s" * 32}
[keystone_authtoken]
auth_type = password
auth_url = http://127.0.0.1:9/v3
username = zaqar
password = unused
user_domain_name = Default
project_domain_name = Default
project_name = service
"""

Post = Callable[[], None]


def make_post(body: bytes, *, keystone: bool = False, signed: bool = False, encrypted: bool = False) -> Post:
    loaded = conf.load()
    loaded.set_override("auth_strategy", "keystone" if keystone else "")
    parts = app.build(loaded, management=MemoryManagementStore(), messages=MemoryMessageStore())
    headers = dict(HEADERS)
    if parts.tokens is not None:
        identity = Identity(PROJECT, "ann", frozenset({"member", "reader"}), None, expires=time.time() + 3600)
        parts.tokens._cache.keep(key_of("t" * 180), Answer(identity, 3600.0))
        headers["HTTP_X_AUTH_TOKEN"] = "t" * 180
    if signed:
        expires = "2100-01-01T00:00:00"
        signature = parts.signed_urls.sign(project=PROJECT, paths=[PATH], methods=["POST"], expires=expires)
        headers |= {"HTTP_URL_SIGNATURE": signature, "HTTP_URL_PATHS": PATH}
        headers |= {"HTTP_URL_METHODS": "POST", "HTTP_URL_EXPIRES": expires}
    serve: Any = make_app(parts)
    call = _Call(serve, headers)
    if encrypted:
        call.expect("201", "PUT", "/v2/queues/q", b'{"_enable_encrypt_messages": true}')
    return lambda: call.expect("201", "POST", PATH, body)


class _Call:
    def __init__(self, serve: Any, headers: dict[str, str]) -> None:
        self._serve = serve
        self._headers = headers
        self._status = ""

    def _start(self, status: str, headers: object, exc_info: object = None) -> None:
        self._status = status

    def expect(self, status: str, method: str, path: str, body: bytes) -> None:
        env = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "RAW_URI": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            **self._headers,
        }
        b"".join(self._serve(env, self._start))
        if not self._status.startswith(status):
            raise RuntimeError(f"{method} {path}: {self._status}")


def measure(posts: dict[str, Post], *, rounds: int, count: int) -> dict[str, list[float]]:
    """Microseconds of CPU for each post, in blocks that take turns."""
    times: dict[str, list[float]] = {name: [] for name in posts}
    for _ in range(rounds):
        for name, post in posts.items():
            begin = time.process_time()
            for _ in range(count):
                post()
            times[name].append((time.process_time() - begin) / count * 1e6)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "zaqar.conf")
        config.write_text(CONFIG + f"[DEFAULT]\nstate_dir = {folder}\n")
        config.chmod(0o600)
        os.environ["ZAQAR_CONFIG_FILE"] = str(config)
        print("bytes  way          us  difference of the pairs (median)")
        for size in (20, 1024):
            body = json.dumps({"messages": [{"body": "x" * size, "ttl": 60}]}).encode()
            times = measure(
                {
                    "no auth": make_post(body),
                    "again": make_post(body),
                    "Keystone": make_post(body, keystone=True),
                    "signed URL": make_post(body, signed=True),
                    "encrypted": make_post(body, encrypted=True),
                },
                rounds=options.rounds,
                count=options.count,
            )
            for name, each in times.items():
                pairs = [one - base for one, base in zip(each, times["no auth"], strict=True)]
                print(f"{size:5}  {name:10}{statistics.median(each):6.1f}  {statistics.median(pairs):+6.2f}")


if __name__ == "__main__":
    main()
