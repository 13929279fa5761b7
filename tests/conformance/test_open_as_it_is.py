# SPDX-License-Identifier: Apache-2.0
"""A check of the configuration opens stores without making or upgrading anything in them."""

from __future__ import annotations

import contextlib
import secrets

import pymongo
import pytest

from tests import servers
from zaqar.errors import StartupError
from zaqar.storage.mongodb.management import MongoManagementStore
from zaqar.storage.mongodb.store import MongoMessageStore
from zaqar.storage.redis.management import RedisManagementStore
from zaqar.storage.redis.store import RedisMessageStore
from zaqar.storage.sqlalchemy import migration
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.management import SqlManagementStore
from zaqar.storage.sqlalchemy.store import SqlMessageStore


def test_an_empty_database_of_postgresql_stays_empty() -> None:
    uri = servers.shared("postgresql").new_database()
    # The database of a pool: the service itself makes its tables, at the first use.
    with contextlib.closing(SqlMessageStore.open_as_it_is({"uri": uri, "embedded": True})) as store:
        assert store.durability()["store"] == "postgresql"
    for driver in (SqlMessageStore, SqlManagementStore):
        with pytest.raises(StartupError, match="run zaqar-sql-db-manage upgrade"):
            driver.open_as_it_is({"uri": uri, "embedded": False})
    with contextlib.closing(Database.open(uri, embedded=True)) as database:
        assert migration.current(database) is None
        database.prepare()
    with contextlib.closing(SqlManagementStore.open_as_it_is({"uri": uri, "embedded": False})) as management:
        management.ping()
        assert management.catalog.get().pools == ()


def test_an_empty_database_of_mongodb_stays_empty() -> None:
    uri, name = servers.shared("mongodb").uri, f"as_it_is_{secrets.token_hex(4)}"
    with contextlib.closing(MongoMessageStore.open_as_it_is({"uri": uri, "database": name})) as store:
        store.ping()
        assert store.durability()["store"] == "mongodb"
    with contextlib.closing(MongoManagementStore.open_as_it_is({"uri": uri, "database": name})) as management:
        management.ping()
        assert management.catalog.get().pools == ()
    with pymongo.MongoClient(uri) as client:
        assert client[name].list_collection_names() == []


def test_an_empty_redis_stays_empty() -> None:
    server = servers.own(servers.Redis)
    try:
        with contextlib.closing(RedisMessageStore.open_as_it_is({"uri": server.uri})) as store:
            store.ping()
            assert store.durability()["store"] == "redis"
            assert store._core.client.command(b"DBSIZE") == 0
        with contextlib.closing(RedisManagementStore.open_as_it_is({"uri": server.uri})) as management:
            assert management.catalog.get().pools == ()
    finally:
        server.stop()
