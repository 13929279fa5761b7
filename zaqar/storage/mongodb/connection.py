# SPDX-License-Identifier: Apache-2.0
"""The replica set: the client of this process, and the one seam where the library's errors are translated."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import Any, Self

import pymongo
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.mongodb.documents import Document

PATIENCE = 4.5
"""Seconds that one step of an operation takes at most, retries included."""

START_PATIENCE = 15.0
"""Seconds that a start waits for a primary: longer than an election takes."""

OLDEST = (6, 0)

MAJORITY = WriteConcern("majority", j=True, wtimeout=round(PATIENCE * 1000))
"""What is acknowledged is in the journals of a majority, whatever the URI says."""

_OWN_OPTIONS = {"serverSelectionTimeoutMS": 3000, "connectTimeoutMS": 3000}
"""Where the URI does not set them."""


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except PyMongoError as exc:
        raise StoreUnavailable from exc


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

    def session(self) -> ClientSession:
        try:
            return self.sessions.pop()
        except IndexError:
            return self.client.start_session(causal_consistency=False)


class ReplicaSet:
    """One collection on a replica set, shared by threads. After a fork each process has a client of its own."""

    def __init__(self, settings: Mapping[str, Any], collection: str) -> None:
        self._settings = dict(settings)
        self._collection = collection
        self.name: str = settings.get("database") or "zaqar"
        self.application = f"zaqar/{self.name}"
        """What the server calls our sessions; see ``transactions.end_abandoned``."""
        self.retries = Retries.from_settings(settings)
        self._opened: Opened | None = None
        self._opening = threading.Lock()
        _replica_sets.add(self)

    @classmethod
    def open(cls, settings: Mapping[str, Any], collection: str) -> Self:
        """Open it and see that it is a replica set of a version that we know; StartupError where it is not."""
        replica_set = cls(settings, collection)
        try:
            with pymongo.timeout(START_PATIENCE):
                replica_set._check()
        except PyMongoError as exc:
            replica_set.close()
            raise StartupError(f"The MongoDB replica set cannot be used: {_reason(exc, settings['uri'])}.") from exc
        except StartupError:
            replica_set.close()
            raise
        return replica_set

    def __repr__(self) -> str:
        return f"ReplicaSet({self.name!r})"

    @property
    def opened(self) -> Opened:
        opened = self._opened
        return self._open() if opened is None else opened

    def _open(self) -> Opened:
        with self._opening:
            if self._opened is None:
                client = _make_client(self._settings, self.application)
                self._opened = Opened(client, self.name, self._collection)
            return self._opened

    def _check(self) -> None:
        # A client that is told nothing else waits for a primary; a standalone server counts as one.
        end = time.monotonic() + START_PATIENCE
        admin = self.opened.client.admin
        while True:
            try:
                hello = admin.command("hello")
                break
            except ConnectionFailure:
                if time.monotonic() > end:
                    raise
        if "setName" not in hello:
            what = "the router of a sharded cluster" if hello.get("msg") == "isdbgrid" else "a server of its own"
            raise StartupError(
                f"MongoDB is {what} and not a replica set, which the store needs; one of a single member will do."
            )
        version = admin.command("buildInfo")["versionArray"]
        if tuple(version[:2]) < OLDEST:
            raise StartupError(f"MongoDB is of version {version[0]}.{version[1]}; the store needs 6.0 or newer.")

    def create_index(
        self, name: str, fields: tuple[str, ...], *, having: str | None = None, unique: bool = False
    ) -> None:
        """The same index again is fine, also from several processes at the same time."""
        options: Document = {} if having is None else {"partialFilterExpression": {having: {"$exists": True}}}
        with translated(), pymongo.timeout(START_PATIENCE):
            self.opened.collection.create_index([(field, 1) for field in fields], name=name, unique=unique, **options)

    def ping(self) -> None:
        with translated(), pymongo.timeout(PATIENCE):
            self.opened.client.admin.command("ping")

    def durability(self) -> Mapping[str, str]:
        with translated(), pymongo.timeout(PATIENCE):
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
        options: dict[str, Any] = {name: value for name, value in _OWN_OPTIONS.items() if name not in given}
        with _tls_options(settings, encrypted=bool(given.get("tls") or given.get("ssl"))) as tls:
            return MongoClient(uri, appname=application, tz_aware=False, **options, **tls)
    except (PyMongoError, ValueError, TypeError, OSError) as exc:
        raise StartupError(f"The uri or the ssl options of the MongoDB store are wrong: {_reason(exc, uri)}.") from exc


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


def _reason(exc: Exception, uri: str) -> str:
    """What went wrong, in a few words that cannot hold a password."""
    if isinstance(exc, OperationFailure):
        return (exc.details or {}).get("codeName") or f"error {exc.code}"
    if isinstance(exc, ConnectionFailure):
        return "no primary answers"
    # The text may quote a part of a URI that was not understood, and so a part of a password.
    return type(exc).__name__ if "@" in uri else str(exc).rstrip(".")
