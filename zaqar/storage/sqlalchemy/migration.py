# SPDX-License-Identifier: Apache-2.0
"""The revision of a database's schema, and upgrades of it. The scripts are in the folder ``migrations``.

``Database.prepare`` and the command ``zaqar-sql-db-manage`` call it. Alembic is imported only for an upgrade.

During an upgrade of several hosts, processes of two releases use one database. The schema is upgraded first, so the
older release must work on the newer schema. The id of a revision says which releases do; see ``is_usable``.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.sqlalchemy.client.conflicts import TransactionConflict
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.states import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

_log = logging.getLogger(__name__)

CHANGE_SECONDS = 60.0
"""How long a schema change tries to find a moment in which no operation is in its way."""

R = TypeVar("R")

_ID = re.compile(r"(\d{4})(?:from(\d{4}))?")
"""The id of a revision: its number, and that of the oldest revision whose code works on it."""

SCRIPTS = Path(__file__).parent / "migrations"


def is_usable(revision: str | None, own: str = HEAD) -> bool:
    """Whether a release whose tables are those of ``own`` works on a schema of this revision.

    The id of a revision is a number of four digits. Most revisions only add to the schema, so older code works on it.
    A revision that removes or changes something has an id such as ``0012from0009``: code of revision 0009 or later
    works on it. Later revisions keep that suffix, until another one replaces it.
    """
    found, code = _ID.fullmatch(revision or ""), _ID.fullmatch(own)
    if found is None or code is None:
        return False
    if found[1] == code[1]:
        return True
    return found[1] > code[1] and (found[2] is None or found[2] <= code[1])


def prepare(database: Database) -> None:
    """Create or upgrade the schema of an embedded database or one in memory. Only check that of any other.

    Raises StartupError if this release does not work on it, or it cannot be upgraded.
    """
    if is_usable(found := current(database)):
        if found != HEAD:
            _log.info(
                "The database %s has the schema %s of a later release, which this one can use.", database.name, found
            )
    elif database.embedded or database.is_in_memory:
        migrate(database)
    else:
        raise StartupError(
            f"The database {database.name} has schema {found or 'none'} where {HEAD} is needed: "
            "run zaqar-sql-db-manage upgrade."
        )


def migrate(database: Database, is_finished: Callable[[str | None], bool] = is_usable) -> None:
    """Upgrade to the latest revision. Several processes may call it at once: one upgrades, the others wait for it.

    Each revision is a transaction of its own, so a crash leaves an earlier revision, and the lock of a table is held
    for the one revision that changes the table. An operation that needs two tables thus never waits for one that
    the upgrade has while the upgrade waits for the other. An empty database, which no operation uses, gets all
    revisions in one transaction. ``is_finished`` gets the revision that the database has.
    """

    def upgrade_one(connection: sa.Connection) -> bool:
        # Ask each time: another process may have upgraded it while this one waited for ``change_schema``.
        found = _current(connection)
        if is_finished(found):
            return False
        upgrade(connection, "head" if found is None else "+1")
        return True

    try:
        while change(database, upgrade_one):
            pass
    except StoreUnavailable as exc:
        raise StartupError(f"The schema of the database {database.name} cannot be upgraded: {exc.__cause__}.") from exc


def change(database: Database, work: Callable[[sa.Connection], R]) -> R:
    """Return ``work(connection)``, run in a transaction for schema changes while processes may use the database.

    It runs again, for up to CHANGE_SECONDS, as long as it conflicts with their operations. Each attempt leaves nothing
    behind. Raises StoreUnavailable.
    """
    end = time.monotonic() + CHANGE_SECONDS
    while True:
        try:
            with database.change_schema() as connection:
                return work(connection)
        except TransactionConflict:
            if time.monotonic() > end:
                raise
            # The operations that waited for the attempt run meanwhile.
            time.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - jitter


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
