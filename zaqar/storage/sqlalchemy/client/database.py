# SPDX-License-Identifier: Apache-2.0
"""What the stores need of a database, whichever it is, and opening the one that a URI names."""

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
    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """What the stores use of a connection of the driver."""

    def execute(self, statement: str, parameters: Parameters = ..., /) -> Cursor: ...
    def executemany(self, statement: str, parameters: Iterable[Parameters], /) -> Cursor: ...
    def rollback(self) -> None: ...


class HasBody(Protocol):
    """A message or delivery that is to be stored."""

    @property
    def body(self) -> bytes: ...


class Database(ABC):
    """One database. Its transactions raise StoreUnavailable where it is away, within bounded time."""

    dialect: str
    """Name of the dialect of SQLAlchemy that its statements are compiled for."""
    name: str
    """What to call it in a sentence: never with a password."""
    embedded: bool
    """Whether the service itself makes the database and keeps its schema up to date."""
    is_in_memory = False

    @classmethod
    def open(cls, uri: str, *, embedded: bool, **options: Any) -> Database:
        """Open it, and raise StartupError, one sentence that names it and the reason, where that cannot be.

        ``options`` are those of the drivers' option groups; each kind of database takes its own and leaves others.
        """
        # Each of these modules needs this one, and the library of PostgreSQL is there only where it is used.
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
        """Open what the options of a store say, and prepare it now or, where it is away, when it is back.

        StartupError where it cannot be opened, or has another schema. Without ``embedded`` the database is the
        service's own, as that of a pool is.
        """
        options = dict(settings)
        database = cls.open(options.pop("uri"), embedded=options.pop("embedded", True), **options)
        database.prepare_once_there()
        return database

    def prepare(self) -> None:
        """Bring the schema up to date where the service owns it; else raise StartupError unless it is."""
        from zaqar.storage.sqlalchemy import migration  # which needs this module, and is needed once

        try:
            migration.prepare(self)
        except StartupError:
            self.close()
            raise

    def prepare_once_there(self) -> None:
        """The same, and log a warning where "stored" is less than it should be. One that can be away overrides it."""
        self.prepare()
        self.warn()

    def warn(self) -> None:
        if warning := self.durability().get("warning"):
            LOG.warning("%s: %s.", self.name, warning)

    @property
    @abstractmethod
    def write(self) -> AbstractContextManager[Connection]:
        """``with database.write as connection``: a transaction that writes."""

    @abstractmethod
    def read(self) -> AbstractContextManager[Connection]:
        """``with database.read() as connection``: a transaction that sees one moment."""

    def read_once(self) -> AbstractContextManager[Connection]:
        """The same for one statement, which sees one moment by itself."""
        return self.read()

    @abstractmethod
    def change_schema(self) -> AbstractContextManager[sa.Connection]:
        """The same as ``write``, but alone, and with a connection of SQLAlchemy, for what is off the hot path."""

    def check_room(self, drafts: Sequence[HasBody]) -> None:
        """StoreUnavailable if what would store these should leave the rest of the disk to what frees space.

        A server of its own has its own way with that.
        """
        return

    @abstractmethod
    def durability(self) -> Mapping[str, str]:
        """What "stored" survives, with a ``warning`` where an acknowledged write may be lost."""

    @abstractmethod
    def close(self) -> None: ...


def _backend_of(uri: str) -> str:
    try:
        return sa.make_url(uri).get_backend_name()
    except (sa.exc.ArgumentError, ValueError) as exc:
        raise StartupError(
            "The URI of the database is not of the form sqlite:///path or postgresql://user:password@host/database."
        ) from exc
