# SPDX-License-Identifier: Apache-2.0
"""A database in a file of its own, and the stores on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.queue_client import QueueClient
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.store import SqlMessageStore


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/zaqar.db"


@pytest.fixture
def open_database(uri: str) -> Iterator[Callable[..., Database]]:
    opened: list[Database] = []

    def open_it(address: str = uri, *, embedded: bool = True, patience: float = 30.0, **options: str) -> Database:
        database = Database.open(address, embedded=embedded, patience=patience, **options)
        opened.append(database)
        return database

    yield open_it
    for database in opened:
        database.close()


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database file with the tables. It is made once, and each test gets a copy."""
    path = tmp_path_factory.mktemp("sqlite") / "zaqar.db"
    database = Database.open(f"sqlite:///{path}", embedded=True)
    database.prepare()
    database.close()
    return path


@pytest.fixture
def database(new_database: Path, tmp_path: Path, open_database: Callable[..., Database]) -> Database:
    shutil.copy(new_database, tmp_path / "zaqar.db")
    return open_database()


@pytest.fixture
def store(database: Database) -> SqlMessageStore:
    return SqlMessageStore(database)


@pytest.fixture
def orders(store: SqlMessageStore) -> QueueClient:
    return QueueClient(store)
