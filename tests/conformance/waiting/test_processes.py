# SPDX-License-Identifier: Apache-2.0
"""Clients that wait in another process, on one SQLite file, with threads and with gevent; and forks."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.waiting.processes import QUEUE_NAME, SECONDS, Process, build, until
from zaqar import conf
from zaqar.ipc import socket_files

HERE = Path(__file__).resolve()


class Other:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())

    def line(self) -> str:
        # Python starts slowly on a busy machine.
        return self._lines.get(timeout=3 * SECONDS)


@contextmanager
def waiting_in(folder: Path, kind: str) -> Iterator[Other]:
    """A process in which a client waits. It looks at the store once in an hour."""
    command = [sys.executable, "-m", "tests.conformance.waiting.other_process", str(folder), kind]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[3]
    ) as process:
        other = Other(process)
        try:
            assert other.line() == "ready"
            yield other
        finally:
            process.kill()


def list_sockets_again(process: Process) -> None:
    """Make the process list the sockets at the next post, as it does by itself after a second."""
    process.parts.hub._wakeup_sender._list_again = process.parts.hub.check_at = float("-inf")


@pytest.mark.parametrize("kind", ["threads", "gevent"])
def test_posts_releases_and_new_queues_of_another_process(kind: str, tmp_path: Path) -> None:
    here = Process(build(tmp_path))
    here.post("released")
    claim_id, _ = here.claim()
    folder = conf.waiters_dir(here.parts.conf)
    with waiting_in(tmp_path, kind) as other:
        until(lambda: len(socket_files.names(folder)) == 1)
        list_sockets_again(here)
        here.parts.claims.release(QUEUE_NAME, claim_id)
        assert other.line() == "released"
        for number in range(5):
            here.post(f"post {number}")
            assert other.line() == f"post {number}"
        here.parts.queues.delete(QUEUE_NAME)
        here.post("creates it anew")
        assert other.line() == "creates it anew"
        other.process.kill()
        other.process.wait(SECONDS)
    # The next post cannot reach its socket and removes the file.
    assert socket_files.names(folder)
    list_sockets_again(here)
    here.post("x")
    assert not socket_files.names(folder)
    here.parts.close()


def test_a_fork_while_clients_wait(tmp_path: Path) -> None:
    """The child uses neither the waiters nor the threads nor the socket of its parent, which goes on undisturbed."""
    command = [sys.executable, "-m", "tests.conformance.waiting.forked_process", str(tmp_path)]
    ended = subprocess.run(command, cwd=HERE.parents[3], timeout=60, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
