# SPDX-License-Identifier: Apache-2.0
"""Transactions that are retried when they conflict with others, and reads of one moment.

The parts of both stores call :func:`retry_on_conflict` with a step: a function that reads and writes through the
:class:`Attempt` that it gets, and that may run several times. It begins again whenever a transaction of it ends with
:class:`TransactionConflict`.

Why a write is right
    A transaction reads with the concern ``local``. Within a transaction that is one snapshot of what this primary has
    committed. The commit is acknowledged when a majority has journaled it. A majority then also has everything that the
    transaction has read, because that was committed earlier on the same primary. So no acknowledged write rests on one
    that a fail-over rolls back.

Why numbers become visible in order
    If two transactions write the same document, the server refuses the second one at once (a write conflict), and the
    second one begins again. So a transaction that changes a fence commits after the one that changed it before.

Why a reader never sees a number that means another message later
    A read that answers a client uses the concern ``snapshot``: what a majority has, of one moment. A fail-over does not
    roll that back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pymongo
from pymongo import ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from zaqar.storage.mongodb.client.connection import (
    MAJORITY,
    STEP_TIMEOUT,
    CollectionViews,
    Connection,
    Document,
    ReplicaSet,
)

T = TypeVar("T")

ABANDONED_SECONDS = 1.0
"""A transaction that does nothing for so long counts as abandoned by a process that was killed.

It holds up every operation that writes the same documents, until the server ends it after
``transactionLifetimeLimitSeconds`` (a minute). See :func:`end_abandoned`.
"""

MIN_ATTEMPTS = 10
"""Attempts that a step has even if the setting ``max_attempts`` is smaller.

