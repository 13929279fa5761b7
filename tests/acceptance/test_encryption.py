# SPDX-License-Identifier: Apache-2.0
"""Keys are rotated while producers and consumers work: no client sees an error, and the old key can be removed."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.acceptance.server import HTTP_COMMAND, Server, free_port, start

HEADERS = {"Client-ID": "3381af92-2b9e-11e3-b191-71861300734c", "X-Project-ID": "p", "Content-Type": "application/json"}
OLD, NEW = "hex:" + "11" * 32, "hex:" + "22" * 32


class Client:
    """A client with a connection for each request, so that no idle connection breaks when its worker is replaced."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection(server.host, server.port, timeout=30)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        with closing(self._connection):
            self._connection.request(method, path, None if body is None else json.dumps(body), HEADERS)
            answer = self._connection.getresponse()
            content = answer.read()
        return answer.status, json.loads(content) if content else None


def configure(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["[transport]", *lines, ""]))


def reload(server: Server) -> None:
    """Send SIGHUP, and wait until new workers serve."""
    before = set(server.workers())
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while before & set(server.workers()) or not server.workers():
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.1)
    server.wait_until_ready()


def reencrypt(path: Path, state_dir: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "zaqar.cmd.gc", "--reencrypt", "--config-file", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={"ZAQAR_STATE_DIR": str(state_dir)}
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_keys_are_rotated_under_load_without_errors(tmp_path: Path) -> None:
    path = tmp_path / "zaqar.conf"
    configure(path, f"message_encryption_key = {OLD}")
    state_dir = tmp_path / "state"
    server = start(
        state_dir,
        port=free_port(),
        environment={"ZAQAR_CONFIG_FILE": str(path)},
        options=("--workers", "2"),
        command=HTTP_COMMAND,
    )
    stop = threading.Event()
    posted: list[int] = []
    got: list[int] = []
    wrong: list[object] = []

    def produce() -> None:
        client = Client(server)
        number = 0
        while not stop.is_set():
            number += 1
            status, answer = client.ask("POST", "/v2/queues/q/messages", {"messages": [{"body": number, "ttl": 600}]})
            if status == 201:
                posted.append(number)
            else:
                wrong.append((status, answer))
            time.sleep(0.01)

    def consume() -> None:
        client = Client(server)
        while not stop.is_set():
            status, answer = client.ask("POST", "/v2/queues/q/claims?limit=2", {"ttl": 300, "grace": 60})
            if status not in (201, 204):
                wrong.append((status, answer))
            for message in answer["messages"] if status == 201 else ():
                got.append(message["body"])
                status, answer = client.ask("DELETE", message["href"])
                if status != 204:
                    wrong.append((status, answer))
            time.sleep(0.03)

    threads = [threading.Thread(target=work) for work in (produce, consume)]
    try:
        client = Client(server)
        assert client.ask("PUT", "/v2/queues/q", {"_enable_encrypt_messages": True})[0] == 201
        # This message stays for the whole test, because no consumer claims from its queue.
        assert client.ask("PUT", "/v2/queues/kept", {"_enable_encrypt_messages": True})[0] == 201
        assert client.ask("POST", "/v2/queues/kept/messages", {"messages": [{"body": "old", "ttl": 600}]})[0] == 201
        for thread in threads:
            thread.start()
        # The steps of the guide.
        configure(path, f"message_encryption_key = {OLD}", f"message_encryption_old_keys = {NEW}")
        reload(server)
        configure(path, f"message_encryption_key = {NEW}", f"message_encryption_old_keys = {OLD}")
        reload(server)
        deadline = time.monotonic() + 120
        while (found := reencrypt(path, state_dir))[0] and time.monotonic() < deadline:
            time.sleep(0.2)
        assert found[0] == 0, found[1]
        configure(path, f"message_encryption_key = {NEW}")
        reload(server)
        time.sleep(0.5)
        stop.set()
        for thread in threads:
            thread.join(60)
        assert wrong == []
        assert len(posted) > 20
        _, left = client.ask("GET", "/v2/queues/q/messages?echo=true&include_claimed=true&limit=20")
        assert all("error" not in message for message in left["messages"])
        assert sorted(got) == posted[: len(got)]
        _, kept = client.ask("GET", "/v2/queues/kept/messages?echo=true")
        assert [message["body"] for message in kept["messages"]] == ["old"]
        # A configuration file that is invalid changes nothing.
        configure(path, "message_encryption_key = base64:AAAA")
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while "SIGHUP changes nothing" not in server.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        _, kept = client.ask("GET", "/v2/queues/kept/messages?echo=true")
        assert [message["body"] for message in kept["messages"]] == ["old"]
        assert "11" * 32 not in server.log.read_text()
        assert "22" * 32 not in server.log.read_text()
    finally:
        stop.set()
        server.close()
