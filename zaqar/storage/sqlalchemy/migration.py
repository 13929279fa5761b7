# SPDX-License-Identifier: Apache-2.0
"""The revision of a database's schema, and upgrades of it. The scripts are in the folder ``migrations``.

``Database.prepare`` and the command ``zaqar-sql-db-manage`` call it. Alembic is imported only for an upgrade.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.states import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = Path(__file__).parent / "migrations"


def prepare(database: Database) -> None:
    """Create or upgrade the schema of an embedded database or one in memory. Only check that of any other.

    Raises StartupError if it is not current, or cannot be upgraded.
    """
    if database.embedded or database.is_in_memory:
        migrate(database)
    elif (found := current(database)) != HEAD:
        raise StartupError(
            f"The database {database.name} has schema {found or 'none'} where {HEAD} is needed: "
            "run zaqar-sql-db-manage upgrade."
        )


def migrate(database: Database) -> None:
    """Upgrade to the latest revision. Several processes may call it at once: one upgrades, the others wait for it.

    Both databases run a whole upgrade in one transaction, so a crash leaves the earlier revision.
    """
    if current(database) == HEAD:
        return
    try:
        with database.change_schema() as connection:
            # Ask again: another process may have upgraded it while this one waited for ``change_schema``.
            if _current(connection) != HEAD:
                upgrade(connection)
    except StoreUnavailable as exc:
        raise StartupError(f"The schema of the database {database.name} cannot be upgraded: {exc.__cause__}.") from exc


def current(database: Database) -> str | None:
    """The revision of the database; None if it has no schema yet."""
    with database.change_schema() as connection:
        return _current(connection)


def _current(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return revision


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Run the scripts up to a revision, in the transaction of the connection. Raises StartupError."""
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(config(connection), revision)
    except CommandError as exc:
        raise StartupError(f"The schema of the database cannot be upgraded: {exc}.") from exc


def config(connection: sa.Connection | None = None, **attributes: Any) -> Config:
    """The configuration for alembic's commands. Without a connection only commands that read the scripts work."""
    from alembic.config import Config

    made = Config(stdout=sys.stdout)
    made.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    made.attributes.update(attributes, connection=connection)
    return made
