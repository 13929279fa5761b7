# SPDX-License-Identifier: Apache-2.0
"""The schema: which revision a database has, and moving it to another one. Alembic is only loaded to move."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = Path(__file__).parent / "migrations"


def prepare(database: Database) -> None:
    """Make or upgrade the schema of an embedded database, or of one in memory; only check it otherwise."""
    if database.embedded or database.is_in_memory:
        migrate(database)
    elif (found := current(database)) != HEAD:
        raise StartupError(
            f"The database {database.name} has schema {found or 'none'} where {HEAD} is needed: "
            "run zaqar-sql-db-manage upgrade."
        )


def migrate(database: Database) -> None:
    """Upgrade to the latest revision; several processes may do so at once."""
    if current(database) == HEAD:
        return
    try:
        with database.change_schema() as connection:
            # Somebody else may have done it while this process waited for its turn.
            if _current(connection) != HEAD:
                upgrade(connection)
    except StoreUnavailable as exc:
        raise StartupError(f"The schema of the database {database.name} cannot be upgraded: {exc.__cause__}.") from exc


def current(database: Database) -> str | None:
    """The revision of the database, None where it has no schema yet."""
    with database.change_schema() as connection:
        return _current(connection)


def _current(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return revision


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(config(connection), revision)
    except CommandError as exc:
        raise StartupError(f"The schema of the database cannot be upgraded: {exc}.") from exc


def config(connection: sa.Connection | None = None, **attributes: Any) -> Config:
    """What alembic's commands run with; without a connection only those that read the scripts."""
    from alembic.config import Config

    made = Config(stdout=sys.stdout)
    made.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    made.attributes.update(attributes, connection=connection)
    return made
