# SPDX-License-Identifier: Apache-2.0
"""The replica set: the client of this process, and the one seam where the library's errors are translated."""

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
from typing import Any, Self

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
from zaqar.storage.mongodb.documents import Document, Index

_log = logging.getLogger(__name__)

PATIENCE = 4.0
"""Seconds that one step of an operation takes at most, retries included."""

START_PATIENCE = 2.0
"""Seconds that a start waits for a primary. Without one the store is opened all the same, and checked later."""

PING_PATIENCE = 2.5
FIRST_PING_PATIENCE = 1.5
"""While there was no contact yet: who registers a pool waits for a start and a ping, and should not do so for long."""

OLDEST = 17
"""The ``maxWireVersion`` of MongoDB 6.0."""

MAJORITY = WriteConcern("majority", j=True, wtimeout=round(PATIENCE * 1000))
"""What is acknowledged is in the journals of a majority, whatever the URI says."""

CONNECTIONS = 50
"""To each member, unless the store is told otherwise."""

_OWN_OPTIONS = {"serverSelectionTimeoutMS": 3000, "connectTimeoutMS": 3000, "maxIdleTimeMS": 60_000}
"""Where the URI does not set them."""


@dataclass(frozen=True)
class Retries:
    """How often and how fast a step is tried again, from the options of the store; PATIENCE ends it in any case."""

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


