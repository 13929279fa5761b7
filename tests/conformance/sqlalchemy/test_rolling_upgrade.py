# SPDX-License-Identifier: Apache-2.0
"""Two releases on one database: the older one works on the newer schema, also while the schema is upgraded."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from tests import servers
from tests.conformance.all_operations import assert_all_management_operations_work, assert_all_operations_work
from tests.conformance.queue_client import QueueClient
from zaqar.errors import StartupError
from zaqar.storage.sqlalchemy import migration
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.management import SqlManagementStore
from zaqar.storage.sqlalchemy.states import HEAD
from zaqar.storage.sqlalchemy.store import SqlMessageStore

RUNS_WITH = "postgresql"
REVISIONS = [script.revision for script in ScriptDirectory.from_config(migration.config()).walk_revisions()][::-1]
BOOKKEEPING = "alembic_version"


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/zaqar.db"
    pytest.importorskip("psycopg")
    uri: str = servers.shared("postgresql").new_database()
    return uri


@pytest.fixture
def database(address: str, open_database: Callable[..., Database]) -> Database:
    return open_database(address)


def tables(connection: sa.Connection) -> dict[str, Any]:
    """The parts of each table that a program which uses it may depend on."""
    look = sa.inspect(connection)
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in look.get_columns(name)
            },
            "key": look.get_pk_constraint(name)["constrained_columns"],
            "rules": sorted(
                str(rule)
                for rules in (look.get_unique_constraints, look.get_check_constraints, look.get_foreign_keys)
                for rule in rules(name)
            ),
            "indexes": {index["name"]: bool(index["unique"]) for index in look.get_indexes(name)},
        }
        for name in look.get_table_names()
        if name != BOOKKEEPING
    }


def objections(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The reasons why a program that uses the old tables may not work on the new ones."""
    found = [f"table {name} is gone" for name in old.keys() - new.keys()]
    for name in old.keys() & new.keys():
        before, after = old[name], new[name]
        columns = after["columns"]
        found += [f"{name}.{column} changed" for column, is_ in before["columns"].items() if columns.get(column) != is_]
        for column in columns.keys() - before["columns"].keys():
            _, nullable, default = columns[column]
            if not nullable and default is None:
                found.append(f"{name}.{column} needs a value")
        found += [f"the {part} of {name} changed" for part in ("key", "rules") if before[part] != after[part]]
        for index, unique in after["indexes"].items():
            if unique and not before["indexes"].get(index):
                found.append(f"index {index} of {name} refuses rows")
        found += [f"index {index} of {name} is gone" for index in before["indexes"].keys() - after["indexes"].keys()]
    return found


def row(table: sa.Table, columns: list[str], number: int) -> dict[str, Any]:
    """A row with a value of the right type in each of these columns, which no other row has."""
    values: dict[type, Any] = {int: number, float: float(number), str: f"value {number}", bytes: b"value", bool: False}
    return {name: values[table.columns[name].type.python_type] for name in columns}


def test_each_revision_only_adds_to_the_schema_or_names_the_oldest_code_that_works(database: Database) -> None:
    before: dict[str, Any] = {}
    for revision in REVISIONS:
        with database.change_schema() as connection:
            migration.upgrade(connection, revision)
            after = tables(connection)
        if "from" not in revision:
            assert objections(before, after) == [], f"revision {revision}"
        changed = [name for name in before if before[name] != after.get(name)]
        assert len(changed) <= 1, f"revision {revision} would hold the locks of several tables"
        before = after


def test_a_program_that_knows_the_tables_of_an_earlier_revision_can_write_to_the_newest(database: Database) -> None:
    known = []
    for revision in REVISIONS:
        with database.change_schema() as connection:
            migration.upgrade(connection, revision)
            if migration.is_usable(HEAD, revision):
                known += [(revision, name, list(table["columns"])) for name, table in tables(connection).items()]
    numbers = itertools.count(1)
    with database.change_schema() as connection:
        for _, name, columns in known:
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            written = row(table, columns, next(numbers))
            connection.execute(table.insert().values(written))
            key = [table.columns[column] == written[column] for column in columns if table.columns[column].primary_key]
            assert connection.execute(sa.select(*map(table.columns.get, columns)).where(*key)).one() == tuple(
                written.values()
            )
            assert connection.execute(table.delete().where(*key)).rowcount == 1


