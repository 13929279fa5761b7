# SPDX-License-Identifier: Apache-2.0
"""Sends a delivery to a URL of an OpenStack service, with a token of the trust that the subscriber made for it."""

from __future__ import annotations

from typing import Protocol, Self

from oslo_config import cfg

from zaqar.model import Delivery, Subscription
from zaqar.notification.tasks.base import Outcome, Task
from zaqar.notification.tasks.webhook import WebhookTask


class TrustTokens(Protocol):
    """Gets tokens from Keystone."""

    async def token(self, trust_id: str) -> str | None:
        """A token of the trust that is valid now; None where there is none to be had, which may be so for a while."""
        ...


class NoTrusts:
    """The tokens of a service without Keystone."""

    async def token(self, trust_id: str) -> str | None:
        return None


class TrustTask(Task):
    """The webhook task, which the header ``X-Auth-Token`` is given to."""

    def __init__(self, webhook: WebhookTask, tokens: TrustTokens) -> None:
        self._webhook = webhook
        self._tokens = tokens

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        return cls(WebhookTask.from_conf(conf), NoTrusts())

    def target(self, subscription: Subscription) -> str:
        return self._webhook.target(subscription)

    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        trust = subscription.options.get("trust_id")
        token = await self._tokens.token(str(trust)) if trust else None
        if token is None:
            return Outcome(False, None, "there is no token of the subscription's trust")
        return await self._webhook.post(delivery, subscription, extra={"x-auth-token": token}, now=now)

    async def close(self) -> None:
        await self._webhook.close()
