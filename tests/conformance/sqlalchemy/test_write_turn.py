# SPDX-License-Identifier: Apache-2.0
"""Writers wait for their turn to write, for a limited time, and no process starves."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest

from tests.conformance.processes import FORK_SERVER
from tests.conformance.queue_client import QueueClient, new_queue
from tests.conformance.sqlalchemy import children
from zaqar.errors import StaleQueue, StartupError, StoreUnavailable
from zaqar.model import QueueName, QueuePosition
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.management import SqlManagementStore
from zaqar.storage.sqlalchemy.store import SqlMessageStore


@contextmanager
def child(work: Callable[..., None], *arguments: Any) -> Iterator[tuple[Any, Connection]]:
    """A child process that has taken its lock."""
    here, there = FORK_SERVER.Pipe()
    process = FORK_SERVER.Process(target=work, args=(*arguments, there))
    process.start()
    try:
        assert here.poll(60)
        assert here.recv() == "locked"
        yield process, here
    finally:
        process.kill()
        process.join()


def test_a_write_is_store_unavailable_if_another_process_keeps_its_turn(
    orders: QueueClient, database: Database, open_database: Callable[..., Database]
) -> None:
    hasty = QueueClient(SqlMessageStore(open_database(patience=0.2)), queue=orders.queue)
    management = SqlManagementStore(open_database(patience=0.2))
    with child(children.hold_lock_file, f"{database.path}.lock") as (process, pipe):
        with pytest.raises(StoreUnavailable):
            hasty.post("a")
        # Readers do not wait for writers.
        assert hasty.listing() == []
        assert hasty.store.queues.positions(uids=[orders.queue.uid], now=orders.now) == {
            orders.queue.uid: QueuePosition(0, False, None)
        }
        assert management.queue_records.find(names=[QueueName("shop", "queue", "orders")]) == {}
        pipe.send("unlock")
        process.join(60)
        assert hasty.post("a") == [1]


def test_killing_a_process_ends_its_turn(orders: QueueClient, uri: str) -> None:
    with child(children.hold_a_transaction, uri) as (process, _):
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert orders.post("a") == [1]


def test_killing_a_process_ends_its_turn_even_if_a_child_of_it_lives(orders: QueueClient, uri: str) -> None:
    """A lock belongs to the open file, which a fork shares. So a child must not keep the file open."""
    with child(children.fork_and_hold_a_transaction, uri) as (process, pipe):
        forked = pipe.recv()
        try:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert orders.post("a") == [1]
            os.kill(forked, 0)
        finally:
            os.kill(forked, signal.SIGKILL)


def test_a_write_waits_for_a_program_that_does_not_use_the_lock_file(
    orders: QueueClient, open_database: Callable[..., Database]
) -> None:
    """For example the command line of SQLite."""
    hasty = open_database(patience=0.2)
    with other_program(hasty), pytest.raises(StoreUnavailable) as caught:
        QueueClient(SqlMessageStore(hasty), queue=orders.queue)
    assert "locked" in str(caught.value.__cause__)
    assert QueueClient(SqlMessageStore(hasty), queue=orders.queue).post("a") == [1]


@contextmanager
def other_program(database: Database, *begin: str) -> Iterator[None]:
    """Hold a transaction as a program that does not use the lock file."""
    assert database.path is not None
    connection = sqlite3.connect(database.path, isolation_level=None)
    try:
        for statement in begin or ("BEGIN IMMEDIATE",):
            connection.execute(statement).fetchall()
        yield
    finally:
        connection.close()


def refuse(orders: QueueClient) -> float:
    """Post, which must be refused. Returns after how many seconds it was."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        orders.post("refused")
    return time.monotonic() - began


@pytest.mark.parametrize("held", ["by another program", "by another process"])
def test_the_waiting_times_of_queued_writers_do_not_add_up(
    orders: QueueClient, open_database: Callable[..., Database], held: str
) -> None:
    patience, writers = 1.0, 6
    database = open_database(patience=patience)
    hasty = QueueClient(SqlMessageStore(database), queue=orders.queue)
    lock_file = child(children.hold_lock_file, f"{database.path}.lock")
    with other_program(database) if held == "by another program" else lock_file:
        began = time.monotonic()
        with ThreadPoolExecutor(writers) as threads:
            waits = list(threads.map(lambda _: refuse(hasty), range(writers)))
        together = time.monotonic() - began
        again = [refuse(hasty) for _ in range(3)]
    assert max(waits) >= patience, "a writer waited for the whole time-out"
    assert together < writers * patience / 2
    assert sorted(again)[1] < patience, "later writers do not wait the whole time for a lock that is known to be held"
    assert hasty.post("a") == [1]
    with other_program(database):
        assert refuse(hasty) >= patience, "the lock was free meanwhile, so it may be free again soon"


@pytest.mark.parametrize("operation", ["read", "write", "change_schema"])
def test_a_transaction_waits_for_an_exclusive_lock_on_the_file(database: Database, operation: str) -> None:
    """As during the recovery after a crash: the first statement on a new connection meets the lock."""
    database.close_idle()
    taken, held = threading.Event(), 0.3

    def hold() -> None:
        with other_program(database, "PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE"):
            taken.set()
            time.sleep(held)

    transactions = {"read": database.read, "write": lambda: database.write, "change_schema": database.change_schema}
    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(60)
    began = time.monotonic()
    with transactions[operation]() as connection:
        assert connection is not None
    assert time.monotonic() - began > held / 2, "the file was not locked"
    thread.join()


def test_a_database_that_stays_locked_cannot_be_opened(database: Database, uri: str) -> None:
    with (
        child(children.hold_lock_file, f"{database.path}.lock"),
        pytest.raises(StartupError, match="another process does not let go of it"),
    ):
        Database.open(uri, embedded=True, patience=0.2)


def test_a_write_waits_for_a_write_of_another_thread(
    database: Database, open_database: Callable[..., Database]
) -> None:
    impatient = open_database(patience=0.2)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with impatient.write:
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(60)
    with pytest.raises(StoreUnavailable), impatient.write:
        pass
    leave.set()
    thread.join()
    with impatient.write as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_error_in_a_transaction_releases_the_turn(
    orders: QueueClient, open_database: Callable[..., Database]
) -> None:
    other = QueueClient(SqlMessageStore(open_database(patience=1.0)), queue=orders.queue)
    for _ in range(3):
        with pytest.raises(StaleQueue):
            orders.store.queues.purge(queue=new_queue(), now=orders.now)
        other.post("a")
        orders.post("a")


def test_processes_that_write_without_a_pause_share_the_turns(orders: QueueClient, uri: str) -> None:
    """Without the lock file some processes would get one turn in several seconds."""
    writers = 4
    gate = FORK_SERVER.Barrier(writers)
    pipes, processes = [], []
    for _ in range(writers):
        here, there = FORK_SERVER.Pipe()
        process = FORK_SERVER.Process(target=children.post_for, args=(uri, orders.queue, 1.5, gate, there))
        process.start()
        pipes.append(here)
        processes.append(process)
    counts = [pipe.recv() if pipe.poll(120) else 0 for pipe in pipes]
    for process in processes:
        process.join(60)
    assert min(counts) * 5 > max(counts)
    assert orders.stats().free == sum(counts)
    assert orders.listing()[-1].sequence == sum(counts)