def add_everywhere(database: Database, revision: str) -> None:
    """Change the schema as later releases may: a table, and in each table columns and an index."""

    def add_to(name: str, columns: dict[str, Any], connection: sa.Connection) -> None:
        connection.execute(sa.text(f"ALTER TABLE {name} ADD COLUMN later_a TEXT"))
        connection.execute(sa.text(f"ALTER TABLE {name} ADD COLUMN later_b BIGINT NOT NULL DEFAULT 7"))
        connection.execute(sa.text(f"CREATE INDEX ix_later_{name} ON {name} (later_b, {next(iter(columns))})"))

    with database.change_schema() as connection:
        connection.execute(sa.text("CREATE TABLE later (id BIGINT PRIMARY KEY)"))
        found = tables(connection)
    for name, table in found.items():
        migration.change(database, partial(add_to, name, table["columns"]))
    with database.change_schema() as connection:
        connection.execute(sa.text(f"UPDATE {BOOKKEEPING} SET version_num = '{revision}'"))


@pytest.mark.parametrize("embedded", [True, False])
def test_this_release_works_on_a_schema_to_which_a_later_one_has_added(
    database: Database,
    address: str,
    open_database: Callable[..., Database],
    embedded: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    database.prepare()
    add_everywhere(database, "9998")
    with caplog.at_level(logging.INFO, logger="zaqar"):
        later = open_database(address, embedded=embedded)
        later.prepare()
    assert "has the schema 9998 of a later release, which this one can use" in caplog.text
    assert_all_operations_work(SqlMessageStore(later))
    assert_all_management_operations_work(SqlManagementStore(later))
    with database.change_schema() as connection:
        assert connection.scalar(sa.text(f"SELECT version_num FROM {BOOKKEEPING}")) == "9998"


def test_no_operation_fails_while_a_later_release_upgrades_the_schema(
    database: Database, address: str, open_database: Callable[..., Database]
) -> None:
    database.prepare()
    store = SqlMessageStore(open_database(address))
    done, posted, failed = threading.Event(), list[int](), list[BaseException]()

    def work() -> None:
        orders = QueueClient(store)
        try:
            while not done.is_set():
                orders.post("a", "b")
                claim_id, taken = orders.claim(1)
                orders.delete(taken[0].sequence, claim_id)
                posted.append(1)
        except BaseException as exc:  # noqa: BLE001
            failed.append(exc)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    _await(lambda: len(posted) > 20 or failed)
    add_everywhere(database, "9998")
    before = len(posted)
    _await(lambda: len(posted) > before + 20 or failed)
    done.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert_all_operations_work(store)


def _await(condition: Callable[[], object]) -> None:
    reached = threading.Event()
    for _ in range(6000):
        if condition():
            return
        reached.wait(0.01)
    pytest.fail("it does not come")


@pytest.mark.parametrize(
    "revision", ["9999from9998", f"9999from{int(HEAD[:4]) + 1:04}", "0007", "nonsense", "12345", ""]
)
def test_a_schema_that_this_release_cannot_use_is_refused(
    revision: str, database: Database, address: str, open_database: Callable[..., Database]
) -> None:
    database.prepare()
    with database.change_schema() as connection:
        connection.execute(sa.text(f"UPDATE {BOOKKEEPING} SET version_num = '{revision}'"))
    with pytest.raises(StartupError, match=f"has schema {revision or 'none'} where {HEAD} is needed"):
        open_database(address, embedded=False).prepare()


@pytest.mark.parametrize(
    ("revision", "own", "usable"),
    [
        ("0009", "0009", True),
        ("0010", "0009", True),
        ("0008", "0009", False),
        ("0012from0009", "0009", True),
        ("0012from0010", "0009", False),
        ("0013from0010", "0012from0010", True),
        ("0012from0010", "0012from0010", True),
        ("0011", "0012from0010", False),
        (None, "0009", False),
    ],
)
def test_which_release_can_use_which_schema(revision: str | None, own: str, usable: bool) -> None:
    assert migration.is_usable(revision, own) == usable
