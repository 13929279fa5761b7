# SPDX-License-Identifier: Apache-2.0
"""The service as a user runs it: ``zaqar-server`` as a process, on a free loopback port."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.servers import free_port

HTTP_COMMAND = (sys.executable, "-m", "zaqar.cmd.server.main", "--no-websocket")
"""For tests without WebSocket: each process of a server takes half a second of CPU to start."""

COMMAND = (sys.executable, "-m", "zaqar.cmd.server.main", "--websocket-bind", "127.0.0.1:0")
"""The WebSocket port is any free one, because several servers may run on one machine. The banner names it."""

START_SECONDS = 150.0
STOP_SECONDS = 150.0

T = TypeVar("T")


@dataclass
class Server:
    """A running service. ``process`` was started; it keeps the parts running, and they their workers."""

    host: str
    port: int
    state_dir: Path
    log: Path
    process: subprocess.Popen[bytes]
    mounted_at: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}{self.mounted_at}"

    @property
    def websocket_url(self) -> str:
        """The URL of the WebSocket API, from the last banner. Waits until it is there."""
        found = wait_until(lambda: re.findall(r" (ws://[\d.]+:\d+)\.", self.log.read_text()), seconds=START_SECONDS)
        return found[-1]

    def part(self, module: str) -> int:
        """The process of the part that runs this module, such as ``zaqar.cmd.websocket``."""
        (pid,) = self.parts(module)
        return pid

    def parts(self, module: str) -> list[int]:
        """The same as a list, which is empty while the part is being restarted."""
        return [part for part in children(self.process.pid) if f"\0{module}\0" in _command_line(part)]

    def processes(self) -> list[int]:
        """The started process and everything below it, parents first."""
        return [self.process.pid, *_descendants(self.process.pid)]

    def workers(self) -> list[int]:
        """The processes that serve requests."""
        below_parts = [pid for part in children(self.process.pid) for pid in children(part)]
        return [pid for pid in below_parts if "resource_tracker" not in _command_line(pid)]

    def masters(self) -> list[int]:
        """The processes that supervise those workers."""
        return [part for part in children(self.process.pid) if children(part)]

    def resident_bytes(self) -> int:
        """Memory of all processes together."""
        return sum(_resident_bytes(pid) for pid in self.processes())

    def answers(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=STOP_SECONDS)
        try:
            connection.request("GET", f"{self.mounted_at}/")
            return connection.getresponse().status == 300
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert self.process.poll() is None, f"the server has ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"the server does not answer:\n{self.log.read_text()}"
            time.sleep(0.05)

    def terminate(self) -> int:
        """Send SIGTERM to the started process alone, as a service supervisor does. Returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Send SIGKILL to all processes, parents first so that none is replaced. Returns when the last one is gone."""
        pids = self.processes()
        kill(pids)
        self.process.wait(STOP_SECONDS)
        wait_until_gone(pids)

    def close(self) -> None:
        if self.process.poll() is None:
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                self.kill()
                raise


def start(
    state_dir: Path,
    *,
    port: int = 0,
    options: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    command: tuple[str, ...] = COMMAND,
) -> Server:
    """Start ``zaqar-server`` with its data in ``state_dir`` and wait until it answers. Its log is beside it."""
    port = port or free_port()
    log = state_dir.with_name(f"{state_dir.name}.log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--bind", f"127.0.0.1:{port}", "--state-dir", str(state_dir), *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    mounted_at = (environment or {}).get("SCRIPT_NAME", "")
    server = Server("127.0.0.1", port, state_dir, log, process, mounted_at)
    try:
        server.wait_until_ready()
    except BaseException:
        if process.poll() is None:
            server.kill()
        raise
    return server


@contextmanager
def running(
    state_dir: Path,
    *,
    options: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    command: tuple[str, ...] = COMMAND,
) -> Iterator[Server]:
    server = start(state_dir, options=options, environment=environment, command=command)
    try:
        yield server
    finally:
        server.close()


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], T], *, seconds: float = START_SECONDS, every: float = 0.05) -> T:
    """Wait until the condition is true. Returns its value, or fails if that takes too long."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(every)
    return found


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while left := [pid for pid in pids if _is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {[_command_line(pid) for pid in left]}"
        time.sleep(0.01)


def _descendants(pid: int) -> list[int]:
    found = []
    for child in children(pid):
        found += [child, *_descendants(child)]
    return found


def children(pid: int) -> list[int]:
    try:
        tasks = [task.name for task in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(child) for task in tasks for child in _read(f"/proc/{pid}/task/{task}/children").split())


def _read(path: str) -> str:
    # A process can end between the listing and this look at it.
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _command_line(pid: int) -> str:
    return _read(f"/proc/{pid}/cmdline")


def _is_alive(pid: int) -> bool:
    state = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return bool(state) and state[0] != "Z"


def _resident_bytes(pid: int) -> int:
    statm = _read(f"/proc/{pid}/statm").split()
    return int(statm[1]) * os.sysconf("SC_PAGE_SIZE") if statm else 0
