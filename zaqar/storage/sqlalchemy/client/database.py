# SPDX-License-Identifier: Apache-2.0
"""The interface of a database: transactions, schema changes, durability. ``Database.open`` opens the one of a URI.

The stores use it, and so do ``migration`` and the command ``zaqar-sql-db-manage``.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import sqlalchemy as sa

from zaqar.errors import StartupError

LOG = logging.getLogger(__name__)

Parameters = Mapping[str, Any]


class Cursor(Protocol):
    """The part of a DBAPI cursor that the stores use."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """The part of a DBAPI connection that the stores use."""

    def execute(self, statement: str, parameters: Parameters = ..., /) -> Cursor: ...
    def executemany(self, statement: str, parameters: Iterable[Parameters], /) -> Cursor: ...
    def rollback(self) -> None: ...


class HasBody(Protocol):
    """A message or delivery that is to be stored."""

    @property
    def body(self) -> bytes: ...


class Database(ABC):
    """One database. Its transactions raise StoreUnavailable within bounded time if the database is unavailable."""

    dialect: str
    """The name that SQLAlchemy and the folders of SQL files have for this kind of database."""
    name: str
    """The database in log lines and error texts. It never contains a password."""
    embedded: bool
    """Whether the service itself creates the database and keeps its schema up to date."""
    is_in_memory = False

    @classmethod
    def open(cls, uri: str, *, embedded: bool, **options: Any) -> Database:
        """Open the database of a URI.

        ``options`` are those of the drivers' option groups. Each kind of database uses its own and ignores the others.
        Raises StartupError, one sentence that names the database and the reason, if it cannot be opened.
        """
        # Import here: both modules need this one, and psycopg is installed only if PostgreSQL is used.
        backend = _backend_of(uri)
        if backend == "sqlite":
            from zaqar.storage.sqlalchemy.sqlite.database import SqliteDatabase

            return SqliteDatabase.connect(uri, embedded=embedded, **options)
        if backend == "postgresql":
            try:
                from zaqar.storage.sqlalchemy.postgresql.database import PostgresqlDatabase
            except ImportError as exc:
                raise StartupError("PostgreSQL needs the library psycopg: install zaqar[postgresql].") from exc

            return PostgresqlDatabase.connect(uri, embedded=embedded, **options)
        raise StartupError(f"Of SQL databases this release can use sqlite and postgresql, not '{backend}'.")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Database:
        """Open the database that the options of a store name, and prepare it.

        A server that is away is prepared later, at the first request that reaches it. Without ``embedded`` in the
        settings the service owns the schema, as it does for a pool. Raises StartupError if the database cannot be
        opened or has another schema.
        """
        options = dict(settings)
        database = cls.open(options.pop("uri"), embedded=options.pop("embedded", True), **options)
        database.prepare_once_there()
        return database

    @classmethod
    def open_as_it_is(cls, settings: Mapping[str, Any]) -> Database:
        """Open the database that the options of a store name, but do not change its schema. An SQLite file must exist.

        Raises StartupError if the database cannot be opened, or if an operator has to upgrade its schema;
        StoreUnavailable if a server does not answer.
        """
        options = dict(settings)
        uri, embedded = options.pop("uri"), options.pop("embedded", True)
        database = cls.open(uri, embedded=False, **options)
        if not embedded:
            # The service itself upgrades an embedded database at its start, so its schema may be an earlier one.
            database.prepare()
        return database

    def prepare(self) -> None:
        """Upgrade the schema if the service owns it; else raise StartupError unless the schema is current."""
        from zaqar.storage.sqlalchemy import migration  # needs this module, and is needed only here

        try:
            migration.prepare(self)
        except StartupError:
            self.close()
            raise

    def prepare_once_there(self) -> None:
        """Prepare the database, and log a warning if an acknowledged write may be lost.

        A database that can be away overrides this and prepares itself when it is reached.
        """
        self.prepare()
        self.warn()

    def warn(self) -> None:
        """Log the warning of ``durability``, if there is one."""
        if warning := self.durability().get("warning"):
            LOG.warning("%s: %s.", self.name, warning)

    @property
    @abstractmethod
    def write(self) -> AbstractContextManager[Connection]:
        """``with database.write as connection``: a transaction that writes."""

    @abstractmethod
    def read(self) -> AbstractContextManager[Connection]:
        """``with database.read() as connection``: a transaction that reads one snapshot."""

    def read_once(self) -> AbstractContextManager[Connection]:
        """A transaction of one statement, which reads one snapshot by itself."""
        return self.read()

    @abstractmethod
    def change_schema(self) -> AbstractContextManager[sa.Connection]:
        """A transaction for schema changes, with a connection of SQLAlchemy. Only one process at a time is in it.

        Raises TransactionConflict if it gets in the way of operations of running processes; see ``migration.change``.
        """

    def check_room(self, drafts: Sequence[HasBody]) -> None:
        """Raise StoreUnavailable if these would use disk space that deletes and claims need.

        Only an embedded database checks. A database server has its own answer to a full disk.
        """
        return

    @abstractmethod
    def durability(self) -> Mapping[str, str]:
        """What an acknowledged write survives, with a ``warning`` if it may be lost."""

    @abstractmethod
    def connections(self) -> Mapping[str, int]:
        """The connections of this process: ``used``, ``idle``, and ``max`` if their number is limited."""

    @abstractmethod
    def close(self) -> None: ...


def _backend_of(uri: str) -> str:
    try:
        return sa.make_url(uri).get_backend_name()
    except (sa.exc.ArgumentError, ValueError) as exc:
        raise StartupError(
            "The URI of the database is not of the form sqlite:///path or postgresql://user:password@host/database."
        ) from exc
