# SPDX-License-Identifier: Apache-2.0
"""In a process that gevent has patched, a request that waits for a lock of SQLite does not block other requests."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from zaqar.storage.sqlalchemy.client.database import Database

ROOT = Path(__file__).parents[4]

WORKER = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from tests.greenlets import ProgressMeter
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.sqlalchemy.client.database import Database

uri, kind, patience = sys.argv[1], sys.argv[2], 1.0

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

if kind == "start":
    waits = [start]
else:
    sys.stdin.readline()
    database = Database.open(uri, embedded=True, patience=patience)
    print("open", flush=True)
    sys.stdin.readline()
    transactions = {"write": lambda: database.write, "change_schema": database.change_schema}
    waits = [lambda: refused(transactions[kind]())] * 3
pulse = ProgressMeter()
gevent.joinall([gevent.spawn(wait) for wait in waits], raise_error=True)
print(pulse.share())
"""

LEAST_SHARE = 0.3


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
        env={**os.environ, "PYTHONPATH": str(ROOT)},
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
    assert float(out) > LEAST_SHARE, "other greenlets could not run meanwhile"
