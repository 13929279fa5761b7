# SPDX-License-Identifier: Apache-2.0
"""What other processes do in these tests. Each is started by ``spawn`` and has nothing but its arguments."""

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
    """Lock it as a process would that was stopped in its turn, until told to let go."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    pipe.send("locked")
    pipe.recv()


def hold_a_transaction(uri: str, pipe: Connection) -> None:
    """Be in the middle of a write, until killed."""
    database = Database.open(uri, embedded=True)
    with database.write:
        pipe.send("locked")
        signal.pause()


def fork_and_hold_a_transaction(uri: str, pipe: Connection) -> None:
    """The same with a child that lives on; its pid comes second."""
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
    """Open and migrate at the same moment as others; say what came of it."""
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
    """Post one message after the other as fast as it goes; say how many."""
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
