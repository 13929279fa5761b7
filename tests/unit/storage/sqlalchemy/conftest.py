# SPDX-License-Identifier: Apache-2.0
"""A database in a file of its own, and the stores on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.scene import Scene
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


@pytest.fixture
def database(open_database: Callable[..., Database]) -> Database:
    database = open_database()
    database.prepare()
    return database


@pytest.fixture
def store(database: Database) -> SqlMessageStore:
    return SqlMessageStore(database)


@pytest.fixture
def scene(store: SqlMessageStore) -> Scene:
    return Scene(store)
