# SPDX-License-Identifier: Apache-2.0
"""The arguments of hooks: one frozen request class for each operation. Its fields are checked and complete.

A stage that changes a request returns a changed copy (``dataclasses.replace``). ``queue_name`` is the queue or topic of
the operation. It cannot be changed, because the caller's rights were checked for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from zaqar.model import Claim, Message, QueueName, Stats, Subscription

QUEUES, MESSAGES, CLAIMS, SUBSCRIPTIONS = "queues", "messages", "claims", "subscriptions"


class ListedQueue(NamedTuple):
    """A queue of a listing. ``metadata`` are the stored metadata, None unless the listing is detailed."""

    name: str
    metadata: Mapping[str, Any] | None = None


class ListedQueues(NamedTuple):
    """A page of queues.

    ``following`` is the name after which the next page begins, None for the last page. ``total`` is the number of all
    queues, None if the caller did not ask for it.
    """

    queues: Sequence[ListedQueue]
    following: str | None = None
    total: int | None = None


class HeldClaim(NamedTuple):
    """A claim and the messages that it holds."""

    claim: Claim
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Request:
    """The base class of the requests."""

    queue_name: QueueName

    operation: ClassVar[str] = ""
    """The hooks are ``before_`` and ``after_`` this name."""
    resource: ClassVar[str] = ""
    result: ClassVar[Any] = None
    """The type of the result. A list with one type means a sequence of such objects, None that there is no result."""
    documents: ClassVar[tuple[str, ...]] = ()
    """The fields with JSON of the client. A published plug-in may change them in place."""


# -- queues and topics -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateQueue(Request):
    """``implied``: a post or a subscription creates the queue. The operation fails if a stage ends such a creation."""

    metadata: Mapping[str, Any]
    implied: bool = False

    operation, resource, result = "create_queue", QUEUES, bool
    documents = ("metadata",)


@dataclass(frozen=True, slots=True)
class GetQueue(Request):
    operation, resource, result = "get_queue", QUEUES, dict


@dataclass(frozen=True, slots=True)
class UpdateQueue(Request):
    """``metadata`` are the complete new metadata, after the patch of the client."""

    metadata: Mapping[str, Any]

    operation, resource, result = "update_queue", QUEUES, dict
    documents = ("metadata",)


@dataclass(frozen=True, slots=True)
class DeleteQueue(Request):
    operation, resource = "delete_queue", QUEUES


@dataclass(frozen=True, slots=True)
class ListQueues(Request):
    """``queue_name`` has an empty name.

    ``name`` is the regular expression that names have to match, None for all; ``values`` are the metadata values that
    the caller asked for.
    """

    marker: str
    limit: int
    detailed: bool
    with_count: bool
    name: str | None
    values: Mapping[str, str]

    operation, resource, result = "list_queues", QUEUES, ListedQueues


@dataclass(frozen=True, slots=True)
class QueueStats(Request):
    operation, resource, result = "queue_stats", QUEUES, Stats


@dataclass(frozen=True, slots=True)
class PurgeQueue(Request):
    """``resource_types`` has ``messages``, ``subscriptions``, or both."""

    resource_types: tuple[str, ...]

    operation, resource = "purge_queue", QUEUES


# -- messages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListMessages(Request):
    """``marker`` is the id of a message, None for the first page."""

    marker: str | None
    limit: int
    echo: bool
    include_claimed: bool
    include_delayed: bool

    operation, resource, result = "list_messages", MESSAGES, [Message]


@dataclass(frozen=True, slots=True)
class GetMessage(Request):
    message_id: str

    operation, resource, result = "get_message", MESSAGES, Message


@dataclass(frozen=True, slots=True)
class GetMessages(Request):
    message_ids: tuple[str, ...]

    operation, resource, result = "get_messages", MESSAGES, [Message]


@dataclass(frozen=True, slots=True)
class DeleteMessage(Request):
    message_id: str
    claim_id: str | None

    operation, resource = "delete_message", MESSAGES


@dataclass(frozen=True, slots=True)
class DeleteMessages(Request):
    message_ids: tuple[str, ...]
    claim_ids: tuple[str, ...] | None

    operation, resource = "delete_messages", MESSAGES


@dataclass(frozen=True, slots=True)
class PopMessages(Request):
    limit: int

    operation, resource, result = "pop_messages", MESSAGES, [Message]


# -- claims ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateClaim(Request):
    """``ttl`` and ``grace`` are in seconds, the defaults filled in."""

    ttl: int
    grace: int
    limit: int

    operation, resource, result = "create_claim", CLAIMS, HeldClaim


@dataclass(frozen=True, slots=True)
class GetClaim(Request):
    claim_id: str

    operation, resource, result = "get_claim", CLAIMS, HeldClaim


@dataclass(frozen=True, slots=True)
class RenewClaim(Request):
    """``ttl`` and ``grace`` are in seconds; None leaves one as it is."""

    claim_id: str
    ttl: int | None
    grace: int | None

    operation, resource = "renew_claim", CLAIMS


@dataclass(frozen=True, slots=True)
class ReleaseClaim(Request):
    claim_id: str

    operation, resource = "release_claim", CLAIMS


# -- subscriptions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateSubscription(Request):
    """``ttl`` is in seconds."""

    subscriber: str
    ttl: int
    options: Mapping[str, Any]

    operation, resource, result = "create_subscription", SUBSCRIPTIONS, str
    documents = ("options",)


@dataclass(frozen=True, slots=True)
class GetSubscription(Request):
    subscription_id: str

    operation, resource, result = "get_subscription", SUBSCRIPTIONS, Subscription


@dataclass(frozen=True, slots=True)
class ListSubscriptions(Request):
    """``marker`` is the id of a subscription, None for the first page."""

    marker: str | None
    limit: int

    operation, resource, result = "list_subscriptions", SUBSCRIPTIONS, [Subscription]


@dataclass(frozen=True, slots=True)
class UpdateSubscription(Request):
    """None leaves a field as it is."""

    subscription_id: str
    subscriber: str | None
    ttl: int | None
    options: Mapping[str, Any] | None

    operation, resource = "update_subscription", SUBSCRIPTIONS
    documents = ("options",)


@dataclass(frozen=True, slots=True)
class DeleteSubscription(Request):
    subscription_id: str

    operation, resource = "delete_subscription", SUBSCRIPTIONS


@dataclass(frozen=True, slots=True)
class ConfirmSubscription(Request):
    """``confirmed`` False unsubscribes."""

    subscription_id: str
    confirmed: bool

    operation, resource = "confirm_subscription", SUBSCRIPTIONS


@dataclass(frozen=True, slots=True)
class RotateSecret(Request):
    """The result is the new secret. ``grace``: seconds for which the replaced secret signs too."""

    subscription_id: str
    grace: int

    operation, resource, result = "rotate_secret", SUBSCRIPTIONS, str


REQUESTS: tuple[type[Request], ...] = (
    *(CreateQueue, GetQueue, UpdateQueue, DeleteQueue, ListQueues, QueueStats, PurgeQueue),
    *(ListMessages, GetMessage, GetMessages, DeleteMessage, DeleteMessages, PopMessages),
    *(CreateClaim, GetClaim, RenewClaim, ReleaseClaim),
    *(CreateSubscription, GetSubscription, ListSubscriptions, UpdateSubscription, DeleteSubscription),
    *(ConfirmSubscription, RotateSecret),
)
"""All request classes. A post has none, because its hooks get the queue and the drafts."""
