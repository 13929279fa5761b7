# SPDX-License-Identifier: Apache-2.0
"""The nouns of the service: frozen, without I/O, shared by all layers.

Times are float seconds since the epoch; durations are whole seconds; bodies are the JSON bytes the client sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zaqar import uris

QUEUE = "queue"
TOPIC = "topic"

PENDING, CONFIRMED, REFUSED = "pending", "confirmed", "refused"
"""States of a subscription. A pending one gets messages unless the service requires a confirmation."""

WAITING, DONE, DEAD = "waiting", "done", "dead"
"""States of a delivery."""

NOTIFICATION = "Notification"
SUBSCRIPTION_CONFIRMATION = "SubscriptionConfirmation"
UNSUBSCRIBE_CONFIRMATION = "UnsubscribeConfirmation"
"""Kinds of a delivery, as they are called in what is sent."""

SEALED = 0x01
"""The first byte of a body that is encrypted. No JSON text begins with it."""

UID_LENGTH = 24
"""Length of a queue's ``uid``: 96 random bits in lower-case hexadecimal digits."""

_MESSAGE_ID = re.compile(r"[0-9a-f]{36}")


class QueueName(NamedTuple):
    """What a client calls a queue: its name within a project and a kind."""

    project: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue or topic as the management store has it.

    ``uid`` is new for each creation; ``generation`` grows with each change of metadata, placement or ``notify``.
    ``metadata`` holds only what was stored, without the defaults of the reserved keys. ``pool`` names the pool that
    holds the messages, None for the one message store of a service without pools. ``notify`` says that there are
    subscribers.
    """

    uid: str
    project: str
    name: str
    kind: str = QUEUE
    metadata: Mapping[str, Any] = field(default_factory=dict)
    pool: str | None = None
    generation: int = 1
    notify: bool = False


@dataclass(frozen=True, slots=True)
class QueueRules:
    """What the reserved metadata of a queue come to, defaults filled in (API facts, section 3)."""

    max_messages_post_size: int
    default_message_ttl: int
    default_message_delay: int
    dead_letter_queue: str | None
    dead_letter_queue_messages_ttl: int | None
    max_claim_count: int | None
    encrypt: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A message on its way in. ``ttl`` counts from the post, also for a message with a ``delay``."""

    body: bytes
    ttl: int
    delay: int = 0
    checksum: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dead letter came from: the queue's name, the id it had there and how often it had been claimed."""

    queue: str
    message_id: str
    claim_count: int


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message. ``sequence`` is its place in the total order of the queue, from 1.

    ``claim_id`` is that of the live claim and None if there is none. ``expires`` is the end of its life, which a
    claim may have moved past ``created`` plus the TTL of the post. ``due`` is the time at which its delay ends,
    and None if it is not delayed at the time of the read. ``error`` says why the body, which is then null, cannot be
    shown; no store sets it.
    """

    queue_uid: str
    sequence: int
    body: bytes
    created: float
    expires: float
    client_id: str
    claim_id: str | None = None
    claim_count: int = 0
    checksum: str | None = None
    origin: Origin | None = None
    error: str | None = None
    due: float | None = None

    @property
    def id(self) -> str:
        return message_id(self.queue_uid, self.sequence)

    @property
    def ttl(self) -> int:
        return round(self.expires - self.created)

    def age(self, now: float) -> int:
        """Whole seconds since it was posted, never negative though clocks of two hosts may differ."""
        return max(0, int(now - self.created))


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease on messages. ``started`` is when it was made or last renewed; it is over at ``started + ttl``."""

    id: str
    ttl: int
    grace: int
    started: float

    @property
    def expires(self) -> float:
        return self.started + self.ttl

    def age(self, now: float) -> int:
        return max(0, int(now - self.started))


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Where a claim moves messages that were claimed ``max_claim_count`` times, and the TTL they get there.

    ``queue`` None: the dead letter queue is on another message store, so a claim passes those messages over; see
    ``MessageStore.set_aside``. ``ttl`` None leaves a message its own end of life.
    """

    queue: Queue | None
    max_claim_count: int
    ttl: int | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """One message store that queues may be placed on: its URI (the scheme names the driver), and its share of queues.

    ``options`` override the driver's options. ``flavor`` names the flavor it belongs to; a pool without one serves the
    queues that ask for none.
    """

    name: str
    uri: str
    weight: int
    options: Mapping[str, Any] = field(default_factory=dict)
    flavor: str | None = None

    def __repr__(self) -> str:
        # Logs and tracebacks must not hold the passwords of a URI.
        return f"Pool({self.name!r}, {uris.mask(self.uri)!r}, weight={self.weight}, flavor={self.flavor!r})"


@dataclass(frozen=True, slots=True)
class Catalog:
    """All pools and flavors of a deployment: a few dozen at most, changed seldom, so they are one versioned record.

    ``flavors`` are names; the pools of a flavor are those that name it. ``version`` is 0 before the first change.
    """

    version: int = 0
    pools: tuple[Pool, ...] = ()
    flavors: tuple[str, ...] = ()

    def pool(self, name: str) -> Pool | None:
        return next((pool for pool in self.pools if pool.name == name), None)

    def pools_of(self, flavor: str | None) -> tuple[Pool, ...]:
        """The pools of a flavor, or with None those that serve queues without one; ordered by name."""
        return tuple(sorted((pool for pool in self.pools if pool.flavor == flavor), key=lambda pool: pool.name))


class Secret(NamedTuple):
    """A signing secret of a subscription. ``expires`` is None for the one in force, else the end of one replaced."""

    value: str
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """Where the messages of a queue are pushed to.

    It belongs to the queue with ``queue_uid``; project, kind and ``source``, the name, are what that one is called.
    ``expires`` is when it is over, ``ttl`` what was asked for. ``version`` grows with each change. ``challenge`` grows
    when what was asked of a subscriber before no longer counts: when there is another subscriber, when it was
    unsubscribed, and when it was subscribed again after that.
    """

    id: str
    queue_uid: str
    project: str
    kind: str
    source: str
    subscriber: str
    ttl: int
    created: float
    expires: float
    options: Mapping[str, Any] = field(default_factory=dict)
    state: str = PENDING
    secrets: tuple[Secret, ...] = ()
    version: int = 1
    challenge: int = 0

    @property
    def grant_terms(self) -> tuple[str, ...]:
        """What a signed grant to confirm it is bound to, besides its path."""
        return self.subscriber, str(self.challenge)

    def __repr__(self) -> str:
        # Logs and tracebacks must not hold the secrets, nor a password of the subscriber's URI.
        return f"Subscription({self.id!r}, {self.source!r}, {self.state}, version={self.version})"

    def age(self, now: float) -> int:
        return max(0, int(now - self.created))


@dataclass(frozen=True, slots=True)
class Trust:
    """A Keystone trust that the service has made for a subscription, and that it deletes when nothing uses it any more.

    ``user_id`` is the user who trusts. ``expires`` is when Keystone ends the trust. ``due`` is when somebody has to
    look next whether the subscription still uses it; ``tries`` counts attempts to delete it that failed. ``attached``:
    the subscription was stored with this trust, or the request that was to do so has failed. Until then only ``due``
    makes anybody look at it.
    """

    id: str
    project: str
    user_id: str
    queue_uid: str
    subscription_id: str
    expires: float
    due: float
    attached: bool = False
    tries: int = 0


class PostPosition(NamedTuple):
    """How far a post has been expanded into deliveries. It only grows, field by field.

    The subscriptions of a queue are expanded in pages, in the order of their ids. All messages are expanded for the
    subscriptions with an id up to ``after``, and the first ``message`` messages of the post for those with an id
    greater than ``after`` and not greater than ``through``. ``through`` is the last id of the page that is being
    expanded, "" between two pages; it is stored because the subscriptions may change before somebody goes on.
    """

    after: str = ""
    through: str = ""
    message: int = 0


NOT_EXPANDED = PostPosition()
"""The position of a new post."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A post on its way to be notified: what was posted by one request, from the sequence number ``first`` on."""

    queue_uid: str
    first: int
    client_id: str
    created: float
    drafts: tuple[Draft, ...]
    position: PostPosition = NOT_EXPANDED


