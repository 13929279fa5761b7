# SPDX-License-Identifier: Apache-2.0
"""Subscriptions that run each operation through ``subscription_pipeline``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zaqar.context import Context, caller_in
from zaqar.errors import InvalidInput
from zaqar.model import QueueName, Subscription
from zaqar.schemas.subscribers import CONNECTION_SCHEME
from zaqar.schemas.subscriptions import parse_change, parse_connection_creation, parse_creation, parse_grace
from zaqar.service.connection_subscriptions import ConnectionSubscriptions
from zaqar.service.staged.queues import check_limit, encode_changed
from zaqar.service.subscriptions import Created, Grant, Subscriptions
from zaqar.stages.operations import (
    ConfirmSubscription,
    CreateSubscription,
    DeleteSubscription,
    GetSubscription,
    ListSubscriptions,
    RotateSecret,
    UpdateSubscription,
)
from zaqar.stages.pipeline import Changed, Pipeline


class StagedSubscriptions(Subscriptions):
    """See :class:`Subscriptions` for the methods."""

    def __init__(self, *, pipeline: Pipeline, **parts: Any) -> None:
        """``parts`` are the parameters of :class:`Subscriptions`."""
        super().__init__(**parts)
        self._pipeline = pipeline

    def create(self, context: Context, queue_name: QueueName, raw: bytes) -> Created:
        wanted = parse_creation(raw, source=queue_name.name, project=queue_name.project, limits=self._limits)
        ttl = self._limits.default_subscription_ttl if wanted.ttl is None else wanted.ttl
        secret: str | None = None

        def act(wanted: Changed[CreateSubscription]) -> str:
            nonlocal secret
            request, document = wanted.request, raw
            if wanted.by_stages:
                document = encode_changed(
                    {"subscriber": request.subscriber, "ttl": request.ttl, "options": request.options}
                )
            id_, secret = super(StagedSubscriptions, self).create(context, queue_name, document)
            return id_

        request = CreateSubscription(queue_name, wanted.subscriber or "", ttl, wanted.options or {})
        return Created(self._pipeline.run(context, request, act), secret)

    def list_page(self, queue_name: QueueName, *, marker: str | None, limit: int) -> tuple[list[Subscription], float]:
        now = self._clock()

        def act(wanted: Changed[ListSubscriptions]) -> Sequence[Subscription]:
            nonlocal now
            request = wanted.request
            if wanted.by_stages:
                check_limit(request.limit, self._limits.max_subscriptions_per_page)
            after = None if request.marker is None else str(request.marker)
            found, now = super(StagedSubscriptions, self).list_page(queue_name, marker=after, limit=request.limit)
            return found

        request = ListSubscriptions(queue_name, marker, limit)
        return list(self._pipeline.run(caller_in(queue_name.project), request, act)), now

    def get(self, queue_name: QueueName, id_: str) -> tuple[Subscription, float]:
        now = self._clock()

        def act(wanted: Changed[GetSubscription]) -> Subscription:
            nonlocal now
            found, now = super(StagedSubscriptions, self).get(queue_name, str(wanted.request.subscription_id))
            return found

        return self._pipeline.run(caller_in(queue_name.project), GetSubscription(queue_name, id_), act), now

    def patch(self, context: Context, queue_name: QueueName, id_: str, raw: bytes) -> None:
        change = parse_change(raw, source=queue_name.name, limits=self._limits)

        def act(wanted: Changed[UpdateSubscription]) -> None:
            request, document = wanted.request, raw
            if wanted.by_stages:
                fields = {"subscriber": request.subscriber, "ttl": request.ttl, "options": request.options}
                document = encode_changed({name: value for name, value in fields.items() if value is not None})
            super(StagedSubscriptions, self).patch(context, queue_name, str(request.subscription_id), document)

        request = UpdateSubscription(queue_name, id_, change.subscriber, change.ttl, change.options)
        self._pipeline.run(context, request, act)

    def set_confirmed(self, queue_name: QueueName, id_: str, confirmed: bool, *, grant: Grant | None = None) -> None:
        def act(wanted: Changed[ConfirmSubscription]) -> None:
            request = wanted.request
            super(StagedSubscriptions, self).set_confirmed(
                queue_name, str(request.subscription_id), bool(request.confirmed), grant=grant
            )

        request = ConfirmSubscription(queue_name, id_, confirmed)
        self._pipeline.run(caller_in(queue_name.project), request, act)

    def rotate_secret(self, queue_name: QueueName, id_: str, raw: bytes) -> str:
        def act(wanted: Changed[RotateSecret]) -> str:
            request = wanted.request
            document = encode_changed({"grace": request.grace}) if wanted.by_stages else raw
            return super(StagedSubscriptions, self).rotate_secret(queue_name, str(request.subscription_id), document)

        request = RotateSecret(queue_name, id_, parse_grace(raw))
        return self._pipeline.run(caller_in(queue_name.project), request, act)

    def delete(self, queue_name: QueueName, id_: str) -> None:
        def act(wanted: Changed[DeleteSubscription]) -> None:
            super(StagedSubscriptions, self).delete(queue_name, str(wanted.request.subscription_id))

        self._pipeline.run(caller_in(queue_name.project), DeleteSubscription(queue_name, id_), act)


class StagedConnectionSubscriptions(ConnectionSubscriptions):
    """Runs creations through a pipeline. Stages see the subscriber as clients do, without the id of the node."""

    def __init__(self, *parts: Any, pipeline: Pipeline) -> None:
        """``parts`` are the parameters of :class:`ConnectionSubscriptions`."""
        super().__init__(*parts)
        self._pipeline = pipeline

    def create(self, context: Context, queue_name: QueueName, raw: bytes, connection: str) -> str:
        wanted = parse_connection_creation(raw, source=queue_name.name, project=queue_name.project, limits=self._limits)
        ttl = self._limits.default_subscription_ttl if wanted.ttl is None else wanted.ttl
        subscriber = f"{CONNECTION_SCHEME}:{connection}"

        def act(wanted: Changed[CreateSubscription]) -> str:
            request, document = wanted.request, raw
            if wanted.by_stages:
                if request.subscriber != subscriber:
                    raise InvalidInput("subscriber", "is the connection, which a stage cannot change")
                document = encode_changed({"ttl": request.ttl, "options": request.options})
            return super(StagedConnectionSubscriptions, self).create(context, queue_name, document, connection)

        request = CreateSubscription(queue_name, subscriber, ttl, wanted.options or {})
        return self._pipeline.run(context, request, act)
