# SPDX-License-Identifier: Apache-2.0
"""``zaqar-sql-db-manage`` on real databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from zaqar.cmd import db_manage
from zaqar.storage.sqlalchemy import migration
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.states import HEAD

Manage = Callable[..., tuple[int, str, str]]
"""Runs a command; its status, output and errors."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "zaqar.db"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Manage:
    def run_it(*arguments: str) -> tuple[int, str, str]:
        status = db_manage.main(arguments)
        return status, *capsys.readouterr()

    return run_it


@pytest.fixture
def manage(run: Manage, path: Path) -> Manage:
    return lambda *arguments: run("--uri", f"sqlite:///{path}", *arguments)


def tables(path: Path) -> set[str]:
    engine = sa.create_engine(f"sqlite:///{path}")
    try:
        return set(sa.inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_a_database_is_upgraded_and_downgraded(manage: Manage, path: Path) -> None:
    assert manage("current") == (0, f"{path}: none\n", "")
    status, said, _ = manage("check_migration")
    assert (status, said) == (1, f"{path}: no schema, but {HEAD} is needed: run zaqar-sql-db-manage upgrade\n")
    assert manage("upgrade") == (0, f"{path}: {HEAD} (head)\n", "")
    assert "messages" in tables(path)
    assert manage("current") == (0, f"{path}: {HEAD} (head)\n", "")
    assert manage("check_migration") == (0, f"{path}: up to date\n", "")
    assert manage("upgrade", HEAD)[0] == 0
    assert manage("downgrade", "base") == (0, f"{path}: none\n", "")
    assert "messages" not in tables(path)


def test_the_service_accepts_an_upgraded_database(manage: Manage, path: Path) -> None:
    manage("upgrade")
    database = Database.open(f"sqlite:///{path}", embedded=False)
    database.prepare()
    database.close()


def test_a_stamp_changes_only_the_revision(manage: Manage, path: Path) -> None:
    assert manage("stamp", "head")[0] == 0
    assert manage("current")[1] == f"{path}: {HEAD} (head)\n"
    assert tables(path) == {"alembic_version"}


def test_history_and_branches_list_the_revisions(run: Manage) -> None:
    status, said, _ = run("history")
    assert status == 0
    assert "<base> -> 0001" in said and f"-> {HEAD} (head)" in said
    assert f"Rev: {HEAD} (head)" in run("history", "--verbose")[1]
    assert run("branches") == (0, "", "")


@pytest.mark.parametrize("arguments", [("upgrade", "nonsense"), ("downgrade", "nonsense"), ("stamp", "nonsense")])
def test_an_unknown_revision_is_an_error(manage: Manage, path: Path, arguments: tuple[str, str]) -> None:
    manage("upgrade")
    status, said, error = manage(*arguments)
    assert (status, said) == (1, "")
    assert error == "zaqar-sql-db-manage: Can't locate revision identified by 'nonsense'\n"
    assert manage("current")[1] == f"{path}: {HEAD} (head)\n"


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("sqlite:///:memory:", "there is nothing to manage"),
        ("sqlite:////nowhere/zaqar.db", "/nowhere is not a directory"),
        ("mysql://localhost/zaqar", "not 'mysql'"),
    ],
)
def test_a_database_that_cannot_be_managed_is_an_error(run: Manage, uri: str, sentence: str) -> None:
    status, said, error = run("--uri", uri, "current")
    assert (status, said) == (1, "")
    assert error.startswith("zaqar-sql-db-manage: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_a_new_revision_is_written_from_the_tables(
    manage: Manage, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manage("upgrade")
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(sa.text("DROP INDEX ix_claims_expires"))
    engine.dispose()
    scripts = tmp_path / "migrations"
    revisions = [f"versions/{found.name}" for found in (migration.SCRIPTS / "versions").glob("0*.py")]
    for name in ("env.py", "script.py.mako", *revisions):
        (scripts / name).parent.mkdir(parents=True, exist_ok=True)
        (scripts / name).write_text((migration.SCRIPTS / name).read_text())
    monkeypatch.setattr(migration, "SCRIPTS", scripts)
    assert manage("revision", "-m", "an index", "--autogenerate", "--rev-id", "9999")[0] == 0
    written = (scripts / "versions" / "9999_an_index.py").read_text()
    assert "create_index('ix_claims_expires'" in written
    assert written.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert manage("check_migration")[0] == 1
    assert manage("upgrade")[1].startswith(f"{path}: 9999")
    assert manage("check_migration")[0] == 0


# -- with a configuration ---------------------------------------------------------------------------------------------


def test_each_configured_database_is_upgraded_once(run: Manage, tmp_path: Path) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    file = tmp_path / "zaqar.conf"
    groups = [
        f"[drivers:{store}:sqlalchemy]\nuri = sqlite:///{one}\n" for store in ("management_store", "message_store")
    ]
    file.write_text("".join(groups))
    assert run("--config-file", str(file), "upgrade") == (0, f"{one}: {HEAD} (head)\n", "")
    file.write_text(groups[0] + groups[1].replace("one.db", "two.db"))
    assert run("--config-file", str(file), "check_migration")[0] == 1
    assert run("--config-file", str(file), "upgrade")[1] == f"{one}: {HEAD} (head)\n{two}: {HEAD} (head)\n"
    assert run("--config-file", str(file), "check_migration")[0] == 0


def test_without_a_configuration_the_embedded_database_is_used(
    run: Manage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(tmp_path / "state"))
    assert run("upgrade") == (0, f"{tmp_path}/state/zaqar.db: {HEAD} (head)\n", "")


def test_an_unreadable_configuration_is_an_error(run: Manage, tmp_path: Path) -> None:
    status, _, error = run("--config-file", str(tmp_path / "missing.conf"), "current")
    assert status == 1
    assert "missing.conf" in error


def test_a_configuration_without_an_sql_store_is_an_error(run: Manage, tmp_path: Path) -> None:
    file = tmp_path / "zaqar.conf"
    file.write_text("[drivers]\nmanagement_store = redis\nmessage_store = redis\n")
    assert run("--config-file", str(file), "current")[0] == 1