class DeliveryKey(NamedTuple):
    queue_uid: str
    subscription_id: str
    number: int


class Attempt(NamedTuple):
    """One try to deliver. ``status`` is that of the answer, None without one; ``seconds`` it took.

    ``answer`` is the beginning of the answer, or the reason why there is none.
    """

    at: float
    status: int | None
    seconds: float
    answer: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way to one subscriber, or the confirmation of a subscription (``number`` 0).

    ``number`` is the sequence number of the message; ``body``, ``ttl``, ``created`` and ``client_id`` are its own.
    ``due``: when it may be taken next, which under a lease is when that ends; once settled, when it was. ``tries``
    counts since it was posted or resent; ``attempts`` are the latest. A settled one is removed at ``keep_until``.
    """

    queue_uid: str
    subscription_id: str
    number: int
    body: bytes
    ttl: int
    created: float
    client_id: str
    due: float
    kind: str = NOTIFICATION
    owner: str | None = None
    state: str = WAITING
    tries: int = 0
    attempts: tuple[Attempt, ...] = ()
    keep_until: float | None = None

    @property
    def key(self) -> DeliveryKey:
        return DeliveryKey(self.queue_uid, self.subscription_id, self.number)

    @property
    def id(self) -> str:
        """What clients call it: the id of its message. It is one among the deliveries of its subscription."""
        return message_id(self.queue_uid, self.number)


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts at one moment. Delayed messages are in none of them. ``oldest`` and ``newest`` are by sequence."""

    free: int = 0
    claimed: int = 0
    oldest: Message | None = None
    newest: Message | None = None

    @property
    def total(self) -> int:
        return self.free + self.claimed


class QueuePosition(NamedTuple):
    """How far a queue is, for clients that wait for it.

    ``last`` is the number of the newest message that was ever in it, ``free`` whether a message can be claimed now, and
    ``next_due`` the time, in seconds since the epoch, at which the next delay or claim ends; None if there is none.
    """

    last: int
    free: bool
    next_due: float | None


def message_id(queue_uid: str, sequence: int) -> str:
    """The id clients see: the uid of the queue, then the sequence number as 12 hexadecimal digits."""
    return f"{queue_uid}{sequence:012x}"


def is_sealed(body: bytes) -> bool:
    """Whether a body is encrypted, as opposed to the JSON text that was posted."""
    return body[:1] == b"\x01"


def is_message_id(text: str) -> bool:
    """Whether the text has the form of a message id, of any queue."""
    return _MESSAGE_ID.fullmatch(text) is not None


def sequence_of(queue_uid: str, text: str) -> int | None:
    """The sequence number in a message id, or None if the id is malformed or of another or an earlier queue."""
    if is_message_id(text) and text.startswith(queue_uid):
        return int(text[UID_LENGTH:], 16)
    return None
