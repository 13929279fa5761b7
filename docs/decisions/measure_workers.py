# SPDX-License-Identifier: Apache-2.0
"""CPU time per request of gunicorn's worker classes, and what slow clients do to them; the figures of decision 0002.

Run it with ``python docs/decisions/measure_workers.py`` where zaqar is installed. It takes about five minutes.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import falcon

REQUESTS, CONNECTIONS = 8_000, 8
DRIBBLE_SECONDS = 8.0
GET = b"GET / HTTP/1.1\r\nHost: here\r\nClient-ID: 3381af92-2b9e-11e3-b191-71861300734c\r\nX-Project-ID: p\r\n\r\n"
SLOW_HEADERS = GET
SLOW_BODY = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n"

WAYS = {
    "sync": ["--worker-class=sync"],
    "gthread, 1 thread": ["--worker-class=gthread", "--threads=1"],
    "gthread, 4 threads": ["--worker-class=gthread", "--threads=4"],
    "gthread, 16 threads": ["--worker-class=gthread", "--threads=16"],
    "gthread, 128 threads": ["--worker-class=gthread", "--threads=128"],
    "gevent": ["--worker-class=gevent"],
    "gevent, bounded (zaqar)": ["--worker-class=zaqar.cmd.server.gunicorn_worker.BoundedWorker"],
}


class Hello:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = b'{"hello": "world"}'

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = req.bounded_stream.read()


application = falcon.App()
application.add_route("/", Hello())


@contextmanager
def gunicorn(options: list[str], port: int) -> Iterator[int]:
    """A server of one worker; the pid of its master."""
    command = [sys.executable, "-m", "gunicorn", "--workers=1", "--keep-alive=30", f"--bind=127.0.0.1:{port}"]
    command += ["--log-level=error", "--no-control-socket", *options, f"{Path(__file__).stem}:application"]
    with subprocess.Popen(command, cwd=Path(__file__).parent) as process:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def cpu_seconds(master: int) -> float:
    """User and system time of the master and its worker."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    ticks = 0
    for pid in (str(master), *children):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def drive(port: int, requests: int) -> None:
    """Send requests over several connections, one at a time on each, kept alive where the server does so."""
    with selectors.DefaultSelector() as selector:

        def send(connection: socket.socket | None) -> None:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", port))
                selector.register(connection, selectors.EVENT_READ)
            connection.sendall(GET)

        for _ in range(CONNECTIONS):
            send(None)
        while requests > 0:
            for key, _ in selector.select():
                if b"close" in (answer := key.fileobj.recv(65_536)):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
                requests -= answer.startswith(b"HTTP/1.1 200")
                send(None if b"close" in answer else key.fileobj)
        for key in list(selector.get_map().values()):
            key.fileobj.close()


def measure_cpu(options: list[str], port: int) -> float:
    """Microseconds of CPU for one request: the best of three rounds, as other load only adds."""
    with gunicorn(options, port) as master:
        drive(port, 500)
        best = float("inf")
        for _ in range(3):
            before = cpu_seconds(master)
            drive(port, REQUESTS)
            best = min(best, cpu_seconds(master) - before)
    return best / REQUESTS * 1e6


def measure_slow(options: list[str], port: int, clients: int, head: bytes, tail: bytes) -> tuple[int, int]:
    """Requests of a normal client that were served and that were not within a second, while others dribble."""
    with gunicorn(options, port):
        slow = []
        for _ in range(clients):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(head)
            slow.append(connection)
        served = failed = sent = 0
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < DRIBBLE_SECONDS:
            while sent < elapsed:
                for connection in slow:
                    connection.sendall(tail[sent : sent + 1])
                sent += 1
            with closing(socket.socket()) as connection:
                connection.settimeout(1.0)
                try:
                    connection.connect(("127.0.0.1", port))
                    connection.sendall(GET)
                    served += connection.recv(100).startswith(b"HTTP/1.1 200")
                    time.sleep(0.05)
                except TimeoutError:
                    failed += 1
        for connection in slow:
            connection.close()
    return served, failed


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, closing(socket.socket()) as probe:
        os.chdir(scratch)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, options in WAYS.items():
        line = f"{name:24} {measure_cpu(options, port):6.0f} us"
        for clients in (8, 64):
            for what, head, tail in (("headers", b"", SLOW_HEADERS), ("body", SLOW_BODY, b"x" * 1000)):
                served, failed = measure_slow(options, port, clients, head, tail)
                line += f"  {clients} slow {what}: {served} ok {failed} late"
        print(line, flush=True)


if __name__ == "__main__":
    main()
