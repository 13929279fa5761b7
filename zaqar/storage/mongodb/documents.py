# SPDX-License-Identifier: Apache-2.0
"""The documents of the main collection of the message store, their ids, fields and indexes, and from documents to
messages.

All of them are in one collection, so that one ``update`` command can change everything that an operation changes. Its
transaction is then that command and the commit. The word at the beginning of an ``_id`` says what a document is:

``fence/<uid>``
    The fence of a queue: ``generation``, ``segment``, the number of the ``next`` message, counts of posted messages
    (``ready``, ``delayed``), and ``ready_from``: no READY message with a smaller number is alive. Without ``segment``
    it is the tombstone of a dropped queue, until ``end``.
``message/<segment>/<number>``
    A message. The fields are in :class:`Field`.
``claim/<segment>/<claim id>``
    A claim, until ``end``, with ``ttl``, ``grace`` and ``started``. Its messages have the same end, in ``DUE``.
``counts/<segment>/<slot>``
    A few documents whose sums, with the counts of the fence, count the messages by stored state. Operations that do not
    change the fence choose one at random, so that they rarely conflict. The first one (RETURNS) also has ``returns``:
    how often messages came back to READY, or ``ready_from`` was moved.
``received/<uid>/<message id>``
    The id of a dead letter that another store has handed over, remembered until ``end``.
``garbage/<segment>``
    A segment that no fence has any more. A sweep removes its documents.
``post/<uid>/<number>``
    A post of which deliveries are to be made, with messages from that number on; see ``outbox``.

Messages and claims belong to a segment, not to a queue. A purge gives the queue a new segment, and a drop takes the
segment away: a small step, however much the old segment holds.

A message is free if it is READY or if ``DUE`` is past, and gone from ``EXPIRES`` on, so each timer acts at its moment.
To promote due messages to READY, and to remove expired ones, only keeps the indexes short.

A message that was deleted keeps only ``SEGMENT``, ``SEQUENCE`` and ``DELETED``, until it is removed with others. So a
deletion is an update, which can be in the same command as the change of the counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from bson import ObjectId

from zaqar.model import Message, Origin
from zaqar.storage.mongodb.client.connection import Document, Index
from zaqar.storage.mongodb.client.statements import under

MESSAGES: Final = "message_store"
"""The main collection of the message store."""


class Field:
    """The fields of a message. They are single letters, because each message stores all their names."""

    SEGMENT: Final = "s"
    SEQUENCE: Final = "q"
    STATE: Final = "t"
    """READY, CLAIMED, DELAYED or SET_ASIDE."""
    DUE: Final = "d"
    """When the claim or the delay ends; absent if the message is READY."""
    EXPIRES: Final = "x"
    SAVED_EXPIRES: Final = "y"
    """The expiry of a message that is set aside. It has no ``EXPIRES``, because it never expires while it is."""
    CREATED: Final = "c"
    CLIENT: Final = "u"
    CLAIM: Final = "k"
    CLAIM_COUNT: Final = "n"
    CHECKSUM: Final = "h"
    ORIGIN: Final = "o"
    """Of a dead letter: name of the queue, message id and claim count."""
    TRACE: Final = "p"
    """The trace context; absent if the message has none."""
    BODY: Final = "b"
    DELETED: Final = "z"
    """The segment once more, if the message was deleted."""


READY, CLAIMED, DELAYED, SET_ASIDE = 0, 1, 2, 4
"""Stored states. SET_ASIDE are dead letters on their way to another store."""

SLOTS = 32
"""Number of documents that hold the counts of a segment."""

RETURNS = 0
"""The slot of the counts that ``statements.count_returned`` adds to."""

INDEXES: Final = (
    # Order within a state. EXPIRES lets a scan pass expired messages without fetching them.
    Index("order", (Field.SEGMENT, Field.STATE, Field.SEQUENCE, Field.EXPIRES), Field.STATE),
    # What is due next, and what a claim holds.
    Index("due", (Field.SEGMENT, Field.DUE, Field.CLAIM), Field.DUE),
    # What has expired. The segment comes first, so that no queue scans over the expired messages of others.
    Index("expires", (Field.SEGMENT, Field.EXPIRES), Field.EXPIRES),
    # Deleted messages that wait to be removed.
    Index("deleted", (Field.DELETED,), Field.DELETED),
    # Claims, tombstones and ids of received dead letters whose time is over.
    Index("end", ("end",), "end"),
    # Posts of which deliveries are to be made. The index alone answers which are due.
    Index("outbox", ("queue", "first", "due"), "due"),
)

# -- ids --------------------------------------------------------------------------------------------------------------

ALL_FENCES: Final[Mapping[str, str]] = under("fence")
ALL_GARBAGE: Final[Mapping[str, str]] = under("garbage")


def fence_id(uid: str) -> str:
    return f"fence/{uid}"


def uid_of_fence(fence: str) -> str:
    return fence.removeprefix("fence/")


def message_key(segment: ObjectId, sequence: int) -> str:
    return f"message/{segment}/{sequence:012x}"


def claim_key(segment: ObjectId, claim_id: str) -> str:
    return f"claim/{segment}/{claim_id}"


def counts_id(segment: ObjectId, slot: int) -> str:
    return f"counts/{segment}/{slot:x}"


def received_id(uid: str, message_id: str) -> str:
    return f"received/{uid}/{message_id}"


def garbage_id(segment: ObjectId) -> str:
    return f"garbage/{segment}"


def post_id(uid: str, first: int) -> str:
    return f"post/{uid}/{first:012x}"


def within(kind: str, segment: ObjectId) -> Document:
    """A condition for the ids of all documents of a kind that belong to a segment."""
    return under(f"{kind}/{segment}")


# -- messages ---------------------------------------------------------------------------------------------------------


def ready_messages(segment: ObjectId, begin: int, now: float) -> Document:
    """A query for the READY messages from the number ``begin`` on. The index "order" answers it in order."""
    return {
        Field.SEGMENT: segment,
        Field.STATE: READY,
        Field.SEQUENCE: {"$gte": begin},
        Field.EXPIRES: {"$gt": now},
    }


def messages_in_order(
    segment: ObjectId, other_states: Sequence[int], *, ready_from: int, after: int, now: float
) -> Document:
    """A query for READY messages from ``ready_from`` on, and for those of other states after ``after``.

    The index "order" answers it by one scan for each state.
    """
    ready = ready_messages(segment, ready_from, now)
    others = [{**ready, Field.STATE: state, Field.SEQUENCE: {"$gt": after}} for state in other_states]
    return {"$or": [ready, *others]} if others else ready


def message_of(queue_uid: str, document: Document, now: float) -> Message:
    """The message as it is at ``now``: it shows a claim or a delay only while that lasts."""
    state = document[Field.STATE]
    end = document[Field.DUE] if state in (CLAIMED, DELAYED) and document[Field.DUE] > now else None
    origin = document.get(Field.ORIGIN)
    return Message(
        queue_uid,
        document[Field.SEQUENCE],
        document[Field.BODY],
        document[Field.CREATED],
        document[Field.EXPIRES],
        document[Field.CLIENT],
        document[Field.CLAIM] if state == CLAIMED and end is not None else None,
        document[Field.CLAIM_COUNT],
        document.get(Field.CHECKSUM),
        None if origin is None else Origin(*origin),
        due=end if state == DELAYED else None,
        trace=document.get(Field.TRACE),
    )


def messages_of(queue_uid: str, documents: Iterable[Document], now: float) -> list[Message]:
    """The messages, sorted by number."""
    return [message_of(queue_uid, each, now) for each in sorted(documents, key=_sequence)]


def document_of(segment: ObjectId, message: Message) -> Document:
    """A message as it is stored, READY, under the segment and the number that it has in ``message``."""
    document: Document = {
        "_id": message_key(segment, message.sequence),
        Field.SEGMENT: segment,
        Field.SEQUENCE: message.sequence,
        Field.STATE: READY,
        Field.EXPIRES: message.expires,
        Field.CREATED: message.created,
        Field.CLIENT: message.client_id,
        Field.CLAIM_COUNT: message.claim_count,
        Field.BODY: message.body,
    }
    if message.checksum is not None:
        document[Field.CHECKSUM] = message.checksum
    if message.origin is not None:
        document[Field.ORIGIN] = [message.origin.queue, message.origin.message_id, message.origin.claim_count]
    if message.trace is not None:
        document[Field.TRACE] = message.trace
    return document


def _sequence(document: Document) -> Any:
    return document[Field.SEQUENCE]
