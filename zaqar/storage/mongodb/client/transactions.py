# SPDX-License-Identifier: Apache-2.0
"""Reads of one moment, and transactions that are tried again.

A write is a transaction with ``readConcern: local``, which in a replica set is one snapshot of what this primary has
committed, and is committed by a journaled majority. What it read was committed earlier on the same primary, so it has
a majority too by then: nothing that rests on a write which is rolled back later is ever acknowledged.

Of two transactions that write one document the second fails at once (a write conflict) and begins again. That also
makes the order: who changes the fence commits after whoever changed it before, so its numbers become visible in order.
Reads that answer a client see what a majority has, of one moment (``readConcern: snapshot``), so a number that was
seen once never belongs to another message after a fail-over.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar

import pymongo
from pymongo import ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from zaqar.storage.mongodb.client.connection import MAJORITY, PATIENCE, Opened, ReplicaSet
from zaqar.storage.mongodb.documents import Document

T = TypeVar("T")

ABANDONED = 1.0
"""Seconds after which a transaction that does nothing counts as one of a process that was killed.

It holds up everybody who wants to write the same documents, by itself until ``transactionLifetimeLimitSeconds``, a
minute, are over. One that is only slow is told so by the server, and begins again.
"""

FEWEST = 10
"""Attempts that a step has in any case: the first may rest on what this process remembers, and be about the past."""

_SNAPSHOT_ERRORS = (239, 246)
"""The moment cannot be read any more, or not yet after the catalog changed."""

MOST_BYTES = 8 * 1024 * 1024
"""Of documents in one command; the server takes 16 MiB, and is told more than the bodies."""

_LOCAL = ReadConcern("local")


class Lost(Exception):
    """Somebody was faster: what the transaction rests on is not so any more. It ends without effect."""


class Transaction:
    """What an operation does inside of one. ``committed`` is whether it took place."""

    def __init__(self, opened: Opened, session: ClientSession) -> None:
        self._opened = opened
        self._session = session
        self.reads_only = False
        """Set by who found that there is nothing to change."""
        self.committed = False

    def beside(self, collection: str) -> Transaction:
        """What the same transaction does in another collection."""
        return Transaction(self._opened.beside(collection), self._session)

    def update(self, statements: Sequence[Document], *, expect: int) -> None:
        """Run the statements in their order; Lost unless they matched or inserted so many documents in all."""
        command = {"update": self._opened.collection.name, "updates": list(statements), "ordered": True}
        reply = self._opened.database.command(command, session=self._session)
        if reply["n"] != expect or "writeErrors" in reply:
            raise Lost

    def insert(self, documents: Sequence[Document]) -> None:
        for batch in _batches(documents):
            command = {"insert": self._opened.collection.name, "documents": batch, "ordered": True}
            reply = self._opened.database.command(command, session=self._session)
            if reply["n"] != len(batch):
                raise Lost

    def change(self, query: Document, change: Any) -> Document | None:
        """Change one document; as it is afterwards."""
        return self._opened.latest.find_one_and_update(
            query, change, return_document=ReturnDocument.AFTER, session=self._session
        )

    def alter(self, query: Document, change: Document) -> int:
        """Change one document without reading it; how many there were, 0 or 1."""
        return self._opened.collection.update_one(query, change, session=self._session).matched_count

    def get(self, query: Document) -> Document | None:
        return self._opened.collection.find_one(query, session=self._session)

    def find(self, query: Document, *, limit: int = 0, order: str | None = None, fields: str = "") -> list[Document]:
        """``fields`` are the letters of those wanted besides the id; all when there are none."""
        shown = dict.fromkeys(fields, 1) if fields else None
        cursor = self._opened.collection.find(query, shown, limit=limit, batch_size=limit, session=self._session)
        return list(cursor.sort(order, 1) if order else cursor)

    def delete(self, query: Document) -> int:
        return self._opened.collection.delete_many(query, session=self._session).deleted_count


class Turns:
    """The attempts at one step of an operation: ``for turn in Turns(...)``, until it returns or patience is over."""

    def __init__(self, replica_set: ReplicaSet, *, more: float = 0.0) -> None:
        self._set = replica_set
        self._patience = PATIENCE + more
        self._retries = replica_set.retries
        self._begun = time.monotonic()
        self._attempts = 0
        self._reconnects = 0
        self._looked_for_abandoned = self._begun
        self._cause: PyMongoError | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Self:
        if self._attempts:
            self._pause()
        self._attempts += 1
        return self

    def begin_anew(self) -> None:
        """After a step that did get on."""
        self._begun = self._looked_for_abandoned = time.monotonic()
        self._attempts = 0

    @property
    def remaining(self) -> float:
        return self._begun + self._patience - time.monotonic()

    def _pause(self) -> None:
        retries = self._retries
        lost_connection = isinstance(self._cause, ConnectionFailure)
        self._reconnects += lost_connection
        if lost_connection:
            pause = retries.reconnect_pause
        else:
            # The longer somebody waits the sooner it tries again, or those who come last would win.
            waited = 1 - self.remaining / self._patience
            longest = retries.longest_pause * max(0.03, 1 - 2 * waited)
            pause = min(longest, 0.002 * 2 ** min(self._attempts - 1, 6)) * random.random()  # noqa: S311
        pause += retries.jitter * random.random() * min(1.0, self._attempts / 8) / 2  # noqa: S311
        over = self._attempts >= max(FEWEST, retries.attempts) or self._reconnects > retries.reconnects
        if over or self.remaining <= pause:
            raise self._set.failed(self._cause) from self._cause
        time.sleep(pause)
        if time.monotonic() - self._looked_for_abandoned > ABANDONED:
            self._looked_for_abandoned = time.monotonic()
            with self._set.translated(), pymongo.timeout(max(0.1, self.remaining)):
                end_abandoned(self._set.opened, self._set.application)

    # -- reading -----------------------------------------------------------------------------------------------------

    def read(self, pipeline: Sequence[Document], *, expect: int) -> list[Document]:
        """What a majority has, as of one moment. ``expect`` sizes the batches, so that one round trip does."""
        return self._aggregate(pipeline, expect, latest=False)

    def peek(self, pipeline: Sequence[Document], *, expect: int) -> list[Document]:
        """What the primary has, for a transaction that checks all of it again."""
        return self._aggregate(pipeline, expect, latest=True)

    def look(self, read: Callable[[Opened], T]) -> T:
        """Any other read. Unlike a write it is held up by nobody."""
        with self._set.translated(), pymongo.timeout(max(0.001, self.remaining)):
            return read(self._set.opened)

    def _aggregate(self, pipeline: Sequence[Document], expect: int, *, latest: bool) -> list[Document]:
        with self._set.translated(), pymongo.timeout(max(0.001, self.remaining)):
            while True:
                opened = self._set.opened
                collection = opened.latest if latest else opened.snapshots
                try:
                    return list(collection.aggregate(pipeline, batchSize=expect))
                except OperationFailure as exc:
                    if exc.code not in _SNAPSHOT_ERRORS or self.remaining < PATIENCE / 9:
                        raise
                    time.sleep(0.01)

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, statements: Sequence[Document], *, expect: int) -> bool:
        """A transaction of one command; False when it did not take place, because others were faster."""
        with self.transaction() as transaction:
            transaction.update(statements, expect=expect)
        return transaction.committed

    def delete(self, query: Document) -> int:
        """Remove what nobody can see, without waiting for a majority."""
        return self.patiently(lambda opened: opened.hasty.delete_many(query).deleted_count)

    def patiently(self, write: Callable[[Opened], T]) -> T:
        """Write without a transaction; ``write`` may be called again after it had its effect.

        Documents that a transaction of a killed process has changed hold it up; that is ended, and it begins again.
        """
        with self._set.translated():
            while True:
                opened = self._set.opened
                try:
                    with pymongo.timeout(max(0.001, min(ABANDONED, self.remaining))):
                        return write(opened)
                except PyMongoError as exc:
                    if self.remaining < ABANDONED:
                        raise
                    if not exc.timeout:
                        self._reconnects += 1
                        if not isinstance(exc, ConnectionFailure) or self._reconnects > self._retries.reconnects:
                            raise
                        time.sleep(self._retries.reconnect_pause)
                        continue
                with pymongo.timeout(max(0.1, self.remaining)):
                    end_abandoned(opened, self._set.application)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Commit at the end. A transaction that the server refused, or that is Lost, ends without an exception."""
        with self._set.translated(answers=False), pymongo.timeout(max(0.001, self.remaining)):
            opened = self._set.opened
            session = opened.session()
            session.start_transaction(_LOCAL, MAJORITY, ReadPreference.PRIMARY)
            transaction = Transaction(opened, session)
            settled = False
            try:
                yield transaction
                if transaction.reads_only:
                    _abort(opened, session)
                else:
                    self._commit(session)
                    self._cause = None
                transaction.committed = settled = True
            except PyMongoError as exc:
                if not exc.has_error_label("TransientTransactionError"):
                    raise
                self._cause = exc
                _forget(session)
                settled = True
            except Lost:
                self._cause = None
                _abort(opened, session)
                settled = True
            finally:
                if not settled:
                    _abort(opened, session)
            opened.give_back(session)
            if self._cause is None:
                self._set.answered()

    def _commit(self, session: ClientSession) -> None:
        """Until the answer is known: to commit what is committed changes nothing, also on another primary."""
        while True:
            try:
                session.commit_transaction()
            except PyMongoError as exc:
                if not exc.has_error_label("UnknownTransactionCommitResult") or self.remaining < PATIENCE / 9:
                    raise
                time.sleep(self._retries.reconnect_pause)
            else:
                return