The first attempt may use a cached fence that is stale already, and a queue that is busy costs a few more.
"""

_SNAPSHOT_ERRORS = (239, 246)
"""SnapshotTooOld and SnapshotUnavailable: the moment cannot be read any more, or not yet after indexes were made."""

MAX_COMMAND_BYTES = 8 * 1024 * 1024
"""Bytes of documents in one insert command. The server takes 16 MiB, with what else the command has."""

_DOCUMENT_OVERHEAD = 400
"""Bytes that are counted for a document besides its body."""

_LOCAL = ReadConcern("local")


class TransactionConflict(Exception):
    """The transaction ended without effect, because another operation was faster. The step has to begin again."""


def retry_on_conflict(
    replica_set: ReplicaSet, step: Callable[[Attempt], T], *, seconds: float | None = None, extra: float = 0.0
) -> T:
    """Call ``step`` until it returns, again after each TransactionConflict.

    So a step must not raise TransactionConflict after it has committed something, unless it may run a second time.
    ``seconds`` is the time limit for all attempts together (STEP_TIMEOUT if it is None), and ``extra`` comes on top.
    Raises StoreUnavailable when the time is over.
    """
    attempt = Attempt(replica_set, seconds=seconds, extra=extra)
    while True:
        attempt.begin()
        with suppress(TransactionConflict):
            return step(attempt)


class Transaction:
    """What a step does inside of a transaction, on the main collection of the store or on another one."""

    def __init__(self, connection: Connection, session: ClientSession, views: CollectionViews) -> None:
        self._connection = connection
        self._session = session
        self._views = views
        self.reads_only = False
        """A step sets it if it has found nothing to change. Then nothing is committed."""

    def on(self, collection: str) -> Transaction:
        """The same transaction on another collection."""
        return Transaction(self._connection, self._session, self._connection[collection])

    def update(self, statements: Sequence[Document], *, expect: int) -> None:
        """Run the statements in their order.

        Raises TransactionConflict unless they matched or inserted exactly ``expect`` documents in all.
        """
        command = {"update": self._views.name, "updates": list(statements), "ordered": True}
        reply = self._connection.database.command(command, session=self._session)
        if reply["n"] != expect or "writeErrors" in reply:
            raise TransactionConflict

    def insert(self, documents: Sequence[Document]) -> None:
        """Insert the documents. Raises TransactionConflict if one of their ids exists."""
        for batch in split_by_size(documents):
            command = {"insert": self._views.name, "documents": batch, "ordered": True}
            reply = self._connection.database.command(command, session=self._session)
            if reply["n"] != len(batch):
                raise TransactionConflict

    def find_one_and_update(self, query: Document, change: Any) -> Document | None:
        """Change one document, and return it as it is afterwards; None if there is none."""
        return self._views.latest.find_one_and_update(
            query, change, return_document=ReturnDocument.AFTER, session=self._session
        )

    def update_one(self, query: Document, change: Document) -> int:
        """Change one document without reading it; return how many there were, 0 or 1."""
        return self._views.majority.update_one(query, change, session=self._session).matched_count

    def find_one(self, query: Document) -> Document | None:
        return self._views.majority.find_one(query, session=self._session)

    def find(
        self, query: Document, *, limit: int = 0, order: str | None = None, fields: Sequence[str] = ()
    ) -> list[Document]:
        """``fields`` are those that are returned besides the id; all if it is empty. A ``limit`` of 0 is none."""
        shown = dict.fromkeys(fields, 1) if fields else None
        cursor = self._views.majority.find(query, shown, limit=limit, batch_size=limit, session=self._session)
        return list(cursor.sort(order, 1) if order else cursor)

    def delete_many(self, query: Document) -> int:
        return self._views.majority.delete_many(query, session=self._session).deleted_count


class Attempt:
    """The current attempt at one step of an operation. The object is the same for all attempts, and keeps their time.

    A caller that needs a single attempt makes one and does not call ``begin``.
    """

    def __init__(self, replica_set: ReplicaSet, *, seconds: float | None = None, extra: float = 0.0) -> None:
        """``seconds`` and ``extra`` as for :func:`retry_on_conflict`."""
        self._set = replica_set
        self._time_limit = (STEP_TIMEOUT if seconds is None else seconds) + extra
        self._retries = replica_set.retries
        self._begun = time.monotonic()
        self._attempts = 0
        self._reconnects = 0
        self._looked_for_abandoned = self._begun
        self._cause: PyMongoError | None = None
        """The error with which the server refused the last transaction; None if a count of documents did not fit."""

    def begin(self) -> None:
        """Begin the next attempt, after a pause if it is not the first. StoreUnavailable when the time is over."""
        if self._attempts:
            self._pause()
        self._attempts += 1

    def start_over(self) -> None:
        """Give the step its whole time again, and no pause, because it has made progress."""
        self._begun = self._looked_for_abandoned = time.monotonic()
        self._attempts = 0

    @property
    def remaining(self) -> float:
        return self._begun + self._time_limit - time.monotonic()

    def _pause(self) -> None:
        retries = self._retries
        lost_connection = isinstance(self._cause, ConnectionFailure)
        self._reconnects += lost_connection
        if lost_connection:
            pause = retries.reconnect_pause
        else:
            # Exponential back-off with jitter. A step that has waited for long pauses for less: otherwise steps that
            # have just begun would always be faster, and it would never succeed.
            waited = 1 - self.remaining / self._time_limit
            longest = retries.longest_pause * max(0.03, 1 - 2 * waited)
            pause = min(longest, 0.002 * 2 ** min(self._attempts - 1, 6)) * random.random()  # noqa: S311
        pause += retries.jitter * random.random() * min(1.0, self._attempts / 8) / 2  # noqa: S311
        over = self._attempts >= max(MIN_ATTEMPTS, retries.attempts) or self._reconnects > retries.reconnects
        if over or self.remaining <= pause:
            raise self._set.unavailable(self._cause) from self._cause
        time.sleep(pause)
        if time.monotonic() - self._looked_for_abandoned > ABANDONED_SECONDS:
            # A live transaction ends within milliseconds. If conflicts last for so long, a killed process may have left
            # one behind.
            self._looked_for_abandoned = time.monotonic()
            with self._set.translate_errors(), pymongo.timeout(max(0.1, self.remaining)):
                end_abandoned(self._set.connection, self._set.application)

    # -- reading -----------------------------------------------------------------------------------------------------

    def read_snapshot(self, pipeline: Sequence[Document], *, expect: int) -> list[Document]:
        """Run an aggregation on the main collection: what a majority has, as of one moment.

        ``expect`` is the largest number of documents that the caller expects, so that they come in one round trip.
        """
        return self._aggregate(pipeline, expect, latest=False)

    def read_latest(self, pipeline: Sequence[Document], *, expect: int) -> list[Document]:
        """Run an aggregation on the main collection: what the primary has.

        A fail-over may roll some of it back, and it need not be of one moment. So it is for a step whose transaction
        checks all of it again.
        """
        return self._aggregate(pipeline, expect, latest=True)

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run any other read. Unlike a write it waits for no transaction of others."""
        with self._set.translate_errors(), pymongo.timeout(max(0.001, self.remaining)):
            return query(self._set.connection)

    def _aggregate(self, pipeline: Sequence[Document], expect: int, *, latest: bool) -> list[Document]:
        with self._set.translate_errors(), pymongo.timeout(max(0.001, self.remaining)):
            while True:
                main = self._set.connection.main
                collection = main.latest if latest else main.snapshot
                try:
                    return list(collection.aggregate(pipeline, batchSize=expect))
                except OperationFailure as exc:
                    if exc.code not in _SNAPSHOT_ERRORS or self.remaining < STEP_TIMEOUT / 9:
                        raise
                    time.sleep(0.01)

    # -- writing -----------------------------------------------------------------------------------------------------

    def update(self, statements: Sequence[Document], *, expect: int) -> None:
        """A transaction of one update command on the main collection; see ``Transaction.update``."""
        with self.transaction() as transaction:
            transaction.update(statements, expect=expect)

    def delete_unreachable(self, query: Document) -> int:
        """Delete documents that no operation can reach any more, without waiting for a majority.

        If a fail-over brings them back, a sweep deletes them again.
        """
        return self.write(lambda connection: connection.main.primary_only.delete_many(query).deleted_count)

    def write(self, change: Callable[[Connection], T]) -> T:
        """Write without a transaction. ``change`` has to be idempotent: it may run again after it took effect.

        Such a write waits for transactions that have changed the same documents. If it waits for ABANDONED_SECONDS, one
        of them may be that of a killed process; then abandoned transactions are ended and the write begins again.
        """
        with self._set.translate_errors():
            while True:
                connection = self._set.connection
                try:
                    with pymongo.timeout(max(0.001, min(ABANDONED_SECONDS, self.remaining))):
                        return change(connection)
                except PyMongoError as exc:
                    if self.remaining < ABANDONED_SECONDS:
                        raise
                    if not exc.timeout:
                        self._reconnects += 1
                        if not isinstance(exc, ConnectionFailure) or self._reconnects > self._retries.reconnects:
                            raise
                        time.sleep(self._retries.reconnect_pause)
                        continue
                with pymongo.timeout(max(0.1, self.remaining)):
                    end_abandoned(connection, self._set.application)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that is committed at the end of the block, or ended without effect if the block raises.

        Raises TransactionConflict if the server refused it, if it was lost with the primary, or if the block did.
        Raises StoreUnavailable for any other failure; then the caller does not know whether it was committed.
        """
        with self._set.translate_errors(note_success=False), pymongo.timeout(max(0.001, self.remaining)):
            connection = self._set.connection
            session = connection.take_session()
            session.start_transaction(_LOCAL, MAJORITY, ReadPreference.PRIMARY)
            transaction = Transaction(connection, session, connection.main)
            try:
                yield transaction
                if transaction.reads_only:
                    _abort(connection, session)
                else:
                    self._commit(session)
                    self._cause = None
            except TransactionConflict:
                self._cause = None
                _abort(connection, session)
                self._return(connection, session)
                raise
            except PyMongoError as exc:
                if not exc.has_error_label("TransientTransactionError"):
                    _abort(connection, session)
                    raise
                # The label says that the server has not committed it and never will.
                self._cause = exc
                _reset(session)
                self._return(connection, session)
                raise TransactionConflict from exc
            except BaseException:
                # An error of the operation, or a greenlet that is killed. Other operations must not wait for it.
                _abort(connection, session)
                raise
            self._return(connection, session)

    def _return(self, connection: Connection, session: ClientSession) -> None:
        connection.return_session(session)
        if self._cause is None:
            self._set.note_success()

    def _commit(self, session: ClientSession) -> None:
        """Commit, and repeat that until the answer is known.

        To commit a transaction again that is committed already changes nothing, also on a new primary.
        """
        while True:
            try:
                session.commit_transaction()
            except PyMongoError as exc:
                if not exc.has_error_label("UnknownTransactionCommitResult") or self.remaining < STEP_TIMEOUT / 9:
                    raise
                time.sleep(self._retries.reconnect_pause)
            else:
                return


def end_abandoned(connection: Connection, application: str) -> None:
    """End transactions of our own processes that have been idle for ABANDONED_SECONDS.

    Nothing is lost. The process that has left such a transaction was killed before its commit, so its caller has no
    answer. If the process is only slow, the server refuses what comes next in the transaction, and the step begins
    again. Sessions of other applications are left alone.
    """
    idle = {
        "type": "idleSession",
        "appName": application,
        "transaction.timeInactiveMicros": {"$gt": ABANDONED_SECONDS * 1_000_000},
    }
    everything: Document = {"$currentOp": {"allUsers": False, "idleSessions": True}}
    try:
        found = list(connection.client.admin.aggregate([everything, {"$match": idle}, {"$project": {"lsid": 1}}]))
        if found:
            connection.client.admin.command({"killSessions": [{"id": each["lsid"]["id"]} for each in found]})
    except OperationFailure:
        return  # The user may not do that. Then the server ends the transactions itself, later.


def _abort(connection: Connection, session: ClientSession) -> None:
    """End the transaction on the server too. pymongo's own method would wait until a majority knows of it."""
    with suppress(PyMongoError):  # It has ended already, or the server will end it.
        connection.client.admin.command({"abortTransaction": 1, "writeConcern": {"w": 1}}, session=session)
    _reset(session)


def _reset(session: ClientSession) -> None:
    """Let the session start another transaction. Its number is greater, which ends what may be left of this one."""
    session._transaction.reset()


def split_by_size(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """The documents in batches of at most MAX_COMMAND_BYTES, or of a single document."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        bodies = sum(len(value) for value in document.values() if isinstance(value, bytes))
        if batch and size + bodies + _DOCUMENT_OVERHEAD > MAX_COMMAND_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += bodies + _DOCUMENT_OVERHEAD
    if batch:
        yield batch
