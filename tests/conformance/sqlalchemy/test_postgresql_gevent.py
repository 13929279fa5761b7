# SPDX-License-Identifier: Apache-2.0
"""In a process that gevent has patched, a request that waits for PostgreSQL does not block other requests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conformance.drivers import DRIVERS

RUNS_WITH = "postgresql"

WORKER = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from zaqar.storage.sqlalchemy.client.database import Database

database = Database.open(sys.argv[1], embedded=True)
others = 0

def work():
    global others
    while True:
        others += 1
        gevent.sleep(0.01)

def wait(transaction):
    with transaction as connection:
        connection.execute("SELECT pg_sleep(1)").fetchone()

gevent.spawn(work)
waiting = [gevent.spawn(wait, transaction) for transaction in (database.autocommit(), database.read(), database.write)]
gevent.joinall(waiting, raise_error=True)
database.close()
assert others > 10, others
"""


def test_a_slow_query_does_not_block_the_worker(tmp_path: Path) -> None:
    address = DRIVERS["postgresql"].prepare(tmp_path)
    ended = subprocess.run([sys.executable, "-c", WORKER, address], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
