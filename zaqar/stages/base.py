# SPDX-License-Identifier: Apache-2.0
"""The base class of stages, with two hooks for each operation of the API. Plug-ins override the hooks they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from oslo_config import cfg

from zaqar.context import Context
from zaqar.model import Draft, Message, Queue, Stats, Subscription
from zaqar.stages.operations import (
    ConfirmSubscription,
    CreateClaim,
    CreateQueue,
    CreateSubscription,
    DeleteMessage,
    DeleteMessages,
    DeleteQueue,
    DeleteSubscription,
    GetClaim,
    GetMessage,
    GetMessages,
    GetQueue,
    GetSubscription,
    HeldClaim,
    ListedQueues,
    ListMessages,
    ListQueues,
    ListSubscriptions,
    PopMessages,
    PurgeQueue,
    QueueStats,
    ReleaseClaim,
    RenewClaim,
    RotateSecret,
    UpdateQueue,
    UpdateSubscription,
)

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """Returned by a ``before_`` hook to end the operation: the client gets ``result``, and the store is not called.

    Neither later stages nor ``after_`` hooks are called. For an operation without a result return ``Done(None)``.
    """

    result: R


class Stage:
    """A plug-in of group ``zaqar.storage.stages``. Override the hooks that you need; the others are never called.

    A ``before_`` hook is called after the request was authorised and checked, and before the store. It returns the
    request, or a changed copy, which is checked again, or :class:`Done`. If it raises a ClientError, the client gets
    that error. Any other exception is logged and the client gets 503. The hook may be called again for the same request
    if another request changes the queue at the same time.

    An ``after_`` hook is called after the operation has succeeded. If it raises an exception, that is logged and has no
    other effect.

    A hook runs inside the request, so a slow hook makes the request slow. Threads and greenlets share the object.
    """

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        """Make the stage, once at start for each pipeline. Raises StartupError if it cannot work as configured."""
        return cls()

    def has(self, hook: str) -> bool:
        """Whether the class overrides the hook, so that it has to be called."""
        return getattr(type(self), hook) is not getattr(Stage, hook)

    def label(self) -> str:
        """Return the name of the stage for the log."""
        return f"{type(self).__module__}.{type(self).__qualname__}"

    # -- queues and topics ---------------------------------------------------------------------------------------------

    def before_create_queue(self, context: Context, request: CreateQueue) -> CreateQueue | Done[bool]:
        """A queue is created. The result is whether it was missing."""
        return request

    def after_create_queue(self, context: Context, request: CreateQueue, result: bool) -> None: ...

    def before_get_queue(self, context: Context, request: GetQueue) -> GetQueue | Done[dict[str, Any]]:
        """The metadata of a queue are read. The result has the reserved defaults filled in."""
        return request

    def after_get_queue(self, context: Context, request: GetQueue, result: dict[str, Any]) -> None: ...

    def before_update_queue(self, context: Context, request: UpdateQueue) -> UpdateQueue | Done[dict[str, Any]]:
        """A patch gives the queue new metadata. The result is the metadata for the client."""
        return request

    def after_update_queue(self, context: Context, request: UpdateQueue, result: dict[str, Any]) -> None: ...

    def before_delete_queue(self, context: Context, request: DeleteQueue) -> DeleteQueue | Done[None]:
        """The queue is deleted with all that is in it."""
        return request

    def after_delete_queue(self, context: Context, request: DeleteQueue, result: None) -> None: ...

    def before_list_queues(self, context: Context, request: ListQueues) -> ListQueues | Done[ListedQueues]:
        """Queues are listed."""
        return request

    def after_list_queues(self, context: Context, request: ListQueues, result: ListedQueues) -> None: ...

    def before_queue_stats(self, context: Context, request: QueueStats) -> QueueStats | Done[Stats]:
        """The messages of the queue are counted."""
        return request

    def after_queue_stats(self, context: Context, request: QueueStats, result: Stats) -> None: ...

    def before_purge_queue(self, context: Context, request: PurgeQueue) -> PurgeQueue | Done[None]:
        """The queue is emptied."""
        return request

    def after_purge_queue(self, context: Context, request: PurgeQueue, result: None) -> None: ...

    # -- messages ------------------------------------------------------------------------------------------------------

    def before_post(
        self, context: Context, queue: Queue, drafts: Sequence[Draft]
    ) -> Sequence[Draft] | Done[Sequence[str]]:
        """Messages are posted. Return a list or tuple of drafts to store, or :class:`Done` with the ids to answer."""
        return drafts

    def after_post(self, context: Context, queue: Queue, ids: Sequence[str]) -> None:
        """The drafts are stored under these ids, in order."""

    def before_list_messages(self, context: Context, request: ListMessages) -> ListMessages | Done[Sequence[Message]]:
        """A page of messages is read."""
        return request

    def after_list_messages(self, context: Context, request: ListMessages, result: Sequence[Message]) -> None: ...

    def before_get_message(self, context: Context, request: GetMessage) -> GetMessage | Done[Message]:
        """One message is read."""
        return request

    def after_get_message(self, context: Context, request: GetMessage, result: Message) -> None: ...

    def before_get_messages(self, context: Context, request: GetMessages) -> GetMessages | Done[Sequence[Message]]:
        """Some messages are read by their ids."""
        return request

    def after_get_messages(self, context: Context, request: GetMessages, result: Sequence[Message]) -> None: ...

    def before_delete_message(self, context: Context, request: DeleteMessage) -> DeleteMessage | Done[None]:
        """One message is deleted."""
        return request

    def after_delete_message(self, context: Context, request: DeleteMessage, result: None) -> None: ...

    def before_delete_messages(self, context: Context, request: DeleteMessages) -> DeleteMessages | Done[None]:
        """Some messages are deleted by their ids."""
        return request

    def after_delete_messages(self, context: Context, request: DeleteMessages, result: None) -> None: ...

    def before_pop_messages(self, context: Context, request: PopMessages) -> PopMessages | Done[Sequence[Message]]:
        """The first free messages are popped."""
        return request

    def after_pop_messages(self, context: Context, request: PopMessages, result: Sequence[Message]) -> None: ...

    # -- claims --------------------------------------------------------------------------------------------------------

    def before_create_claim(self, context: Context, request: CreateClaim) -> CreateClaim | Done[HeldClaim]:
        """Messages are claimed. The result may have no messages."""
        return request

    def after_create_claim(self, context: Context, request: CreateClaim, result: HeldClaim) -> None: ...

    def before_get_claim(self, context: Context, request: GetClaim) -> GetClaim | Done[HeldClaim]:
        """A claim is read."""
        return request

    def after_get_claim(self, context: Context, request: GetClaim, result: HeldClaim) -> None: ...

    def before_renew_claim(self, context: Context, request: RenewClaim) -> RenewClaim | Done[None]:
        """A claim is renewed."""
        return request

    def after_renew_claim(self, context: Context, request: RenewClaim, result: None) -> None: ...

    def before_release_claim(self, context: Context, request: ReleaseClaim) -> ReleaseClaim | Done[None]:
        """A claim is released."""
        return request

    def after_release_claim(self, context: Context, request: ReleaseClaim, result: None) -> None: ...

    # -- subscriptions -------------------------------------------------------------------------------------------------

    def before_create_subscription(
        self, context: Context, request: CreateSubscription
    ) -> CreateSubscription | Done[str]:
        """A subscription is created. The result is its id."""
        return request

    def after_create_subscription(self, context: Context, request: CreateSubscription, result: str) -> None: ...

    def before_get_subscription(
        self, context: Context, request: GetSubscription
    ) -> GetSubscription | Done[Subscription]:
        """A subscription is read."""
        return request

    def after_get_subscription(self, context: Context, request: GetSubscription, result: Subscription) -> None: ...

    def before_list_subscriptions(
        self, context: Context, request: ListSubscriptions
    ) -> ListSubscriptions | Done[Sequence[Subscription]]:
        """A page of subscriptions is read."""
        return request

    def after_list_subscriptions(
        self, context: Context, request: ListSubscriptions, result: Sequence[Subscription]
    ) -> None: ...

    def before_update_subscription(
        self, context: Context, request: UpdateSubscription
    ) -> UpdateSubscription | Done[None]:
        """A subscription changes."""
        return request

    def after_update_subscription(self, context: Context, request: UpdateSubscription, result: None) -> None: ...

    def before_delete_subscription(
        self, context: Context, request: DeleteSubscription
    ) -> DeleteSubscription | Done[None]:
        """A subscription is removed."""
        return request

    def after_delete_subscription(self, context: Context, request: DeleteSubscription, result: None) -> None: ...

    def before_confirm_subscription(
        self, context: Context, request: ConfirmSubscription
    ) -> ConfirmSubscription | Done[None]:
        """A subscription is confirmed, or unsubscribed."""
        return request

    def after_confirm_subscription(self, context: Context, request: ConfirmSubscription, result: None) -> None: ...

    def before_rotate_secret(self, context: Context, request: RotateSecret) -> RotateSecret | Done[str]:
        """A subscription gets a new secret, which is the result."""
        return request

    def after_rotate_secret(self, context: Context, request: RotateSecret, result: str) -> None: ...
