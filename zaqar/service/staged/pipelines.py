# SPDX-License-Identifier: Apache-2.0
"""Loads the pipelines of ``[storage]``, and makes the parts of the service with them. ``zaqar.app`` calls it.

If a stage has a hook for a resource, its part is the class with stages. Otherwise it is the plain class, so that an
empty pipeline takes no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oslo_config import cfg

from zaqar import entry_points
from zaqar.clock import Clock
from zaqar.model import QUEUE, TOPIC
from zaqar.service.claims import Claims
from zaqar.service.connection_subscriptions import ConnectionSubscriptions
from zaqar.service.messages import Messages
from zaqar.service.queues import Queues
from zaqar.service.staged.claims import StagedClaims
from zaqar.service.staged.controllers import QueueController, SubscriptionController
from zaqar.service.staged.messages import StagedMessages
from zaqar.service.staged.queues import ImpliedCreation, StagedQueues
from zaqar.service.staged.streams import StagedStreams
from zaqar.service.staged.subscriptions import StagedConnectionSubscriptions, StagedSubscriptions
from zaqar.service.streams import Streams
from zaqar.service.subscriptions import Subscriptions
from zaqar.stages.operations import CLAIMS, MESSAGES, QUEUES, SUBSCRIPTIONS, CreateQueue, ListMessages
from zaqar.stages.pipeline import Pipeline
from zaqar.stages.published.adapters import make_stage

GROUP = "zaqar.storage.stages"


@dataclass(frozen=True, slots=True)
class Pipelines:
    """One pipeline for each option. The ``make_`` methods take the parameters of the classes that they make."""

    queues: Pipeline
    topics: Pipeline
    messages: Pipeline
    claims: Pipeline
    subscriptions: Pipeline
    queue_controller: QueueController
    subscription_controller: SubscriptionController

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts, clock: Clock) -> Pipelines:
        """Load every stage. Raises StartupError, with the option and the entry point, if a stage cannot be loaded."""
        queues = QueueController()
        subscriptions = SubscriptionController(queues)
        # OpenStack Zaqar makes its message stages with these arguments.
        keywords = {
            "queue_controller": queues,
            "subscription_controller": subscriptions,
            "max_notifier_workers": conf.notification.max_notifier_workers,
            "require_confirmation": conf.notification.require_confirmation,
        }
        return cls(
            _load(conf, clock, "queue_pipeline", QUEUES),
            _load(conf, clock, "topic_pipeline", QUEUES),
            _load(conf, clock, "message_pipeline", MESSAGES, keywords),
            _load(conf, clock, "claim_pipeline", CLAIMS),
            _load(conf, clock, "subscription_pipeline", SUBSCRIPTIONS),
            queues,
            subscriptions,
        )

    @property
    def want_caller(self) -> bool:
        """Whether a hook gets the caller of an operation without a ``context``; see ``zaqar.context.current``."""
        return any((self.queues, self.topics, self.messages, self.claims, self.subscriptions))

    def make_queues(self, **parts: Any) -> Queues:
        staged = {QUEUE: self.queues, TOPIC: self.topics}
        queues = StagedQueues(pipelines=staged, **parts) if self.queues or self.topics else Queues(**parts)
        self.queue_controller.bind(queues)
        return queues

    def make_streams(self, **parts: Any) -> Streams:
        staged = self.messages.has(ListMessages)
        return StagedStreams(pipeline=self.messages, **parts) if staged else Streams(**parts)

    def make_messages(self, *, queues: Queues, **parts: Any) -> Messages:
        stages = self.messages.stages
        if isinstance(queues, StagedQueues) and (self.queues.has(CreateQueue) or self.topics.has(CreateQueue)):
            stages = (*stages, ImpliedCreation(queues))
        if self.messages:
            return StagedMessages(pipeline=self.messages, queues=queues, stages=stages, **parts)
        return Messages(queues=queues, stages=stages, **parts)

    def make_claims(self, **parts: Any) -> Claims:
        return StagedClaims(pipeline=self.claims, **parts) if self.claims else Claims(**parts)

    def make_for_connections(self, *parts: Any) -> ConnectionSubscriptions:
        if self.subscriptions:
            return StagedConnectionSubscriptions(*parts, pipeline=self.subscriptions)
        return ConnectionSubscriptions(*parts)

    def make_subscriptions(self, **parts: Any) -> Subscriptions:
        pipeline = self.subscriptions
        made = StagedSubscriptions(pipeline=pipeline, **parts) if pipeline else Subscriptions(**parts)
        self.subscription_controller.bind(made)
        return made


def _load(
    conf: cfg.ConfigOpts, clock: Clock, option: str, resource: str, keywords: Mapping[str, Any] | None = None
) -> Pipeline:
    return Pipeline(
        [
            make_stage(
                option,
                name,
                entry_points.load(GROUP, name, option=f"[storage] {option}"),
                resource=resource,
                conf=conf,
                clock=clock,
                keywords=keywords or {},
            )
            for name in conf.storage[option]
        ],
        resource=resource,
    )