def end_abandoned(opened: Opened, application: str) -> None:
    """End the transactions of our own processes that do nothing for too long; see ABANDONED."""
    idle = {
        "type": "idleSession",
        "appName": application,
        "transaction.timeInactiveMicros": {"$gt": ABANDONED * 1_000_000},
    }
    everything: Document = {"$currentOp": {"allUsers": False, "idleSessions": True}}
    try:
        found = list(opened.client.admin.aggregate([everything, {"$match": idle}, {"$project": {"lsid": 1}}]))
        if found:
            opened.client.admin.command({"killSessions": [{"id": each["lsid"]["id"]} for each in found]})
    except OperationFailure:
        return  # not allowed to: then the server ends them itself, later


def _abort(opened: Opened, session: ClientSession) -> None:
    """End it on the server too, but without waiting for a majority to know, as the library would."""
    with suppress(PyMongoError):  # it is over already, or the server ends it
        opened.client.admin.command({"abortTransaction": 1, "writeConcern": {"w": 1}}, session=session)
    _forget(session)


def _forget(session: ClientSession) -> None:
    """The next transaction of the session may start: its greater number ends what may be left of this one."""
    session._transaction.reset()


def _batches(documents: Sequence[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        weight = len(document.get("b", b"")) + 400
        if batch and size + weight > MOST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += weight
    if batch:
        yield batch
