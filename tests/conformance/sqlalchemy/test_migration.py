# SPDX-License-Identifier: Apache-2.0
"""The schema on SQLite: upgraded at start if the service owns the database, else only checked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.conformance.processes import FORK_SERVER
from tests.conformance.queue_client import QueueClient
from tests.conformance.sqlalchemy import children
from tests.conformance.sqlalchemy.tracing import traced
from zaqar.errors import StartupError
from zaqar.storage.sqlalchemy import migration
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.schema import metadata
from zaqar.storage.sqlalchemy.states import HEAD
from zaqar.storage.sqlalchemy.store import SqlMessageStore


def schema_of(connection: sa.Connection) -> set[str]:
    rows = connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic%'"))
    return {f"{name}: {' '.join((text or '').split())}" for name, text in rows}


def test_the_revisions_have_a_single_head() -> None:
    assert ScriptDirectory.from_config(migration.config()).get_heads() == [HEAD]


def test_the_revisions_make_the_tables(database: Database) -> None:
    with database.change_schema() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_revisions_make_the_same_sql_as_the_tables(database: Database) -> None:
    """This includes parts that alembic does not compare: conditions of indexes, WITHOUT ROWID, AUTOINCREMENT."""
    other = Database.open("sqlite:///:memory:", embedded=True)
    with database.change_schema() as migrated, other.change_schema() as made:
        metadata.create_all(made)
        assert schema_of(migrated) == schema_of(made)
    other.close()


def test_a_downgrade_and_an_upgrade_lead_to_the_same_tables(database: Database) -> None:
    with database.change_schema() as connection:
        before = schema_of(connection)
        command.downgrade(migration.config(connection), "base")
        assert {name.partition(":")[0] for name in schema_of(connection)} <= {"sqlite_sequence"}
        migration.upgrade(connection)
        assert schema_of(connection) == before


def test_an_upgrade_that_fails_leaves_nothing_behind(
    open_database: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database()
    with database.change_schema() as connection:
        connection.execute(sa.text("CREATE TABLE claims (mine INTEGER)"))
    with pytest.raises(StartupError, match=r"cannot be upgraded: .*table claims already exists"):
        database.prepare()
    with database.change_schema() as connection:
        assert sa.inspect(connection).get_table_names() == ["claims"]
        connection.execute(sa.text("DROP TABLE claims"))
    database.prepare()
    assert migration.current(database) == HEAD


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_may_upgrade_at_once(
    uri: str, processes: int, open_database: Callable[..., Database]
) -> None:
    gate = FORK_SERVER.Barrier(processes)
    pipes = []
    started = []
    for _ in range(processes):
        here, there = FORK_SERVER.Pipe()
        process = FORK_SERVER.Process(target=children.prepare, args=(uri, gate, there))
        process.start()
        pipes.append(here)
        started.append(process)
    answers = [pipe.recv() if pipe.poll(120) else "silence" for pipe in pipes]
    for process in started:
        process.join(60)
    assert answers == ["done"] * processes
    database = open_database()
    database.prepare()
    assert QueueClient(SqlMessageStore(database)).post("a") == [1]


def test_the_service_does_not_change_the_schema_of_a_database_that_it_does_not_own(
    open_database: Callable[..., Database], database: Database
) -> None:
    configured = open_database(embedded=False)
    configured.prepare()
    with database.change_schema() as connection:
        command.downgrade(migration.config(connection), "base")
    with pytest.raises(StartupError) as caught:
        configured.prepare()
    text = str(caught.value)
    assert "run zaqar-sql-db-manage upgrade" in text
    assert f"{database.path} has schema none where {HEAD} is needed" in text
    with database.change_schema() as connection:
        assert not sa.inspect(connection).has_table("messages")


@pytest.mark.parametrize("embedded", [True, False])
def test_a_schema_of_a_later_release_that_excludes_this_one_is_refused(
    database: Database, open_database: Callable[..., Database], embedded: bool
) -> None:
    with database.change_schema() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999from9998'"))
    with pytest.raises(StartupError, match="9999from9998"):
        open_database(embedded=embedded).prepare()


def test_a_start_on_a_current_schema_changes_nothing_and_loads_no_alembic(database: Database, uri: str) -> None:
    with traced(database) as seen:
        database.prepare()
    assert not any(statement.startswith(("CREATE", "INSERT", "UPDATE")) for statement in seen)
    script = (
        "import sys; from zaqar.storage.sqlalchemy.client.database import Database; "
        f"Database.open({uri!r}, embedded=True).prepare(); "
        "sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
