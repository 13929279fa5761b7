# SPDX-License-Identifier: Apache-2.0
"""The schema on PostgreSQL, each test in a PostgreSQL schema of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests.conformance.drivers import DRIVERS
from tests.conformance.queue_client import QueueClient, at_once
from zaqar.cmd import db_manage
from zaqar.errors import StartupError
from zaqar.storage.sqlalchemy import migration
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.schema import metadata, postgresql_metadata
from zaqar.storage.sqlalchemy.states import HEAD
from zaqar.storage.sqlalchemy.store import SqlMessageStore

psycopg = pytest.importorskip("psycopg")

RUNS_WITH = "postgresql"


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    address = DRIVERS["postgresql"].prepare(tmp_path)
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        yield f"{address}{'&' if '?' in address else '?'}options=-csearch_path%3D{name}"
        connection.execute(f"DROP SCHEMA {name} CASCADE")


def test_the_revisions_make_the_tables(uri: str) -> None:
    database = Database.open(uri, embedded=True)
    database.prepare()
    with database.change_schema() as connection:
        assert compare_metadata(MigrationContext.configure(connection), [metadata, postgresql_metadata]) == []  # type: ignore[arg-type]
    database.close()


def test_the_command_shows_and_upgrades_the_revision(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        status = db_manage.main(["--uri", uri, *arguments])
        return status, capsys.readouterr().out.strip().rpartition(": ")[2]

    assert run("current") == (0, "none")
    assert run("check_migration")[0] == 1
    assert run("upgrade", "0001") == (0, "0001")
    assert run("upgrade") == (0, f"{HEAD} (head)")
    assert run("check_migration") == (0, "up to date")
    assert run("downgrade", "base") == (0, "none")
    assert run("stamp", "head") == (0, f"{HEAD} (head)")


def test_a_configured_database_is_only_checked(uri: str) -> None:
    with pytest.raises(StartupError, match=r"has schema none where .* is needed: run zaqar-sql-db-manage upgrade"):
        SqlMessageStore.from_settings({"uri": uri, "embedded": False})


def test_the_database_of_a_pool_is_upgraded(uri: str) -> None:
    store = SqlMessageStore.from_settings({"uri": uri})
    assert QueueClient(store).post("a") == [1]
    store.close()


def test_several_processes_may_upgrade_at_once(uri: str) -> None:
    def prepare() -> None:
        database = Database.open(uri, embedded=True)
        database.prepare()
        database.close()

    at_once(*[prepare] * 4)
    database = Database.open(uri, embedded=True)
    assert migration.current(database) == HEAD
    database.close()


def test_an_upgrade_that_fails_leaves_nothing_behind(uri: str) -> None:
    database = Database.open(uri, embedded=True)
    with database.change_schema() as connection:
        connection.execute(sa.text("CREATE TABLE claims (mine INTEGER)"))
    with pytest.raises(StartupError, match="cannot be upgraded"):
        database.prepare()
    with database.change_schema() as connection:
        assert sa.inspect(connection).get_table_names() == ["claims"]
