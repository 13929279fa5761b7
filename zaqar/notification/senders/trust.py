# SPDX-License-Identifier: Apache-2.0
"""The sender for ``trust+http`` and ``trust+https``: a webhook with a token of the subscription's trust."""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol, Self

from oslo_config import cfg

from zaqar.access.trust_answers import TrustGone, TrustRefused, TrustToken
from zaqar.access.trusts import open_trustee
from zaqar.clock import system_clock
from zaqar.errors import KeystoneUnavailable
from zaqar.model import Delivery, Subscription
from zaqar.notification.senders import trust_tokens
from zaqar.notification.senders.base import Outcome, Sender
from zaqar.notification.senders.webhook import WebhookSender


class TrustTokens(Protocol):
    """Gets tokens from Keystone; see :class:`zaqar.notification.senders.trust_tokens.TrustTokens`."""

    async def token(self, trust_id: str, *, project: str) -> tuple[TrustToken, bool]: ...

    def drop(self, trust_id: str, token: TrustToken) -> None: ...


class TrustSender(Sender):
    """The webhook sender with the header ``X-Auth-Token``.

    The token goes to the URL of the subscriber only: the webhook sender follows no redirect, and a header of the
    subscriber's own cannot replace it.
    """

    def __init__(self, webhook: WebhookSender, tokens: TrustTokens | None) -> None:
        """``tokens``: None in a service that uses no trusts."""
        self._webhook = webhook
        self._tokens = tokens

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        trustee = open_trustee(conf)
        tokens = None if trustee is None else trust_tokens.TrustTokens(trustee.token_of, system_clock)
        return cls(WebhookSender.from_conf(conf), tokens)

    def target(self, subscription: Subscription) -> str:
        return self._webhook.target(subscription)

    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        trust = subscription.options.get("trust_id")
        if not isinstance(trust, str) or self._tokens is None:
            return _not_sent("there is no token of the subscription's trust")
        try:
            token, was_known = await self._tokens.token(trust, project=subscription.project)
            outcome = await self._post(delivery, subscription, token, now=now)
            if outcome.status != HTTPStatus.UNAUTHORIZED:
                return outcome
            # The token may have become invalid before it expired: roles were changed, or it was revoked.
            self._tokens.drop(trust, token)
            if not was_known:
                return outcome
            try:
                token, _ = await self._tokens.token(trust, project=subscription.project)
            except KeystoneUnavailable:
                return outcome
            return await self._post(delivery, subscription, token, now=now)
        except TrustGone:
            return Outcome(False, None, "the trust of the subscription is gone in Keystone", gone=True, reached=None)
        except TrustRefused as exc:
            return _not_sent(str(exc))
        except KeystoneUnavailable:
            return Outcome(False, None, "Keystone is not available", reached=None, postponed=True)

    async def _post(self, delivery: Delivery, subscription: Subscription, token: TrustToken, *, now: float) -> Outcome:
        return await self._webhook.post(delivery, subscription, extra={"x-auth-token": token.value}, now=now)

    async def close(self) -> None:
        await self._webhook.close()


def _not_sent(reason: str) -> Outcome:
    return Outcome(False, None, reason, reached=None)
