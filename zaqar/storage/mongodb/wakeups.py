# SPDX-License-Identifier: Apache-2.0
"""Wake-ups of clients that wait: which updates of documents tell of a post or a release, and of which queue.

Nothing is written for that. A post changes ``next`` of the fence of its queue. A release, and the promotion of due
messages, add to ``ready`` of the counts in the slot RETURNS of the segment.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Final

from bson import ObjectId

from zaqar.storage.base import Wakeups
from zaqar.storage.mongodb.client.change_stream import ChangeStream, NotAllowed
from zaqar.storage.mongodb.client.connection import ReplicaSet
from zaqar.storage.mongodb.core import MAX_QUEUES
from zaqar.storage.mongodb.documents import ALL_FENCES, RETURNS, uid_of_fence

_log = logging.getLogger(__name__)

_POSTS: Final = {
    "documentKey._id": ALL_FENCES,
    "updateDescription.updatedFields.next": {"$exists": True},
}
_RELEASES: Final = {
    "documentKey._id": {"$regex": f"^counts/[0-9a-f]{{24}}/{RETURNS:x}$"},
    "updateDescription.updatedFields.ready": {"$exists": True},
}


class WaitedQueues:
    """The queues that clients of this process wait for, and the change stream that tells of them."""

    def __init__(self, replica_set: ReplicaSet, *, change_stream: bool) -> None:
        """Without ``change_stream`` there are no wake-ups, and no queue is noted."""
        self._set = replica_set
        self._has_stream = change_stream
        self._lock = threading.Lock()
        self._uids: dict[ObjectId, str] = {}
        """By segment, because a release changes only documents of the segment. Some were waited for earlier."""

    def note(self, uids: Mapping[ObjectId, str]) -> None:
        """Note that somebody waits for these queues, by segment."""
        if not self._has_stream:
            return
        with self._lock:
            if len(self._uids) >= MAX_QUEUES:
                self._uids.clear()  # Who waits now asks once a second, and is noted again.
            self._uids.update(uids)

    def open_stream(self) -> Wakeups | None:
        """See ``MessageStore.wakeups``."""
        if not self._has_stream:
            return None
        try:
            return ChangeStream(self._set, {"$or": [_POSTS, _RELEASES]}, self._queue_of)
        except NotAllowed:
            _log.warning(
                "The user of the MongoDB database '%s' may not open a change stream, so clients that wait learn of"
                " messages that other processes store up to a second later. The role readWrite allows it.",
                self._set.name,
            )
            self._has_stream = False
            return None

    def _queue_of(self, document_id: str) -> str | None:
        """The queue of a fence, or of the counts of a segment if somebody waits for the queue."""
        kind, _, rest = document_id.partition("/")
        if kind == "fence":
            return uid_of_fence(document_id)
        segment, _, _ = rest.partition("/")
        return self._uids.get(ObjectId(segment))
