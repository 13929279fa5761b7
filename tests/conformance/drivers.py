# SPDX-License-Identifier: Apache-2.0
"""The drivers under test, in one table. A new one is one more entry.

Everything here can be imported by a child process, which opens a store of its own from the name and the address. So
it imports little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import servers
from zaqar.storage.base import ManagementStore, MessageStore
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore


@dataclass(frozen=True)
class Driver:
    """How to come by the stores of one driver.

    ``prepare`` gets an empty folder, makes what the stores need (once a session) and returns the address; where a
    server is missing it skips, or fails where ``CI=true``. ``server`` is the kind of server in ``tests.servers`` that
    it needs. ``shared`` says whether several processes can open one address. ``one_step_across_queues``: a message and
    its dead letter change together; without it there is a moment in which neither queue shows the message.
    """

    name: str
    prepare: Callable[[Path], str]
    open_management: Callable[[str], ManagementStore]
    open_messages: Callable[[str], MessageStore]
    server: str | None = None
    shared: bool = True
    one_step_across_queues: bool = True


def _sql_management(address: str) -> ManagementStore:
    from zaqar.storage.sqlalchemy.client.database import Database
    from zaqar.storage.sqlalchemy.management import SqlManagementStore

    return SqlManagementStore(Database.open(address, embedded=True))


def _sql_messages(address: str) -> MessageStore:
    from zaqar.storage.sqlalchemy.client.database import Database
    from zaqar.storage.sqlalchemy.store import SqlMessageStore

    return SqlMessageStore(Database.open(address, embedded=True))


def _migrate(address: str) -> str:
    from zaqar.storage.sqlalchemy.client.database import Database

    database = Database.open(address, embedded=True)
    database.prepare()
    database.close()
    return address


def _redis_management(address: str) -> ManagementStore:
    from zaqar.storage.redis.management import RedisManagementStore

    return RedisManagementStore.from_settings({"uri": address})


def _with_time(uri: str) -> str:
    """The URI with a time limit that a server of the tests does not reach when the machine is busy."""
    return f"{uri}{'&' if '?' in uri else '?'}socket_timeout=30"


def _redis_messages(address: str) -> MessageStore:
    from zaqar.storage.redis.store import RedisMessageStore

    return RedisMessageStore.from_settings({"uri": address})


def _mongodb_management(address: str) -> ManagementStore:
    from zaqar.storage.mongodb.management import MongoManagementStore

    uri, _, database = address.partition(" ")
    return MongoManagementStore.from_settings({"uri": uri, "database": database})


def _mongodb_messages(address: str) -> MessageStore:
    from zaqar.storage.mongodb.store import MongoMessageStore

    uri, _, database = address.partition(" ")
    return MongoMessageStore.from_settings({"uri": uri, "database": database})


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
            prepare=lambda folder: _migrate(f"sqlite:///{folder}/zaqar.db"),
            open_management=_sql_management,
            open_messages=_sql_messages,
        ),
        Driver(
            name="postgresql",
            prepare=lambda folder: _migrate(servers.shared("postgresql").new_database()),
            open_management=_sql_management,
            open_messages=_sql_messages,
            server="postgresql",
        ),
        Driver(
            name="redis",
            prepare=lambda folder: _with_time(servers.shared("redis").uri),
            open_management=_redis_management,
            open_messages=_redis_messages,
            server="redis",
        ),
        Driver(
            name="redis-cluster",
            prepare=lambda folder: _with_time(servers.shared("redis-cluster").uri),
            open_management=_redis_management,
            open_messages=_redis_messages,
            server="redis-cluster",
            one_step_across_queues=False,
        ),
        Driver(
            name="mongodb",
            prepare=lambda folder: f"{servers.shared('mongodb').uri} {folder.name}",
            open_management=_mongodb_management,
            open_messages=_mongodb_messages,
            server="mongodb",
        ),
    )
}
