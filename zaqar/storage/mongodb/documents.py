# SPDX-License-Identifier: Apache-2.0
"""How the message store is laid out, and from documents to the nouns of the model.

Everything lies in one collection, so that one ``update`` command can change all that an operation changes; its
transaction is then that command and the commit. The first letter of an ``_id`` says what a document is:

``f<uid>``           the fence of a queue: generation ``gen``, segment ``seg``, number of the ``next`` message, counts
                     of what was posted (``ready``, ``delayed``), and ``from``, below which no READY message is
                     alive. Without ``seg`` it is the tombstone of a dropped queue, until ``end``.
``m<segment><n>``    message number n
``c<segment><id>``   a claim, until ``end``. The ``d`` of its messages is always its ``end``.
``s<segment><k>``    the k-th of a few documents whose sums, with the counts of the fence, count the messages by stored
                     state. Several, so that operations which do not touch the fence do not wait for each other. All
                     that brings messages back to READY, and all that moves ``from``, adds to ``back`` of the first.
``r<uid><id>``       a dead letter that was received from another store, remembered until ``end``
``g<segment>``       garbage: a segment that no fence names any more
``p<uid><n>``        a post whose deliveries are not made yet, of messages from number n on; see ``outbox``

Messages and claims belong to a segment, not to a queue: a purge gives the queue a new one and a drop takes it away, in
one small step whatever the old one holds.

A message has short names, as they are stored with each: ``s`` segment, ``q`` sequence, ``t`` state, ``d`` when its
claim or delay ends, ``x`` when it expires, ``c`` when it was created, ``u`` client id, ``k`` claim id, ``n`` claim
count, ``h`` checksum, ``o`` origin, ``b`` body. It is free when it is READY or ``d <= now``, and gone from ``x <= now``
on; so each timer acts at its moment, and moving documents to READY (ripening) and removing expired ones only keeps the
indices short.

A message that was deleted has only ``s``, ``q`` and ``z``, which is its segment again, until it is removed with others:
that way a deletion is an update, and changes the counts in the same command.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias

from bson import ObjectId

from zaqar.model import Message, Origin

Document: TypeAlias = dict[str, Any]

COLLECTION = "message_store"


class Index(NamedTuple):
    """``having`` is the field without which a document is not in the index."""

    name: str
    fields: tuple[str, ...]
    having: str
    unique: bool = False


READY, CLAIMED, DELAYED, ASIDE = 0, 1, 2, 4
"""States as stored. ASIDE are dead letters on their way to another store: no ``x``, as they never expire."""

FIRST_FENCE, AFTER_FENCES = "f", "g"
"""All fences lie between these two ids, as a uid is not empty."""
FIRST_GARBAGE, AFTER_GARBAGE = "g", "h"

SLOTS = 32
"""Documents that hold the counts of a segment."""

SEGMENT_AND_SEQUENCE: Final = ("s", "q")

INDEXES: Final = (
    # Order within a state; ``x`` lets a scan pass expired messages without fetching them.
    Index("order", ("s", "t", "q", "x"), "t"),
    # What falls due next, and what a claim holds.
    Index("due", ("s", "d", "k"), "d"),
    # What has expired. By segment first, so that no queue's probe walks over the expired messages of others.
    Index("expires", ("s", "x"), "x"),
    # Deleted messages that wait to be removed.
    Index("gone", ("z",), "z"),
    # Claims, tombstones and received letters whose time is over.
    Index("end", ("end",), "end"),
    # Posts whose deliveries are to be made; all that finding them takes is in the index.
    Index("outbox", ("queue", "first", "due"), "due"),
)


def fence_id(uid: str) -> str:
    return f"f{uid}"


def segment_id(kind: str, segment: ObjectId, rest: str = "") -> str:
    return f"{kind}{segment}{rest}"


def message_key(segment: ObjectId, sequence: int) -> str:
    return f"m{segment}{sequence:012x}"


def within(kind: str, segment: ObjectId) -> Document:
    """The ids of all documents of a kind that belong to a segment."""
    first = segment_id(kind, segment)
    # The last hexadecimal digit of an ObjectId is followed by the rest, so the end is the segment's own text moved on.
    return {"$gte": first, "$lt": first + "\U0010ffff"}


def message_of(queue_uid: str, document: Document, now: float) -> Message:
    """The message as it is at ``now``: it shows a claim or a delay only while that lasts."""
    state = document["t"]
    end = document["d"] if state in (CLAIMED, DELAYED) and document["d"] > now else None
    origin = document.get("o")
    return Message(
        queue_uid,
        document["q"],
        document["b"],
        document["c"],
        document["x"],
        document["u"],
        document["k"] if state == CLAIMED and end is not None else None,
        document["n"],
        document.get("h"),
        None if origin is None else Origin(*origin),
        due=end if state == DELAYED else None,
    )


def messages_of(queue_uid: str, documents: Iterable[Document], now: float) -> list[Message]:
    """The messages in order."""
    return [message_of(queue_uid, each, now) for each in sorted(documents, key=_sequence)]


def document_of(segment: ObjectId, message: Message) -> Document:
    """A READY message as it is stored, under the segment and the number that it has in ``message``."""
    document: Document = {
        "_id": message_key(segment, message.sequence),
        "s": segment,
        "q": message.sequence,
        "t": READY,
        "x": message.expires,
        "c": message.created,
        "u": message.client_id,
        "n": message.claim_count,
        "b": message.body,
    }
    if message.checksum is not None:
        document["h"] = message.checksum
    if message.origin is not None:
        document["o"] = [message.origin.queue, message.origin.message_id, message.origin.claim_count]
    return document


def _sequence(document: Document) -> int:
    sequence: int = document["q"]
    return sequence
