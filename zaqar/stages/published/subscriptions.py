# SPDX-License-Identifier: Apache-2.0
"""The adapter for published plug-ins in ``subscription_pipeline``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from zaqar.context import Context
from zaqar.errors import Conflict
from zaqar.model import CONFIRMED, PENDING, QueueName, Subscription
from zaqar.stages.base import Done
from zaqar.stages.operations import (
    ConfirmSubscription,
    CreateSubscription,
    DeleteSubscription,
    GetSubscription,
    ListSubscriptions,
    UpdateSubscription,
)
from zaqar.stages.published.base import BadResult, PublishedStage, created_of, integer_of, object_of, page_of

_FIELDS = ("subscriber", "ttl", "options")


class PublishedSubscriptionStage(PublishedStage):
    """Wraps a plug-in with methods for subscriptions."""

    methods: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "before_create_subscription": ("create",),
        "before_get_subscription": ("get",),
        "before_list_subscriptions": ("list",),
        "before_update_subscription": ("update",),
        "before_delete_subscription": ("delete",),
        "before_confirm_subscription": ("confirm",),
    }

    def before_create_subscription(
        self, context: Context, request: CreateSubscription
    ) -> CreateSubscription | Done[str]:
        answer = self._call(
            "create",
            request.queue_name.name,
            request.subscriber,
            request.ttl,
            request.options,
            project=request.queue_name.project,
        )
        if answer is None:
            return request
        if not answer:
            raise Conflict(f"'{request.queue_name.name}' does not take this subscriber.")
        return Done(str(answer))

    def before_get_subscription(
        self, context: Context, request: GetSubscription
    ) -> GetSubscription | Done[Subscription]:
        answer = self._call("get", request.queue_name.name, request.subscription_id, project=request.queue_name.project)
        return request if answer is None else Done(self._subscription(request.queue_name, answer))

    def before_list_subscriptions(
        self, context: Context, request: ListSubscriptions
    ) -> ListSubscriptions | Done[Sequence[Subscription]]:
        answer = self._call(
            "list",
            request.queue_name.name,
            project=request.queue_name.project,
            marker=request.marker,
            limit=request.limit,
        )
        if answer is None:
            return request
        page, _ = page_of(answer, request.limit)
        return Done([self._subscription(request.queue_name, item) for item in page])

    def before_update_subscription(
        self, context: Context, request: UpdateSubscription
    ) -> UpdateSubscription | Done[None]:
        fields: dict[str, Any] = {
            name: getattr(request, name) for name in _FIELDS if getattr(request, name) is not None
        }
        answer = self._call(
            "update",
            request.queue_name.name,
            request.subscription_id,
            project=request.queue_name.project,
            **fields,
        )
        return request if answer is None else Done(None)

    def before_delete_subscription(
        self, context: Context, request: DeleteSubscription
    ) -> DeleteSubscription | Done[None]:
        answer = self._call(
            "delete", request.queue_name.name, request.subscription_id, project=request.queue_name.project
        )
        return request if answer is None else Done(None)

    def before_confirm_subscription(
        self, context: Context, request: ConfirmSubscription
    ) -> ConfirmSubscription | Done[None]:
        answer = self._call(
            "confirm",
            request.queue_name.name,
            request.subscription_id,
            project=request.queue_name.project,
            confirmed=request.confirmed,
        )
        return request if answer is None else Done(None)

    def _subscription(self, queue_name: QueueName, value: object) -> Subscription:
        fields = object_of(value)
        if not isinstance(fields.get("id"), str) or not isinstance(fields.get("subscriber"), str):
            raise BadResult("a subscription without 'id' or 'subscriber'")
        ttl = integer_of(fields.get("ttl", 0), "ttl")
        created = created_of(fields, self._clock())
        return Subscription(
            id=fields["id"],
            queue_uid="",
            project=queue_name.project,
            kind=queue_name.kind,
            source=str(fields.get("source", queue_name.name)),
            subscriber=fields["subscriber"],
            ttl=ttl,
            created=created,
            expires=created + ttl,
            options=object_of(fields.get("options") or {}),
            state=CONFIRMED if fields.get("confirmed") else PENDING,
        )
