# SPDX-License-Identifier: Apache-2.0
"""Functions that tests run in other processes. FORK_SERVER starts them, so they have only their arguments."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from zaqar.model import Draft, Queue
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.store import SqlMessageStore


def hold_lock_file(path: str, pipe: Connection) -> None:
    """Lock the file like a process that was stopped during its turn. Unlock it when a message comes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    pipe.send("locked")
    pipe.recv()


def hold_a_transaction(uri: str, pipe: Connection) -> None:
    """Stay in a write transaction until killed."""
    database = Database.open(uri, embedded=True)
    with database.write:
        pipe.send("locked")
        signal.pause()


def fork_and_hold_a_transaction(uri: str, pipe: Connection) -> None:
    """The same with a forked child that lives on. Sends its pid after the first message."""
    database = Database.open(uri, embedded=True)
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    with database.write:
        pipe.send("locked")
        pipe.send(pid)
        signal.pause()


def prepare(uri: str, gate: Barrier, pipe: Connection) -> None:
    """Open and upgrade the database at the same moment as other processes. Sends the outcome."""
    gate.wait(60)
    try:
        database = Database.open(uri, embedded=True)
        database.prepare()
        database.close()
    except Exception as exc:  # noqa: BLE001 - the parent judges it
        pipe.send(repr(exc))
    else:
        pipe.send("done")


def post_for(uri: str, queue: Queue, seconds: float, gate: Barrier, pipe: Connection) -> None:
    """Post messages one after the other without a pause. Sends their number."""
    database = Database.open(uri, embedded=True)
    store = SqlMessageStore(database)
    arguments: dict[str, Any] = {"queue": queue, "drafts": [Draft(b"x", 3600)], "client_id": "c"}
    gate.wait(60)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        store.messages.post(**arguments, now=1_700_000_000.0)
        count += 1
    pipe.send(count)
    database.close()
