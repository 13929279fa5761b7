# SPDX-License-Identifier: Apache-2.0
"""Serve live.html, and sign the URLs of its stream: python live.py [URL of Zaqar] [port] [seconds of a signature]"""

import json
import sys
import urllib.request
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

ZAQAR, PORT, SECONDS = (sys.argv[1:] + ["http://127.0.0.1:8888", "8000", "1800"][len(sys.argv) - 1 :])[:3]
MESSAGES = f"{ZAQAR}/v2/queues/greetings/messages"
# With Keystone: X-Auth-Token instead of X-Project-ID. The browser never gets to see the token.
HEADERS = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": "demo", "Content-Type": "application/json"}


def make_stream_url() -> str:
    """A URL that lets a browser read the queue, and nothing else, for some time."""
    expires = datetime.now(UTC) + timedelta(seconds=int(SECONDS))
    wanted = {"paths": ["messages"], "methods": ["GET"], "expires": expires.strftime("%Y-%m-%dT%H:%M:%S")}
    url = MESSAGES.removesuffix("messages") + "share"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(wanted).encode(), HEADERS)) as answer:
        shared = json.load(answer)
    query = {name: shared[name] for name in ("signature", "expires", "project")}
    query |= {name: ",".join(shared[name]) for name in ("paths", "methods")}
    return f"{MESSAGES}?{urlencode(query)}"


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        # A real site looks here whether the visitor is logged in and may read the queue.
        if self.path == "/stream-url":
            self.answer("text/plain", make_stream_url().encode())
        elif self.path == "/":
            self.answer("text/html", Path(__file__).with_name("live.html").read_bytes())
        else:
            self.send_error(404)

    def answer(self, media_type: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"{media_type}; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(PORT)), Site).serve_forever()
