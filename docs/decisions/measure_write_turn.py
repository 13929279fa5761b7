# SPDX-License-Identifier: Apache-2.0
"""How several processes share one SQLite file under three ways of waiting; the figures of decision 0005.

Run it with ``python docs/decisions/measure_write_turn.py`` where zaqar is installed. It takes about a minute and
writes to a temporary directory, whose disk is what is measured.
"""

import fcntl
import multiprocessing
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from zaqar.storage.sqlalchemy.client.database import Database

ROUNDS, PROCESSES, SECONDS = 4, 8, 2.0

INSERT = "INSERT INTO posts VALUES (:body)"
ROW = {"body": b"x" * 1024}


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def busy_handler(path: Path) -> Callable[[], None]:
    connection = connect(path)

    def write() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(INSERT, ROW)
        connection.execute("COMMIT")

    return write


def blocking_lock(path: Path) -> Callable[[], None]:
    file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT)
    write_row = busy_handler(path)

    def write() -> None:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_row()
        fcntl.flock(file, fcntl.LOCK_UN)

    return write


def write_turn(path: Path) -> Callable[[], None]:
    database = Database.open(f"sqlite:///{path}", embedded=True, patience=30)

    def write() -> None:
        with database.write as connection:
            connection.execute(INSERT, ROW)

    return write


WAYS = {"SQLite's busy handler": busy_handler, "blocking flock": blocking_lock, "polled flock, notes": write_turn}


def keep_writing(path: Path, way: str, start: float, waits: "multiprocessing.Queue[list[float]]") -> None:
    write, seconds = WAYS[way](path), []
    time.sleep(max(0.0, start - time.monotonic()))
    while (began := time.monotonic()) < start + SECONDS:
        write()
        seconds.append(time.monotonic() - began)
    waits.put(seconds)


def measure(way: str, processes: int) -> tuple[float, str]:
    """Transactions a second, and these with the waits and shares as text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "posts.db"
        connect(path).execute("CREATE TABLE posts (body BLOB)")
        waits: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
        arguments = (path, way, time.monotonic() + 0.5, waits)
        writers = [multiprocessing.Process(target=keep_writing, args=arguments) for _ in range(processes)]
        for writer in writers:
            writer.start()
        each = [waits.get() for _ in writers]
        for writer in writers:
            writer.join()
    merged = sorted(wait for own in each for wait in own)
    rate, p99, worst = len(merged) / SECONDS, merged[int(len(merged) * 0.99)] * 1e3, merged[-1] * 1e3
    shares = f"{min(map(len, each))} to {max(map(len, each))}"
    return rate, f"{rate:7.0f}/s  p99 {p99:7.1f} ms  longest {worst:7.0f} ms  each {shares}"


def main() -> None:
    for processes in (1, PROCESSES):
        results: dict[str, list[tuple[float, str]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):  # in turns, as other load on the disk comes and goes
            for way in WAYS:
                results[way].append(measure(way, processes))
        for way, rounds in results.items():
            print(f"{processes} processes  {way:22} {max(rounds)[1]}")


if __name__ == "__main__":
    main()
