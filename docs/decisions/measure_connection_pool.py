# SPDX-License-Identifier: Apache-2.0
"""Zaqar's connection pool for PostgreSQL beside that of ``psycopg_pool``; the figures of decision 0013.

Run it with ``python docs/decisions/measure_connection_pool.py URI`` if zaqar and psycopg_pool are installed. URI is an
empty database of a server that nothing else uses: the script ends the connections of Zaqar to it. It takes a minute.
"""

import logging
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import psycopg_pool

from zaqar.errors import StoreUnavailable
from zaqar.storage.base import Outage
from zaqar.storage.sqlalchemy.postgresql import connection, pool
from zaqar.storage.sqlalchemy.postgresql.database import PostgresqlDatabase

ROUNDS, CALLS = 60, 100
SELECT = "SELECT 1"


class LibraryPool:
    """``psycopg_pool`` with Zaqar's connections, their deadline and their check for news of the end."""

    def __init__(self, parameters: connection.ConnectionParameters, outage: Outage, *, size: int) -> None:
        self._outage = outage
        self._pool = psycopg_pool.ConnectionPool(
            parameters.conninfo,
            connection_class=connection.PostgresqlConnection,
            kwargs={"autocommit": True, "connect_timeout": connection.CONNECT_SECONDS, "prepare_threshold": 1},
            min_size=0,
            max_size=size,
            open=True,
            check=self._check,
            timeout=connection.TRANSACTION_SECONDS,
            reconnect_timeout=0,
        )

    @staticmethod
    def _check(found: connection.PostgresqlConnection) -> None:
        if not found.is_quiet():
            found.close()
            raise psycopg.OperationalError("the server has ended the connection")

    def acquire(self) -> connection.PostgresqlConnection:
        started = time.monotonic()
        try:
            found = self._pool.getconn()
        except psycopg_pool.PoolTimeout as exc:
            raise self._outage.failed(exc) from exc
        found.deadline = started + connection.TRANSACTION_SECONDS
        found.planned = found.planned or started
        found.keep_plans_fresh(started)
        return found

    def release(self, found: connection.PostgresqlConnection) -> None:
        self._pool.putconn(found)

    def discard(self, found: connection.PostgresqlConnection) -> None:
        found.close()
        self._pool.putconn(found)

    def close(self) -> None:
        self._pool.close()


def database_with(kind: Any, uri: str) -> PostgresqlDatabase:
    database = PostgresqlDatabase.connect(uri, embedded=True)
    database.pool = kind(connection.ConnectionParameters.of(uri), database.outage, size=20)
    return database


def select(database: PostgresqlDatabase) -> None:
    with database.read_once() as opened:
        opened.execute(SELECT).fetchone()


def seconds_of(call: Callable[[], object], *, clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    try:
        call()
    except StoreUnavailable:
        print("    refused after", round(clock() - began, 3), "s")
    return clock() - began


def many(database: PostgresqlDatabase) -> None:
    for _ in range(CALLS):
        select(database)


def in_threads(database: PostgresqlDatabase, count: int = 8) -> None:
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(lambda _: many(database), range(count)))


def end_all(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'zaqar'")
    time.sleep(0.5)


def main() -> None:
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    uri = sys.argv[1]
    databases = {"own": database_with(pool.ConnectionPool, uri), "psycopg_pool": database_with(LibraryPool, uri)}
    found: dict[str, list[float]] = {name: [] for name in databases}
    for number in range(ROUNDS):  # in turns, as other load comes and goes
        for name in sorted(databases, reverse=bool(number % 2)):
            found[name].append(seconds_of(lambda name=name: many(databases[name]), clock=time.process_time) / CALLS)
    for name, times in found.items():
        print(f"{name:13} one SELECT: {statistics.median(times) * 1e6:.1f} us of CPU")
    for name, database in databases.items():
        rates = [8 * CALLS / seconds_of(lambda database=database: in_threads(database)) for _ in range(8)]
        print(f"{name:13} SELECTs from 8 threads: {statistics.median(rates):.0f}/s")
    for name, database in databases.items():
        in_threads(database)
        end_all(uri)
        times = [round(seconds_of(lambda database=database: select(database)), 3) for _ in range(4)]
        print(f"{name:13} after the server has ended idle connections, seconds of the next requests: {times}")
    nowhere = "postgresql://zaqar@127.0.0.1:1/zaqar"
    for name, kind in (("own", pool.ConnectionPool), ("psycopg_pool", LibraryPool)):
        database = database_with(kind, nowhere)
        times = [round(seconds_of(lambda database=database: select(database)), 3) for _ in range(3)]
        print(f"{name:13} a server that refuses connections, seconds of requests: {times}")
        database.close()


if __name__ == "__main__":
    main()
