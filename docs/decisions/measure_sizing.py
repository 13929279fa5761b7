# SPDX-License-Identifier: Apache-2.0
"""Memory of the processes of a service, space of messages and deliveries in its store, and CPU of notifications.

``python docs/decisions/measure_sizing.py`` starts ``zaqar-server`` with a state directory and ports of its own, and
prints

* the memory of each process after the start and after the posts. Pages that processes share are divided among them
  (PSS);
* by how much the store has grown for each message, after posts of 100 messages of 1 KiB. By default the store is SQLite
  in the state directory. For another store ``--config-file`` names it, and ``--size`` is a command that prints its size
  in bytes;
* the CPU time of the notifier for each notification, and by how much the store has grown for each, after
  ``--deliveries`` messages have gone to a webhook on this machine that answers at once.

It needs Linux, for ``/proc``.
"""

from __future__ import annotations

import argparse
import base64
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

START_SECONDS = 60.0
OF_ONE_POST = 100
BODY_SIZE = 1022
"""With its quotes such a body is 1 KiB of JSON. It is random, because some stores compress."""
CONFIG = """
[notification]
webhook_allowed_networks = 127.0.0.0/8
"""
HEADERS = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": "space", "Content-Type": "application/json"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, method: str, document: object = None) -> None:
    data = None if document is None else json.dumps(document).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, HEADERS, method=method), timeout=60) as answer:
        answer.read()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return ask(f"{url}/v2/ping", "GET")
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def processes_below(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += processes_below(int(child))
    return found


def print_memory(pid: int, moment: str) -> None:
    print(f"\nMemory {moment}, MiB:")
    for each in processes_below(pid):
        words = Path(f"/proc/{each}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        pss = re.search(r"^Pss: +(\d+)", Path(f"/proc/{each}/smaps_rollup").read_text(), re.MULTILINE)
        assert pss
        print(f"  {int(pss[1]) / 1024:6.1f}  {words.strip()[:100]}")


def cpu_seconds_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Sink(http.server.BaseHTTPRequestHandler):
    """A webhook that answers at once and counts."""

    protocol_version = "HTTP/1.1"
    count = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response_only(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        Sink.count += 1


def print_deliveries(
    url: str, pid: int, messages: int, rate: float, size: Callable[[], int], of_message: float
) -> None:
    sink = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    [notifier] = [
        each for each in processes_below(pid) if b"zaqar.cmd.notifier" in Path(f"/proc/{each}/cmdline").read_bytes()
    ]
    ask(f"{url}/v2/queues/sent", "PUT")
    ask(f"{url}/v2/queues/sent/subscriptions", "POST", {"subscriber": f"http://127.0.0.1:{sink.server_port}/"})
    before, began, cpu = size(), time.monotonic(), cpu_seconds_of(notifier)
    if rate:
        for number in range(messages):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            post(f"{url}/v2/queues/sent/messages", 1)
    else:
        post(f"{url}/v2/queues/sent/messages", messages)
    while Sink.count < messages:
        time.sleep(0.1)
    seconds = time.monotonic() - began
    # The notifier stores the last outcomes.
    time.sleep(1)
    used = cpu_seconds_of(notifier) - cpu
    print(f"\n{messages} notifications, from the first post to the last arrival: {seconds:.1f} s.")
    print(f"CPU of the notifier for each: {used / messages * 1e6:.0f} us.")
    print(f"Space of each, beside its message: {(size() - before) / messages - of_message:.0f} bytes.")


def post(url: str, messages: int) -> None:
    for start in range(0, messages, OF_ONE_POST):
        count = min(OF_ONE_POST, messages - start)
        bodies = [base64.b64encode(os.urandom(BODY_SIZE))[:BODY_SIZE].decode() for _ in range(count)]
        ask(url, "POST", {"messages": [{"body": body, "ttl": 3600} for body in bodies]})


def size_of(state_dir: Path, command: str | None) -> int:
    if command:
        return int(subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout)
    return sum(path.stat().st_size for path in state_dir.glob("zaqar.db*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", action="append", default=[], help="configuration of the service")
    parser.add_argument("--size", help="a shell command that prints the size of the store in bytes")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--deliveries", type=int, default=5_000)
    parser.add_argument("--rate", type=float, default=0, help="post so many of these a second, each in its own request")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [str(Path(sys.executable).with_name("zaqar-server")), "--state-dir", folder]
        command += ["--bind", f"127.0.0.1:{port}", "--websocket-bind", f"127.0.0.1:{free_port()}"]
        command += ["--workers", options.workers]
        allowed = Path(folder) / "allowed.conf"
        allowed.write_text(CONFIG)
        command += [word for name in (*options.config_file, allowed) for word in ("--config-file", str(name))]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_for(url)
            ask(f"{url}/v2/queues/space", "PUT")
            print_memory(server.pid, "after the start")
            size = partial(size_of, Path(folder), options.size)
            before = size()
            post(f"{url}/v2/queues/space/messages", options.messages)
            of_message = (size() - before) / options.messages
            print_memory(server.pid, "after the posts")
            print(f"\nSpace of a message of 1 KiB: {of_message:.0f} bytes.")
            print_deliveries(url, server.pid, options.deliveries, options.rate, size, of_message)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


if __name__ == "__main__":
    main()
