# SPDX-License-Identifier: Apache-2.0
"""A producer or worker that runs until SIGTERM and records its requests and answers. ``test_waiting_live`` kills it.

``python waiting_client.py produce|work HOST PORT PROJECT QUEUE NUMBER PACE FILE``

Each note is a line of JSON that is written at once, so a process that is killed leaves all its notes. Times are of the
monotonic clock, which all processes of a host share. It needs nothing but Python, so it starts quickly.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import signal
import sys
import time
import uuid
from typing import Any

TTL = 300
DELAY = 1
"""The delay of some messages, in seconds."""

ANSWER_SECONDS = 30.0

_is_ending = False


def end(*_: object) -> None:
    global _is_ending
    _is_ending = True


class Caller:
    """Makes requests over one connection. If that is lost, it opens another one."""

    def __init__(self, host: str, port: int, project: str, file: str) -> None:
        self._host, self._port = host, port
        self._headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project}
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._connection: http.client.HTTPConnection | None = None

    def note(self, kind: str, **values: Any) -> float:
        """Write an entry. Returns its time."""
        now = time.monotonic()
        os.write(self._file, json.dumps({"kind": kind, "at": now, **values}).encode() + b"\n")
        return now

    def ask(self, method: str, path: str, document: Any = None) -> Any:
        """The answer, {} if it has no body, and None for a 503 or if there was no answer."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_SECONDS)
        try:
            self._connection.request(method, path, json.dumps(document) if document else None, self._headers)
            response = self._connection.getresponse()
            status, raw = response.status, response.read()
        except (OSError, http.client.HTTPException):
            status, raw = 0, b""
        else:
            if (status >= 300 and status != 503) or (response.headers["Retry-After"] is not None and status < 300):
                self.note("wrong", answer=[method, path, status, raw.decode()])
        if not 200 <= status < 300:
            self._connection.close()
            self._connection = None
            time.sleep(0.02)
            return None
        return json.loads(raw) if raw else {}


def produce(caller: Caller, queue: str, number: int, pace: float) -> None:
    """Post one to three messages at a time, with a pause of up to twice ``pace`` seconds."""
    # A producer that replaces a killed one posts other bodies.
    run = time.monotonic_ns()
    for count in itertools.count():
        if _is_ending:
            return
        delay = random.choice((0, 0, 0, DELAY))
        bodies = [f"{number}.{run}.{count}.{n}" for n in range(random.randint(1, 3))]
        caller.note("post", bodies=bodies, delay=delay)
        messages = [{"body": body, "ttl": 3600, "delay": delay} for body in bodies]
        answer = caller.ask("POST", f"/v2/queues/{queue}/messages", {"messages": messages})
        if answer is not None:
            caller.note("posted", ids=[href.rpartition("/")[2] for href in answer["resources"]])
        time.sleep(random.uniform(0.0, 2 * pace))


def work(caller: Caller, queue: str, number: int, pace: float) -> None:
    """Claim with ``wait``, then delete the messages or, now and then, release them."""
    path = f"/v2/queues/{queue}"
    while not _is_ending:
        wait, limit = random.choice((1, 3)), random.randint(1, 3)
        caller.note("claim", wait=wait)
        answer = caller.ask("POST", f"{path}/claims?limit={limit}&wait={wait}", {"ttl": TTL, "grace": 60})
        if answer is None:
            caller.note("lost")
            continue
        if not answer:
            caller.note("empty")
            continue
        messages = answer["messages"]
        claim_id = messages[0]["href"].rpartition("=")[2]
        caller.note("claimed", claim=claim_id, messages=[[each["id"], each["body"]] for each in messages])
        time.sleep(random.uniform(0.0, min(pace, 0.2)))
        if random.random() < 0.2:
            caller.note("release", claim=claim_id)
            if caller.ask("DELETE", f"{path}/claims/{claim_id}") is not None:
                caller.note("released", claim=claim_id)
            continue
        for message in messages:
            caller.note("delete", body=message["body"])
            if caller.ask("DELETE", message["href"]) is not None:
                caller.note("deleted", body=message["body"])


def main() -> None:
    role, host, port, project, queue, number, pace, file = sys.argv[1:]
    signal.signal(signal.SIGTERM, end)
    caller = Caller(host, int(port), project, file)
    {"produce": produce, "work": work}[role](caller, queue, int(number), float(pace))


if __name__ == "__main__":
    main()
