# SPDX-License-Identifier: Apache-2.0
"""The sender for ``http`` and ``https``: a POST to the subscriber's URL. Nothing the subscriber chooses is trusted."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Self

from oslo_config import cfg

from zaqar.errors import AddressRefused, InvalidInput
from zaqar.model import NOTIFICATION, Delivery, Subscription
from zaqar.notification import payload, webhook_signatures
from zaqar.notification.confirmation import Confirmations
from zaqar.notification.senders.base import Outcome, Sender, shown
from zaqar.notification.senders.http_answers import Answer, NoAnswer
from zaqar.notification.senders.http_client import HttpClient, origin_of
from zaqar.notification.webhook_targets import WebhookTargetPolicy
from zaqar.schemas import post_headers
from zaqar.schemas.subscribers import takes_token
from zaqar.schemas.subscriptions import check_post_headers
from zaqar.tracing.context import headers_of

TOTAL_SECONDS = 10.0
"""Time limit for an attempt, from the look-up of the host's name to the status of the answer."""

_MOST_OF_A_DATE = 64


class WebhookSender(Sender):
    """Keeps connections alive between deliveries; TLS is verified, redirects, cookies and proxies are ignored."""

    def __init__(
        self,
        target_policy: WebhookTargetPolicy,
        confirmations: Confirmations,
        *,
        total_seconds: float = TOTAL_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._target_policy = target_policy
        self._confirmations = confirmations
        self._total_seconds = total_seconds
        self._tls = tls
        self._client: HttpClient | None = None

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        return cls(WebhookTargetPolicy(conf.notification.webhook_allowed_networks), Confirmations(conf))

    def target(self, subscription: Subscription) -> str:
        _, host, port = origin_of(http_url(subscription))
        return f"{host}:{port}"

    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        return await self.post(delivery, subscription, extra={}, now=now)

    async def post(
        self, delivery: Delivery, subscription: Subscription, *, extra: Mapping[str, str], now: float
    ) -> Outcome:
        """As :meth:`send`, with ``extra`` headers that the subscriber cannot replace."""
        url = http_url(subscription)
        if delivery.kind != NOTIFICATION and not self._confirmations.possible:
            return Outcome(False, None, "no confirmation can be made without [signed_url] secret_key")
        body = self._body(delivery, subscription, now)
        try:
            self._target_policy.check_form(url, field="subscriber")
            headers = _headers(subscription, delivery.trace, extra)
            headers |= _signature_headers(delivery, subscription, body, now)
            return _outcome(await self._open_client().post(url, headers, body), now)
        except (InvalidInput, AddressRefused, NoAnswer) as exc:
            return Outcome(False, None, str(exc), reached=False, failure=_failure_of(exc))

    async def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _body(self, delivery: Delivery, subscription: Subscription, now: float) -> bytes:
        if delivery.kind != NOTIFICATION:
            return self._confirmations.document(delivery.kind, subscription, now=now)
        # Receivers of trust+http, and their interoperability tests, expect the body that OpenStack Zaqar sends, which
        # has no id. The id is in the header webhook-id as well.
        with_id = not takes_token(subscription.subscriber)
        message = payload.notification(delivery, subscription, with_id=with_id)
        return payload.apply_template(message, subscription.options)

    def _open_client(self) -> HttpClient:
        # Not in __init__: the client belongs to the event loop, which does not run yet.
        if self._client is None:
            self._client = HttpClient(self._target_policy, total_seconds=self._total_seconds, tls=self._tls)
        return self._client


def http_url(subscription: Subscription) -> str:
    """The URL of a webhook, without the ``trust+`` of ``trust+https``."""
    return re.sub(r"^trust\+", "", subscription.subscriber, count=1, flags=re.IGNORECASE)


def _headers(subscription: Subscription, trace: str | None, extra: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request. Headers of the subscription replace our defaults, and ``extra`` replaces both.

    They were checked when the subscription was made. They are checked again because the rules may have become stricter
    since. Raises InvalidInput.
    """
    given: Mapping[str, str] = subscription.options.get("post_headers") or {}
    check_post_headers(given, subscription.subscriber, project=subscription.project)
    headers = {
        "content-type": "application/json",
        "user-agent": "zaqar",
        "accept": "*/*",
        "accept-encoding": "identity",
        **({} if trace is None else headers_of(trace)),
    }
    # Names are compared as receivers compare them, so that none is sent twice.
    own = {post_headers.fold(name) for name in extra}
    headers |= {name.lower(): value for name, value in given.items() if post_headers.fold(name) not in own}
    return headers | dict(extra)


def _signature_headers(delivery: Delivery, subscription: Subscription, body: bytes, now: float) -> dict[str, str]:
    """The headers of Standard Webhooks. The id is the same each time that the delivery is sent."""
    webhook_id = f"{delivery.id}_{subscription.id}"
    if delivery.kind != NOTIFICATION:
        # All confirmations of a subscription have number 0. The time tells them apart.
        webhook_id += f"_{int(delivery.created * 1000)}"
    timestamp = int(now)
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp)}
    signature = webhook_signatures.sign(subscription.secrets, webhook_id, timestamp, body, now)
    return headers | ({"webhook-signature": signature} if signature else {})


def _outcome(answer: Answer, now: float) -> Outcome:
    status = answer.status
    retry_after = _seconds(answer.retry_after, now) if status in (429, 503) else None
    start = shown(answer.start.decode("utf-8", "replace"))
    return Outcome(200 <= status < 300, status, start, gone=status == 410, retry_after=retry_after)


def _failure_of(error: Exception) -> str:
    if not isinstance(error, NoAnswer):
        return "refused_address"
    match error.__cause__:
        case TimeoutError():
            return "timeout"
        case ssl.SSLError():
            return "tls"
        case _:
            return "connect"


def _seconds(retry_after: str, now: float) -> float | None:
    """Seconds of a ``Retry-After`` (RFC 9110, section 10.2.3); None if it is absent, or neither a number nor a date."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        when = parsedate_to_datetime(text[:_MOST_OF_A_DATE])
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now)
