# SPDX-License-Identifier: Apache-2.0
"""A change stream: the server tells a process of changes in a collection as soon as a majority has them.

Nothing is written for it. ``zaqar.storage.mongodb.wakeups`` opens one for the clients that wait in this process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import bson
import pymongo
from pymongo.command_cursor import RawBatchCommandCursor
from pymongo.errors import OperationFailure, PyMongoError

from zaqar.errors import StoreUnavailable
from zaqar.storage.base import Wakeups
from zaqar.storage.mongodb.client.connection import STEP_TIMEOUT, Document, ReplicaSet

_log = logging.getLogger(__name__)

AWAIT_SECONDS = 1.0
"""Longest time for which the server waits for a change before it answers that there is none.

A stream that is closed by another thread ends after that time at the latest.
"""

ANSWER_SECONDS = 2.0
"""Time that an answer may take besides. Without one the server or the network counts as lost."""

_MAX_CHANGES_IN_A_BATCH = 1000

_UNAUTHORIZED = 13


class NotAllowed(Exception):
    """The user of the database may not open a change stream. Trying again does not help."""


class ChangeStream(Wakeups):
    """A cursor on the primary. It ends with the primary; the next one begins with the changes from then on."""

    def __init__(
        self, replica_set: ReplicaSet, updates: Mapping[str, Any], queue_of: Callable[[str], str | None]
    ) -> None:
        """Open the stream on the main collection. Raises NotAllowed and StoreUnavailable.

        ``updates`` is a query that selects the update events to tell of. ``queue_of`` gets the id of an updated
        document and returns the uid of its queue, or None if no client waits for the queue.
        """
        self._queue_of = queue_of
        self._is_closed = False
        self._receiving = threading.Lock()
        pipeline: list[Document] = [
            {"$changeStream": {}},
            {"$match": {"operationType": "update", **updates}},
            # The server refuses a stream without the _id, by which it could be resumed.
            {"$project": {"documentKey": 1}},
        ]
        with replica_set.translate_errors(note_success=False), pymongo.timeout(STEP_TIMEOUT):
            collection = replica_set.connection.main.majority
            # A raw batch is one answer of the server, so posts that come together are received together.
            try:
                batches = collection.aggregate_raw_batches(pipeline, batchSize=_MAX_CHANGES_IN_A_BATCH)
            except OperationFailure as exc:
                if exc.code == _UNAUTHORIZED:
                    raise NotAllowed from exc
                raise
        # The annotation of the library names another class.
        self._batches = cast("RawBatchCommandCursor[Document]", batches)

    def receive(self, seconds: float) -> list[str]:
        end = time.monotonic() + seconds
        try:
            with self._receiving:
                while not self._is_closed:
                    uids = self._receive_batch(min(AWAIT_SECONDS, end - time.monotonic()))
                    if uids or time.monotonic() >= end:
                        return uids
            raise StoreUnavailable
        finally:
            if self._is_closed:
                self._close_cursor()

    def _receive_batch(self, seconds: float) -> list[str]:
        # pymongo takes this time only when it makes the cursor. With 0 the server would use its own default.
        self._batches._max_await_time_ms = max(1, round(seconds * 1000))
        try:
            with pymongo.timeout(max(0.0, seconds) + ANSWER_SECONDS):
                batch = cast("bytes | None", self._batches.try_next())
        except PyMongoError as exc:
            _log.info("A change stream of MongoDB has ended, and will be opened again.", exc_info=exc)
            raise StoreUnavailable from exc
        if batch is not None:
            uids = (self._queue_of(each["documentKey"]["_id"]) for each in bson.decode_all(batch))
            return [*dict.fromkeys(uid for uid in uids if uid is not None)]
        if not self._batches.alive:
            raise StoreUnavailable  # The collection was dropped.
        return []

    def close(self) -> None:
        self._is_closed = True
        self._close_cursor()

    def _close_cursor(self) -> None:
        """Close the cursor, unless another thread receives; that thread closes it afterwards."""
        if self._receiving.acquire(blocking=False):
            try:
                with pymongo.timeout(ANSWER_SECONDS):
                    self._batches.close()
            finally:
                self._receiving.release()
