# SPDX-License-Identifier: Apache-2.0
"""The change stream by which the server tells a process of posts and releases, as soon as a majority has them.

Nothing is written for it. A post changes ``next`` of the fence of its queue. A release, and the ripening of messages
whose delay or claim is over, adds to ``ready`` of the segment's counts that ``count_back`` adds to.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, cast

import bson
import pymongo
from bson import ObjectId
from pymongo.command_cursor import RawBatchCommandCursor
from pymongo.errors import OperationFailure, PyMongoError

from zaqar.errors import StoreUnavailable
from zaqar.storage.base import Wakeups
from zaqar.storage.mongodb.client.connection import PATIENCE, ReplicaSet
from zaqar.storage.mongodb.documents import AFTER_FENCES, FIRST_FENCE, Document
from zaqar.storage.mongodb.statements import BACK

_log = logging.getLogger(__name__)

AWAIT_SECONDS = 1.0
"""Longest time for which the server waits for a change before it answers that there is none; a closed stream ends then.
"""

ANSWER_SECONDS = 2.0
"""Time that an answer may take besides. Without one the server or the network counts as lost."""

_MOST_IN_A_BATCH = 1000

_UNAUTHORIZED = 13

_SEGMENT = slice(1, 25)
"""The part of the id of a document that names its segment; the queue's uid is all behind the first letter."""

_POSTS: Final = {
    "documentKey._id": {"$gt": FIRST_FENCE, "$lt": AFTER_FENCES},
    "updateDescription.updatedFields.next": {"$exists": True},
}
_RELEASES: Final = {
    "documentKey._id": {"$regex": f"^s[0-9a-f]{{24}}{BACK:x}$"},
    "updateDescription.updatedFields.ready": {"$exists": True},
}
_PIPELINE: Final[list[Document]] = [
    {"$changeStream": {}},
    {"$match": {"operationType": "update", "$or": [_POSTS, _RELEASES]}},
    # The server refuses a stream without the _id, by which it could be resumed.
    {"$project": {"documentKey": 1}},
]


class NotAllowed(Exception):
    """The user of the database may not open a change stream. Trying again does not help."""


class ChangeStream(Wakeups):
    """A cursor on the primary. It ends with that, and the next one begins with what happens from then on."""

    def __init__(self, replica_set: ReplicaSet, uid_of: Callable[[ObjectId], str | None]) -> None:
        """``uid_of`` names the queue of a segment, if somebody waits for it. Raises NotAllowed and StoreUnavailable."""
        self._uid_of = uid_of
        self._is_closed = False
        self._receiving = threading.Lock()
        with replica_set.translated(answers=False), pymongo.timeout(PATIENCE):
            # One batch is one answer of the server, so posts that come together are read, and told of, together.
            try:
                batches = replica_set.opened.collection.aggregate_raw_batches(_PIPELINE, batchSize=_MOST_IN_A_BATCH)
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
                self._end()

    def _receive_batch(self, seconds: float) -> list[str]:
        # The library takes this time once for all, when the cursor is made. 0 would be the default of the server.
        self._batches._max_await_time_ms = max(1, round(seconds * 1000))
        try:
            with pymongo.timeout(max(0.0, seconds) + ANSWER_SECONDS):
                batch = cast("bytes | None", self._batches.try_next())
        except PyMongoError as exc:
            _log.info("A change stream of MongoDB has ended, and will be opened again.", exc_info=exc)
            raise StoreUnavailable from exc
        if batch is not None:
            ids = [each["documentKey"]["_id"] for each in bson.decode_all(batch)]
            uids = (id_[1:] if id_.startswith(FIRST_FENCE) else self._uid_of(ObjectId(id_[_SEGMENT])) for id_ in ids)
            return [*dict.fromkeys(uid for uid in uids if uid is not None)]
        if not self._batches.alive:
            raise StoreUnavailable  # The collection was dropped.
        return []

    def close(self) -> None:
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        """Close the cursor, unless another thread receives; that thread closes it afterwards."""
        if self._receiving.acquire(blocking=False):
            try:
                with pymongo.timeout(ANSWER_SECONDS):
                    self._batches.close()
            finally:
                self._receiving.release()
