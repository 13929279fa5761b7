# SPDX-License-Identifier: Apache-2.0
"""Records the statements that SQLite runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from zaqar.storage.sqlalchemy.client.database import Database

TRANSACTION_CONTROL = ("BEGIN", "COMMIT", "ROLLBACK", "PRAGMA")


@contextmanager
def traced(database: Database) -> Iterator[list[str]]:
    """The statements that run inside the context, in order, with values. No other thread may use the database."""
    seen: list[str] = []

    def begin(connection: Any, _: object) -> None:
        connection.set_trace_callback(seen.append)

    database.close_idle()
    sa.event.listen(database.engine, "connect", begin)
    try:
        yield seen
    finally:
        sa.event.remove(database.engine, "connect", begin)
        database.close_idle()


def work_of(statements: list[str]) -> list[str]:
    """The statements without those that begin and end transactions."""
    return [statement for statement in statements if not statement.startswith(TRANSACTION_CONTROL)]


def commits_of(statements: list[str]) -> int:
    return statements.count("COMMIT")


def steps_of(database: Database, operation: Callable[[], object]) -> int:
    """The number of instructions of SQLite's virtual machine, a measure of the rows and index entries that it reads."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def begin(connection: Any, _: object) -> None:
        connection.set_progress_handler(count, 1)

    database.close_idle()
    sa.event.listen(database.engine, "connect", begin)
    try:
        operation()
    finally:
        sa.event.remove(database.engine, "connect", begin)
        database.close_idle()
    return steps
