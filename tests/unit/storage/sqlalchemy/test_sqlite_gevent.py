# SPDX-License-Identifier: Apache-2.0
"""In a process that gevent has patched, as workers of gunicorn are, who waits for SQLite's locks lets others work."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from zaqar.storage.sqlalchemy.connection import Database

WORKER = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.sqlalchemy.connection import Database

uri, kind, patience = sys.argv[1], sys.argv[2], 1.0
longest = 0.0

def work():
    global longest
    import time
    last = time.monotonic()
    while True:
        gevent.sleep(0.01)
        now = time.monotonic()
        longest, last = max(longest, now - last), now

def refused(transaction):
    try:
        with transaction:
            pass
    except (StartupError, StoreUnavailable):
        return
    raise AssertionError("the file is not locked")

def start():
    try:
        Database.open(uri, embedded=True, patience=patience)
    except StartupError:
        return
    raise AssertionError("the file is not locked")

gevent.spawn(work)
gevent.sleep(0)
if kind == "start":
    waiting = [gevent.spawn(start)]
else:
    sys.stdin.readline()
    database = Database.open(uri, embedded=True, patience=patience)
    print("open", flush=True)
    sys.stdin.readline()
    transactions = {"write": lambda: database.write, "change_schema": database.change_schema}
    waiting = [gevent.spawn(refused, transactions[kind]()) for _ in range(3)]
gevent.joinall(waiting, raise_error=True)
gevent.sleep(0.05)  # until the other one has seen how long it did not run
print(longest)
"""

PATIENCE = 1.0


@pytest.mark.parametrize("kind", ["start", "write", "change_schema"])
def test_a_lock_of_another_program_does_not_block_the_worker(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "zaqar.db"
    database = Database.open(f"sqlite:///{path}", embedded=True)
    database.prepare()
    database.close()
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, f"sqlite:///{path}", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    stranger = sqlite3.connect(path, isolation_level=None)
    if kind != "start":
        worker.stdin.write("open\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == "open\n"
    stranger.execute("BEGIN IMMEDIATE")
    out, err = worker.communicate("go\n", timeout=60)
    stranger.close()
    assert worker.returncode == 0, err
    assert float(out) < PATIENCE / 2, "seconds for which nobody else in the worker could run"