class Opened:
    """A client, and the sessions that wait for their next transaction."""

    def __init__(self, client: MongoClient[Document], database: str, collection: str) -> None:
        self.client = client
        self.database: Database[Document] = client.get_database(
            database,
            write_concern=MAJORITY,
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
        self.collection: Collection[Document] = self.database[collection]
        self.snapshots = self.collection.with_options(read_concern=ReadConcern("snapshot"))
        self.latest = self.collection.with_options(read_concern=ReadConcern("local"))
        self.hasty = self.collection.with_options(write_concern=WriteConcern(1))
        """For writes that nobody waits for."""
        self.sessions: list[ClientSession] = []
        self._beside: dict[str, Opened] = {}

    def beside(self, collection: str) -> Opened:
        """The same for another collection of the database."""
        opened = self._beside.get(collection)
        if opened is None:
            opened = Opened(self.client, self.database.name, collection)
            opened.sessions = self.sessions
            self._beside[collection] = opened
        return opened

    def give_back(self, session: ClientSession) -> None:
        """Keep it for another transaction, as many as there are connections; those of a burst are let go."""
        if len(self.sessions) < self.client.options.pool_options.max_pool_size:
            self.sessions.append(session)
        else:
            session.end_session()

    def session(self) -> ClientSession:
        try:
            return self.sessions.pop()
        except IndexError:
            return self.client.start_session(causal_consistency=False)


class ReplicaSet:
    """One collection on a replica set, shared by threads. After a fork each process has a client of its own.

    The first contact sees that it is a replica set of a version that we know, and makes the collection and its indices,
    and those ``beside`` it.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        collection: str,
        indexes: Sequence[Index] = (),
        beside: Mapping[str, Sequence[Index]] | None = None,
    ) -> None:
        self._settings = dict(settings)
        self._collection = collection
        self._indexes = {collection: indexes, **(beside or {})}
        self.name: str = settings.get("database") or "zaqar"
        self.application = f"zaqar/{self.name}"
        """What the server calls our sessions; see ``transactions.end_abandoned``."""
        self._outage = Outage.of(f"The MongoDB replica set of database '{self.name}'")
        self.retries = Retries.from_settings(settings)
        self._opened: Opened | None = None
        self._opening = threading.Lock()
        self._is_prepared = False
        _replica_sets.add(self)

    @classmethod
    def open(
        cls,
        settings: Mapping[str, Any],
        collection: str,
        indexes: Sequence[Index],
        beside: Mapping[str, Sequence[Index]] | None = None,
    ) -> Self:
        """StartupError for settings that cannot work and a server that is unfit; one that is away is no error."""
        replica_set = cls(settings, collection, indexes, beside)
        try:
            with pymongo.timeout(START_PATIENCE):
                replica_set._wait_for_a_primary()
                replica_set.opened  # noqa: B018
        except PyMongoError as exc:
            if not _is_away(exc):
                replica_set.close()
                raise StartupError(f"The MongoDB replica set cannot be used: {_reason(exc)}.") from exc
            replica_set.failed(exc)
        except StartupError:
            replica_set.close()
            raise
        return replica_set

    def __repr__(self) -> str:
        return f"ReplicaSet({self.name!r})"

    @property
    def opened(self) -> Opened:
        opened = self._opened
        return opened if opened is not None and self._is_prepared else self._open()

    def _open(self) -> Opened:
        with self._opening:
            opened = self._open_client()
            if not self._is_prepared:
                _check(opened.client)
                self._make_indexes(opened)
                self._is_prepared = True
            return opened

    def _open_client(self) -> Opened:
        if self._opened is None:
            client = _make_client(self._settings, self.application)
            self._opened = Opened(client, self.name, self._collection)
        return self._opened

    def _wait_for_a_primary(self) -> None:
        """Unlike the library not for long where all that were asked refuse, or belong to no such set."""
        with self._opening:
            opened = self._open_client()
        end = time.monotonic() + START_PATIENCE
        while True:
            seen = opened.client.topology_description
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

    def _make_indexes(self, opened: Opened) -> None:
        """The same again is fine, also from several processes at the same time."""
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
                opened.database[collection].create_indexes(models, commitQuorum="majority")

    @contextmanager
    def translated(self, *, answers: bool = True) -> Iterator[None]:
        """Errors of the library as StoreUnavailable, which the log has.

        ``answers`` is False for a caller that keeps errors to itself and says by ``answered`` when there was none.
        """
        try:
            yield
        except (PyMongoError, StartupError) as exc:
            raise self.failed(exc) from exc
        if answers:
            self.answered()

    def answered(self) -> None:
        if self._outage.since is not None:
            self._outage.succeeded()

    def failed(self, exc: Exception | None) -> StoreUnavailable:
        """The error for an operation that failed for this reason; None if others were always faster."""
        return self._outage.failed("others were faster at each attempt" if exc is None else _reason(exc))

    def ping(self) -> None:
        with self.translated(), pymongo.timeout(PING_PATIENCE if self._is_prepared else FIRST_PING_PATIENCE):
            self.opened.client.admin.command("ping")

    def durability(self) -> Mapping[str, str]:
        with self.translated(), pymongo.timeout(PATIENCE):
            hello = self.opened.client.admin.command("hello")
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
        opened, self._opened = self._opened, None
        if opened is not None:
            with suppress(PyMongoError):  # it is of no more use, however it ends
                for session in opened.sessions:
                    session.end_session()
                opened.client.close()

    def forget_client(self) -> None:
        """In the child of a fork: the sockets and threads of the client are the parent's."""
        self._opening = threading.Lock()
        if self._opened is not None:
            _of_the_parent.append(self._opened)
            self._opened = None


_replica_sets: weakref.WeakSet[ReplicaSet] = weakref.WeakSet()
_of_the_parent: list[Opened] = []
"""Kept, as collecting a client would close sockets that the parent works with."""


def _after_fork() -> None:
    for replica_set in list(_replica_sets):
        replica_set.forget_client()


os.register_at_fork(after_in_child=_after_fork)


# -- the client -------------------------------------------------------------------------------------------------------


def _make_client(settings: Mapping[str, Any], application: str) -> MongoClient[Document]:
    uri = settings.get("uri")
    if not uri:
        raise StartupError("The MongoDB store has no uri; it is mongodb://host:port,host:port/?replicaSet=name.")
    try:
        given = parse_uri(uri)["options"]
        most = given.get("maxPoolSize", settings.get("connections") or CONNECTIONS)
        own = {**_OWN_OPTIONS, "maxPoolSize": most}
        options: dict[str, Any] = {name: value for name, value in own.items() if name not in given}
        if settings.get("change_stream") and most:
            # One for the change stream, which has it nearly all the time. 0 is no limit.
            options["maxPoolSize"] = most + 1
        with _tls_options(settings, encrypted=bool(given.get("tls") or given.get("ssl"))) as tls:
            return MongoClient(uri, appname=application, tz_aware=False, **options, **tls)
    except (PyMongoError, ValueError, TypeError, OSError) as exc:
        raise StartupError(
            f"The uri or the ssl options of the MongoDB store are wrong: {_misunderstood(exc, uri)}."
        ) from exc


@contextmanager
def _tls_options(settings: Mapping[str, Any], *, encrypted: bool) -> Iterator[dict[str, Any]]:
    """The ``ssl_`` options as those of the client, which reads the files while it is made."""
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
    # The client wants both in one file. This one is readable to nobody else, and gone when the client is made.
    with NamedTemporaryFile(prefix="zaqar-", suffix=".pem") as both:
        for path in (certificate, key):
            with open(path, "rb") as part:  # noqa: PTH123
                both.write(part.read().rstrip() + b"\n")
        both.flush()
        options["tlsCertificateKeyFile"] = both.name
        yield options


def _check(client: MongoClient[Document]) -> None:
    """StartupError unless it is a replica set of a version that we know."""
    # A client that is told nothing else takes a standalone server, and a router, for a primary.
    hello = client.admin.command("hello")
    if "setName" not in hello:
        what = "the router of a sharded cluster" if hello.get("msg") == "isdbgrid" else "a server of its own"
        raise StartupError(
            f"MongoDB is {what} and not a replica set, which the store needs; one of a single member will do."
        )
    if hello["maxWireVersion"] < OLDEST:
        raise StartupError("MongoDB is too old; the store needs 6.0 or newer.")


def _is_away(exc: PyMongoError) -> bool:
    """Whether it may be back, as opposed to an answer that says no."""
    return isinstance(exc, ConnectionFailure) or exc.timeout


def _reason(exc: Exception) -> str:
    """What went wrong, in a few words that cannot hold a password."""
    if isinstance(exc, OperationFailure):
        return (exc.details or {}).get("codeName") or f"error {exc.code}"
    return str(exc).partition(" (configured timeouts")[0].partition(", Timeout:")[0]


def _misunderstood(exc: Exception, uri: str) -> str:
    # The text may quote a part of a URI that was not understood, and so a part of a password.
    return type(exc).__name__ if "@" in uri else str(exc).rstrip(".")
