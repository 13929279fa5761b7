# SPDX-License-Identifier: Apache-2.0
"""What encryption costs; see 0010-message-encryption.rst.

``python docs/decisions/measure_encryption.py`` measures sealing and opening alone. With ``--url`` and ``--pid`` of a
running service that has a key it also posts to an encrypted queue and to one that is not, in turns, over one
connection, and compares the CPU time of the service.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import time
import uuid
from urllib.parse import urlsplit

from zaqar.benchmarks import cpu
from zaqar.encryption.messages import MessageKeys

SIZES = (64, 1024, 16_384, 262_144)
UID = "0123456789abcdef01234567"
HEADERS = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": "measured", "Content-Type": "application/json"}


def micro() -> None:
    keys = MessageKeys([os.urandom(32)])
    print("bytes      seal us  open us   us per KiB (both)")
    for size in SIZES:
        body = b"x" * size
        times = []
        for _ in range(9):
            rounds = max(50, 20_000_000 // (size + 4000))
            begin = time.perf_counter()
            for _ in range(rounds):
                sealed = keys.seal(body, queue_uid=UID, project="p", now=1e9)
            middle = time.perf_counter()
            for _ in range(rounds):
                keys.open(sealed, project="p")
            times.append(((middle - begin) / rounds * 1e6, (time.perf_counter() - middle) / rounds * 1e6))
        seal, opened = (statistics.median(each) for each in zip(*times, strict=True))
        print(f"{size:7}  {seal:9.2f}{opened:9.2f}  {(seal + opened) / max(1, size / 1024):9.2f}")


def paired(url: str, pid: int, *, size: int, batches: int, posts: int) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    queues = {"plain": f"m{uuid.uuid4().hex}", "encrypted": f"m{uuid.uuid4().hex}"}

    def ask(method: str, path: str, body: object = None) -> None:
        connection.request(method, path, json.dumps(body) if body is not None else None, HEADERS)
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status}")

    for kind, queue in queues.items():
        ask("PUT", f"/v2/queues/{queue}", {"_enable_encrypt_messages": kind == "encrypted"})
    message = {"messages": [{"body": "x" * size, "ttl": 300}]}
    used: dict[str, list[float]] = {kind: [] for kind in queues}
    for number in range(batches):
        # Each first in turn, so that what grows meanwhile is the same for both.
        for kind in sorted(queues, reverse=bool(number % 2)):
            before = cpu.read_usage([pid])
            for _ in range(posts):
                ask("POST", f"/v2/queues/{queues[kind]}/messages", message)
            used[kind].append(cpu.spent(before, cpu.read_usage([pid])) / posts * 1e6)
    for queue in queues.values():
        ask("DELETE", f"/v2/queues/{queue}")
    differences = [one - other for one, other in zip(used["encrypted"], used["plain"], strict=True)]
    for kind, values in used.items():
        print(f"POST of {size} bytes, {kind}: {statistics.median(values):.1f} us of CPU (median of {batches} batches)")
    print(f"difference of the pairs: median {statistics.median(differences):.1f} us")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--pid", type=int, help="of zaqar-server; its children count as well")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--posts", type=int, default=200)
    options = parser.parse_args()
    if options.url:
        paired(options.url, options.pid, size=options.size, batches=options.batches, posts=options.posts)
    else:
        micro()
