# SPDX-License-Identifier: Apache-2.0
"""The drivers under test, in one table. A new one is one more entry.

Everything here can be imported by a child process, which opens a store of its own from the name and the address. So
it imports little.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zaqar.storage.base import ManagementStore, MessageStore
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore


@dataclass(frozen=True)
class Driver:
    """How to come by the stores of one driver.

    ``prepare`` gets an empty folder, makes what the stores need there (once a session) and returns the address; where
    a server is missing it skips, or fails where ``CI=true``. ``shared`` says whether several processes can open one
    address.
    """

    name: str
    prepare: Callable[[Path], str]
    open_management: Callable[[str], ManagementStore]
    open_messages: Callable[[str], MessageStore]
    shared: bool = True


def _prepare_sqlite(folder: Path) -> str:
    from zaqar.storage.sqlalchemy.connection import Database

    address = f"sqlite:///{folder}/zaqar.db"
    database = Database.open(address, embedded=True)
    database.prepare()
    database.close()
    return address


def _sqlite_management(address: str) -> ManagementStore:
    from zaqar.storage.sqlalchemy.connection import Database
    from zaqar.storage.sqlalchemy.management import SqlManagementStore

    return SqlManagementStore(Database.open(address, embedded=True))


def _sqlite_messages(address: str) -> MessageStore:
    from zaqar.storage.sqlalchemy.connection import Database
    from zaqar.storage.sqlalchemy.messages import SqlMessageStore

    return SqlMessageStore(Database.open(address, embedded=True))


def _prepare_mongodb(folder: Path) -> str:
    """The URI of a replica set, from the environment."""
    return os.environ["ZAQAR_TEST_MONGODB"]


def _mongodb_settings(address: str) -> dict[str, Any]:
    return {"uri": address, "database": "zaqar_conformance"}


def _mongodb_management(address: str) -> ManagementStore:
    from zaqar.storage.mongodb.management import MongoManagementStore

    return MongoManagementStore.from_settings(_mongodb_settings(address))


def _mongodb_messages(address: str) -> MessageStore:
    from zaqar.storage.mongodb.messages import MongoMessageStore

    return MongoMessageStore.from_settings(_mongodb_settings(address))


DRIVERS: dict[str, Driver] = {
    driver.name: driver
    for driver in (
        Driver(
            name="memory",
            prepare=lambda folder: "",
            open_management=lambda address: MemoryManagementStore(),
            open_messages=lambda address: MemoryMessageStore(),
            shared=False,
        ),
        Driver(
            name="sqlite",
            prepare=_prepare_sqlite,
            open_management=_sqlite_management,
            open_messages=_sqlite_messages,
        ),
        Driver(
            name="mongodb",
            prepare=_prepare_mongodb,
            open_management=_mongodb_management,
            open_messages=_mongodb_messages,
        ),
    )
}
