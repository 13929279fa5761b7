# SPDX-License-Identifier: Apache-2.0
"""The model objects of the service, such as queues, messages and claims: frozen, without I/O, shared by all layers.

Times are float seconds since the epoch, durations are whole seconds, and bodies are the JSON bytes of the client.
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
"""States of a subscription. A pending subscription gets messages unless the service requires a confirmation."""

WAITING, DONE, DEAD = "waiting", "done", "dead"
"""States of a delivery."""

NOTIFICATION = "Notification"
SUBSCRIPTION_CONFIRMATION = "SubscriptionConfirmation"
UNSUBSCRIBE_CONFIRMATION = "UnsubscribeConfirmation"
"""Kinds of a delivery. Subscribers get these words in the notification."""

SEALED = 0x01
"""The first byte of an encrypted body. No JSON text begins with it."""

UID_LENGTH = 24
"""Length of a queue's ``uid``: 96 random bits in lower-case hexadecimal digits."""

_MESSAGE_ID = re.compile(r"[0-9a-f]{36}")


class QueueName(NamedTuple):
    """The full name of a queue or topic: project, kind and name. Clients choose the name; it is not the uid."""

    project: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue or topic as the management store has it.

    Each creation makes a new ``uid``. ``generation`` grows with each change of metadata, placement or ``notify``.
    ``metadata`` holds only what was stored, without the defaults of the reserved keys. ``pool`` is the name of the pool
    that holds the messages; None is the configured message store. ``notify`` is true if the queue may have subscribers.
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
    """The rules that the reserved metadata of a queue set, with the defaults filled in."""

    max_messages_post_size: int
    default_message_ttl: int
    default_message_delay: int
    dead_letter_queue: str | None
    dead_letter_queue_messages_ttl: int | None
    max_claim_count: int | None
    encrypt: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that is being posted. ``ttl`` counts from the post, also for a message with a ``delay``.

    ``trace`` is the trace context of the post, as :mod:`zaqar.tracing.context` writes it; None if there is none.
    """

    body: bytes
    ttl: int
    delay: int = 0
    checksum: str | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a dead letter: the name of its first queue, its id there, and how often it was claimed there."""

    queue: str
    message_id: str
    claim_count: int


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message. ``sequence`` is its position in the total order of the queue, from 1.

    ``claim_id`` is the id of the live claim, None if there is none. ``expires`` is the time at which the message
    expires; a claim may have moved it past ``created`` plus the TTL of the post. ``due`` is the time at which its delay
    ends, and None if it is not delayed at the time of the read. ``error`` says why the body, which is then null, cannot
    be shown; no store sets it. ``trace`` is that of the draft.
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
    trace: str | None = None

    @property
    def id(self) -> str:
        return message_id(self.queue_uid, self.sequence)

    @property
    def ttl(self) -> int:
        """Whole seconds from the post to the expiry."""
        return round(self.expires - self.created)

    def age(self, now: float) -> int:
        """Whole seconds since the post. Never negative, even if the clocks of two hosts differ."""
        return max(0, int(now - self.created))


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease on messages. ``started`` is the time when it was made or renewed. It expires at ``started + ttl``."""

    id: str
    ttl: int
    grace: int
    started: float

    @property
    def expires(self) -> float:
        return self.started + self.ttl

    def age(self, now: float) -> int:
        """Whole seconds since it was made or renewed."""
        return max(0, int(now - self.started))


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The rule for exhausted messages: where a claim moves messages that were claimed ``max_claim_count`` times.

    ``queue`` is the dead letter queue. None means that it is on another message store, so the claim skips exhausted
    messages; see ``DeadLetterStore.set_aside``. ``ttl`` is the TTL that they get there; with None a message keeps its
    expiry.
    """

    queue: Queue | None
    max_claim_count: int
    ttl: int | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """A message store that may hold queues. The scheme of ``uri`` names the driver.

    ``weight`` is its share of new queues; a pool with weight 0 gets none. ``options`` override the driver's options.
    ``flavor`` names the flavor of the pool. A pool without a flavor gets the queues that ask for none.
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
    """All pools and flavors of a deployment. They are few and rarely change, so they are one versioned record.

    ``flavors`` are names. A pool belongs to the flavor that it names. ``version`` is 0 before the first change.
    """

    version: int = 0
    pools: tuple[Pool, ...] = ()
    flavors: tuple[str, ...] = ()

    def pool(self, name: str) -> Pool | None:
        """The pool with this name, or None."""
        return next((pool for pool in self.pools if pool.name == name), None)

    def pools_of(self, flavor: str | None) -> tuple[Pool, ...]:
        """The pools of a flavor, ordered by name. None: the pools for queues without a flavor."""
        return tuple(sorted((pool for pool in self.pools if pool.flavor == flavor), key=lambda pool: pool.name))


class Secret(NamedTuple):
    """A signing secret of a subscription. ``expires`` is None for the current secret, else its end."""

    value: str
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription: the messages of a queue are sent to ``subscriber``, a URI.

    It belongs to the queue with ``queue_uid``, whose name is ``project``, ``kind`` and ``source``. ``expires`` is the
    time at which it ends, ``ttl`` the number of seconds that the client asked for. ``version`` grows with each change.
    ``challenge`` grows when earlier requests to confirm become void: when the subscriber changes, when it unsubscribes,
    and when it is subscribed again after that.
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
        """The values that a signed permission to confirm this subscription is bound to, besides the path."""
        return self.subscriber, str(self.challenge)

    def __repr__(self) -> str:
        # Logs and tracebacks must not hold the secrets, nor a password of the subscriber's URI.
        return f"Subscription({self.id!r}, {self.source!r}, {self.state}, version={self.version})"

    def age(self, now: float) -> int:
        """Whole seconds since it was created."""
        return max(0, int(now - self.created))


@dataclass(frozen=True, slots=True)
class Trust:
    """A Keystone trust that the service made for a subscription, and that it deletes when no subscription uses it.

    ``user_id`` is the user who made the trust (the trustor). ``expires`` is the time at which Keystone ends the trust.
    ``due`` is the time at which a notifier checks next whether the subscription still uses it. ``tries`` counts failed
    attempts to delete it. ``attached``: the subscription was stored with this trust, or the request to store it failed.
    Until then the end of the subscription does not make the trust due.
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

    The subscriptions of a queue are expanded in pages, in the order of their ids. For subscriptions with an id up to
    ``after`` all messages are expanded. For subscriptions with an id after ``after`` and up to ``through`` the first
    ``message`` messages of the post are expanded. ``through`` is the last id of the page that is being expanded, ""
    between two pages. It is stored because the subscriptions may change before a notifier continues.
    """

    after: str = ""
    through: str = ""
    message: int = 0


NOT_EXPANDED = PostPosition()
"""The position of a new post."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A post that waits to be notified: the messages of one request, with sequence numbers from ``first`` on.

    ``request_id`` is the id of that request, for the log of the notifier; empty if it is unknown.
    """

    queue_uid: str
    first: int
    client_id: str
    created: float
    drafts: tuple[Draft, ...]
    position: PostPosition = NOT_EXPANDED
    request_id: str = ""


class DeliveryKey(NamedTuple):
    """The primary key of a delivery. ``number`` is that of its message."""

    queue_uid: str
    subscription_id: str
    number: int


class Attempt(NamedTuple):
    """One attempt to deliver. ``seconds`` is its duration, ``status`` the status of the answer, None without an answer.

    ``answer`` is the beginning of the answer, or the reason why there is none.
    """

    at: float
    status: int | None
    seconds: float
    answer: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """The delivery of one message to one subscriber, or of the request to confirm a subscription (``number`` 0).

    ``number`` is the sequence number of the message; ``body``, ``ttl``, ``created`` and ``client_id`` are copied from
    the message. ``due`` is the time at which a notifier may take the delivery; under a lease, the end of the lease; for
    a settled delivery, the time when it was settled. ``tries`` counts attempts since the message was posted or resent.
    ``attempts`` are the latest attempts. A settled delivery is removed at ``keep_until``. ``trace`` is that of the
    message. ``request_id`` is the id of the request that posted it, empty if it is unknown.
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
    trace: str | None = None
    request_id: str = ""

    @property
    def key(self) -> DeliveryKey:
        return DeliveryKey(self.queue_uid, self.subscription_id, self.number)

    @property
    def id(self) -> str:
        """The id for clients: the id of the message. It is unique among the deliveries of a subscription."""
        return message_id(self.queue_uid, self.number)


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of messages at one moment, without delayed messages. ``oldest`` and ``newest`` are by sequence."""

    free: int = 0
    claimed: int = 0
    oldest: Message | None = None
    newest: Message | None = None

    @property
    def total(self) -> int:
        """All messages except delayed ones."""
        return self.free + self.claimed


class ClaimResult(NamedTuple):
    """What a claim did: the messages that it leased, and the number of exhausted messages that it moved."""

    messages: list[Message]
    dead_lettered: int = 0


class Swept(NamedTuple):
    """What a sweep removed: the number of records of all kinds, and how many of them were expired messages."""

    removed: int
    expired: int = 0


class QueueUsage(NamedTuple):
    """What a queue holds: the number of its messages, and the bytes of their bodies."""

    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Volume:
    """What a message store holds at one moment, in all queues together.

    ``oldest`` is the ``created`` of the oldest free or claimed message. ``waiting`` and ``dead`` are numbers of
    deliveries. ``oldest_waiting`` is the ``created`` of the oldest WAITING delivery. Both are None if there is none.
    """

    free: int = 0
    claimed: int = 0
    delayed: int = 0
    oldest: float | None = None
    waiting: int = 0
    dead: int = 0
    oldest_waiting: float | None = None

    @property
    def total(self) -> int:
        """All messages except delayed ones."""
        return self.free + self.claimed


class QueuePosition(NamedTuple):
    """The state of a queue that waiting clients need.

    ``last`` is the number of the newest message that was ever in it. ``free``: a message can be claimed now.
    ``next_due`` is the time, in seconds since the epoch, at which the next delay or claim ends; None if there is none.
    """

    last: int
    free: bool
    next_due: float | None


def message_id(queue_uid: str, sequence: int) -> str:
    """Make the id of a message: the uid of the queue, then the sequence number as 12 hexadecimal digits."""
    return f"{queue_uid}{sequence:012x}"


def is_sealed(body: bytes) -> bool:
    """Whether a body is encrypted. Otherwise it is the JSON text that was posted."""
    return body[:1] == b"\x01"


def is_message_id(text: str) -> bool:
    """Whether the text has the form of a message id. The queue may be any queue."""
    return _MESSAGE_ID.fullmatch(text) is not None


def sequence_of(queue_uid: str, text: str) -> int | None:
    """Return the sequence number in a message id; None if the id is malformed, or of another or an earlier queue."""
    if is_message_id(text) and text.startswith(queue_uid):
        return int(text[UID_LENGTH:], 16)
    return None
