# SPDX-License-Identifier: Apache-2.0
"""One MongoDB replica set: its client in this process, its collections, and the translation of pymongo's errors.

Both stores open a :class:`ReplicaSet`. ``transactions`` reads and writes through its :class:`Connection`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple, Self, TypeAlias

import pymongo
from pymongo import IndexModel, MongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.base import Outage

_log = logging.getLogger(__name__)

Document: TypeAlias = dict[str, Any]
"""A document, a query or an update of one, or a stage of an aggregation pipeline."""

STEP_TIMEOUT = 4.0
"""Seconds that one step of an operation takes at most, retries included."""

START_TIMEOUT = 2.0
"""Seconds that a start waits for a primary. Without one the store is opened all the same, and checked later."""

PING_TIMEOUT = 2.5
FIRST_PING_TIMEOUT = 1.5
"""Seconds for a ping before the first contact: the registration of a pool waits for a start and a ping."""

MIN_WIRE_VERSION = 17
"""The ``maxWireVersion`` of MongoDB 6.0."""

MAJORITY = WriteConcern("majority", j=True, wtimeout=round(STEP_TIMEOUT * 1000))
"""An acknowledged write is in the journals of a majority, whatever the URI says."""

MAX_CONNECTIONS = 50
"""To each member, unless the settings have ``connections``."""

_DEFAULT_OPTIONS = {"serverSelectionTimeoutMS": 3000, "connectTimeoutMS": 3000, "maxIdleTimeMS": 60_000}
"""Options of the client that apply if the URI does not set them."""


class Index(NamedTuple):
    """An index of a collection. A document without the field ``having`` is not in the index."""

    name: str
    fields: tuple[str, ...]
    having: str
    unique: bool = False


@dataclass(frozen=True)
class Retries:
    """How often and how fast a step is retried, from the settings of the store. STEP_TIMEOUT ends it in any case."""

    attempts: int = 1000
    longest_pause: float = 0.1
    jitter: float = 0.005
    reconnects: int = 10
    reconnect_pause: float = 0.02

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        names = {
            "attempts": "max_attempts",
            "longest_pause": "max_retry_sleep",
            "jitter": "max_retry_jitter",
            "reconnects": "max_reconnect_attempts",
            "reconnect_pause": "reconnect_sleep",
        }
        return cls(**{ours: settings[name] for ours, name in names.items() if settings.get(name) is not None})


class CollectionViews:
    """One collection with each combination of read and write concern that the driver uses."""

    def __init__(self, database: Database[Document], name: str) -> None:
        self.name = name
        self.majority: Collection[Document] = database[name]
        """Reads see what a majority has. Writes are journaled by a majority."""
        self.snapshot = self.majority.with_options(read_concern=ReadConcern("snapshot"))
        """An aggregation sees what a majority had at one moment."""
        self.latest = self.majority.with_options(read_concern=ReadConcern("local"))
        """Reads see what the primary has, which a fail-over may still roll back."""
        self.primary_only = self.majority.with_options(write_concern=WriteConcern(1))
        """Writes are acknowledged by the primary alone: for documents that no operation can reach any more."""


class Connection:
    """A client of one process, its collections, and the sessions that wait for their next transaction."""

    def __init__(self, client: MongoClient[Document], database: str, main: str) -> None:
        self.client = client
        self.database: Database[Document] = client.get_database(
            database,
            write_concern=MAJORITY,
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
        self.main = CollectionViews(self.database, main)
        """The collection that a store uses most; see ``ReplicaSet``."""
        self.sessions: list[ClientSession] = []
        self._collections = {main: self.main}

    def __getitem__(self, collection: str) -> CollectionViews:
        views = self._collections.get(collection)
        if views is None:
            # Two threads may both make one. They are equal, and it does not matter which of them stays.
            views = self._collections[collection] = CollectionViews(self.database, collection)
        return views

    def take_session(self) -> ClientSession:
        """A session for one transaction, from those that were returned before if there is one."""
        try:
            return self.sessions.pop()
        except IndexError:
            return self.client.start_session(causal_consistency=False)

    def return_session(self, session: ClientSession) -> None:
        """Keep the session for another transaction, but no more sessions than there are connections."""
        if len(self.sessions) < self.client.options.pool_options.max_pool_size:
            self.sessions.append(session)
        else:
            session.end_session()


class ReplicaSet:
    """The collections of one store on a replica set, shared by threads. After a fork each process has its own client.

    The first contact checks that the server is a replica set of a supported version, and makes the indexes.
    """

    def __init__(self, settings: Mapping[str, Any], indexes: Mapping[str, Sequence[Index]]) -> None:
        """``indexes`` are those of each collection. The first collection is the main one of the store."""
        self._settings = dict(settings)
        self._indexes = indexes
        self.name: str = settings.get("database") or "zaqar"
        self.application = f"zaqar/{self.name}"
        """The name of our sessions at the server; see ``transactions.end_abandoned``."""
        self._outage = Outage.of(f"The MongoDB replica set of database '{self.name}'")
        self.retries = Retries.from_settings(settings)
        self._connection: Connection | None = None
        self._connecting = threading.Lock()
        self._is_prepared = False
        _replica_sets.add(self)

    @classmethod
    def open(cls, settings: Mapping[str, Any], indexes: Mapping[str, Sequence[Index]]) -> Self:
        """Raises StartupError for settings that cannot work and for an unfit server; a server may be away."""
        replica_set = cls(settings, indexes)
        try:
            with pymongo.timeout(START_TIMEOUT):
                replica_set._wait_for_primary()
                replica_set.connection  # noqa: B018
        except PyMongoError as exc:
            if not _may_come_back(exc):
                replica_set.close()
                raise StartupError(f"The MongoDB replica set cannot be used: {_reason(exc)}.") from exc
            replica_set.unavailable(exc)
        except StartupError:
            replica_set.close()
            raise
        return replica_set

    def __repr__(self) -> str:
        return f"ReplicaSet({self.name!r})"

    @property
    def connection(self) -> Connection:
        connection = self._connection
        return connection if connection is not None and self._is_prepared else self._connect()

    def _connect(self) -> Connection:
        with self._connecting:
            connection = self._open_client()
            if not self._is_prepared:
                _check(connection.client)
                self._make_indexes(connection)
                self._is_prepared = True
            return connection

    def _open_client(self) -> Connection:
        if self._connection is None:
            client = _make_client(self._settings, self.application)
            self._connection = Connection(client, self.name, next(iter(self._indexes)))
        return self._connection

    def _wait_for_primary(self) -> None:
        """Give up sooner than pymongo: as soon as all servers have refused, or none belongs to the set."""
        with self._connecting:
            connection = self._open_client()
        end = time.monotonic() + START_TIMEOUT
        while True:
            seen = connection.client.topology_description
            servers = seen.server_descriptions().values()
            if seen.has_writable_server():
                return
            if not servers:
                raise ConnectionFailure("none of the servers belongs to a replica set of that name")
            if all(server.error is not None for server in servers) or time.monotonic() > end:
                raise ConnectionFailure(
                    "; ".join(_reason(server.error) for server in servers if server.error) or "no primary"
                )
            time.sleep(0.005)

    def _make_indexes(self, connection: Connection) -> None:
        """Make the indexes that are missing. Idempotent, also if several processes do it at the same time."""
        for collection, indexes in self._indexes.items():
            models = [
                IndexModel(
                    [(field, 1) for field in index.fields],
                    name=index.name,
                    unique=index.unique,
                    partialFilterExpression={index.having: {"$exists": True}},
                )
                for index in indexes
            ]
            if models:
                # By default each member has to take part, so one that is down would hold up the first start.
                connection.database[collection].create_indexes(models, commitQuorum="majority")

    @contextmanager
    def translate_errors(self, *, note_success: bool = True) -> Iterator[None]:
        """Raise StoreUnavailable, which the outage log has noted, for an error of pymongo.

        With ``note_success`` False the caller handles some errors itself, and calls ``note_success`` if there was none.
        """
        try:
            yield
        except (PyMongoError, StartupError) as exc:
            raise self.unavailable(exc) from exc
        if note_success:
            self.note_success()

    @contextmanager
    def step(self) -> Iterator[Connection]:
        """One step of an operation that is not retried, with the time limit of a step and with translated errors."""
        with self.translate_errors(), pymongo.timeout(STEP_TIMEOUT):
            yield self.connection

    def note_success(self) -> None:
        """Tell the outage log that the server has answered."""
        if self._outage.since is not None:
            self._outage.succeeded()

    def unavailable(self, exc: Exception | None) -> StoreUnavailable:
        """The error for an operation that failed because of ``exc``; None if each attempt met a conflict."""
        return self._outage.failed("others were faster at each attempt" if exc is None else _reason(exc))

    def connections(self) -> Mapping[str, int]:
        """See ``MessageStore.connections``: those to all members together, and the limit for each member.

        Empty while this process has no client, as after a fork.
        """
        connection = self._connection
        if connection is None:
            return {}
        client = connection.client
        # PERF: these parts are private. The public way, a listener of events, costs each command some microseconds.
        pools = [server.pool for server in list(client._topology._servers.values())]
        most = client.options.pool_options.max_pool_size
        return {
            "used": sum(pool.active_sockets for pool in pools),
            "idle": sum(len(pool.conns) for pool in pools),
            **({"max": int(most)} if most else {}),
        }

    def ping(self) -> None:
        with self.translate_errors(), pymongo.timeout(PING_TIMEOUT if self._is_prepared else FIRST_PING_TIMEOUT):
            self.connection.client.admin.command("ping")

    def durability(self) -> Mapping[str, str]:
        with self.translate_errors(), pymongo.timeout(STEP_TIMEOUT):
            hello = self.connection.client.admin.command("hello")
        voters = len(hello.get("hosts", ()))
        if voters > 1:
            survives = "process crash and power cut; loss of any member that leaves a majority"
        else:
            survives = "process crash and power cut, not the loss of the only member"
        return {
            "store": "mongodb",
            "write_concern": "majority, journaled",
            "members": str(voters + len(hello.get("passives", ()))),
            "survives": survives,
        }

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(PyMongoError):  # The client is not used again, so it does not matter how it ends.
                for session in connection.sessions:
                    session.end_session()
                connection.client.close()

    def forget_client(self) -> None:
        """In the child of a fork: the sockets and threads of the client belong to the parent."""
        self._connecting = threading.Lock()
        if self._connection is not None:
            _connections_of_parent.append(self._connection)
            self._connection = None


_replica_sets: weakref.WeakSet[ReplicaSet] = weakref.WeakSet()
_connections_of_parent: list[Connection] = []
"""Kept for ever: if a client were garbage-collected, it would close sockets that the parent works with."""


def _after_fork() -> None:
    for replica_set in list(_replica_sets):
        replica_set.forget_client()


os.register_at_fork(after_in_child=_after_fork)


def count_up_to(collection: Collection[Document], which: Document, most: int | None) -> int:
    """Count the documents that match. The count stops at ``most``; None is no limit."""
    if most is None:
        return collection.count_documents(which)
    # The server refuses a limit of 0.
    return collection.count_documents(which, limit=most) if most > 0 else 0


# -- the client -------------------------------------------------------------------------------------------------------


def _make_client(settings: Mapping[str, Any], application: str) -> MongoClient[Document]:
    uri = settings.get("uri")
    if not uri:
        raise StartupError("The MongoDB store has no uri; it is mongodb://host:port,host:port/?replicaSet=name.")
    try:
        given = parse_uri(uri)["options"]
        connections = given.get("maxPoolSize", settings.get("connections") or MAX_CONNECTIONS)
        defaults = {**_DEFAULT_OPTIONS, "maxPoolSize": connections}
        options: dict[str, Any] = {name: value for name, value in defaults.items() if name not in given}
        if settings.get("change_stream") and connections:
            # The change stream uses one nearly all the time, so it gets one more. 0 is no limit.
            options["maxPoolSize"] = connections + 1
        with _tls_options(settings, encrypted=bool(given.get("tls") or given.get("ssl"))) as tls:
            return MongoClient(uri, appname=application, tz_aware=False, **options, **tls)
    except (PyMongoError, ValueError, TypeError, OSError) as exc:
        raise StartupError(
            f"The uri or the ssl options of the MongoDB store are wrong: {_text_without_password(exc, uri)}."
        ) from exc


@contextmanager
def _tls_options(settings: Mapping[str, Any], *, encrypted: bool) -> Iterator[dict[str, Any]]:
    """The ``ssl_`` settings as options of the client. The client reads the files while it is made, inside of this."""
    options: dict[str, Any] = {}
    key, certificate = settings.get("ssl_keyfile"), settings.get("ssl_certfile")
    if settings.get("ssl_ca_certs"):
        options["tlsCAFile"] = settings["ssl_ca_certs"]
    if certificate or key:
        options["tlsCertificateKeyFile"] = certificate or key
    if settings.get("ssl_cert_reqs") == "CERT_NONE" and (encrypted or options):
        options["tlsAllowInvalidCertificates"] = True
    if not (certificate and key and certificate != key):
        yield options
        return
    # The client wants both in one file. No other user can read this one, and it is removed when the client is made.
    with NamedTemporaryFile(prefix="zaqar-", suffix=".pem") as both:
        for path in (certificate, key):
            with open(path, "rb") as part:  # noqa: PTH123
                both.write(part.read().rstrip() + b"\n")
        both.flush()
        options["tlsCertificateKeyFile"] = both.name
        yield options


def _check(client: MongoClient[Document]) -> None:
    """Raise StartupError unless the server belongs to a replica set of a supported version."""
    # Unless the URI names a replica set, pymongo takes a standalone server, or a router, for a primary.
    hello = client.admin.command("hello")
    if "setName" not in hello:
        kind = "the router of a sharded cluster" if hello.get("msg") == "isdbgrid" else "a server of its own"
        raise StartupError(
            f"MongoDB is {kind} and not a replica set, which the store needs; one of a single member will do."
        )
    if hello["maxWireVersion"] < MIN_WIRE_VERSION:
        raise StartupError("MongoDB is too old; the store needs 6.0 or newer.")


def _may_come_back(exc: PyMongoError) -> bool:
    """Whether the server is only away, as opposed to an answer that refuses."""
    return isinstance(exc, ConnectionFailure) or exc.timeout


def _reason(exc: Exception) -> str:
    """The reason of the failure in a few words, without a password."""
    if isinstance(exc, OperationFailure):
        return (exc.details or {}).get("codeName") or f"error {exc.code}"
    return str(exc).partition(" (configured timeouts")[0].partition(", Timeout:")[0]


def _text_without_password(exc: Exception, uri: str) -> str:
    # The text may quote a part of the URI, and so a part of a password.
    return type(exc).__name__ if "@" in uri else str(exc).rstrip(".")
