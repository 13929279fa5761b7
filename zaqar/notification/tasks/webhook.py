# SPDX-License-Identifier: Apache-2.0
"""Sends a delivery by POST to a URL of the subscriber's, who is not to be trusted in anything."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from oslo_config import cfg
from yarl import URL

from zaqar import signatures
from zaqar.addresses import AddressGuard
from zaqar.conf import notification
from zaqar.errors import AddressRefused, InvalidInput
from zaqar.model import NOTIFICATION, Delivery, Subscription
from zaqar.notification import payload, pinned
from zaqar.notification.confirmation import Confirmations
from zaqar.notification.tasks.base import MOST_OF_AN_ANSWER, Outcome, Task, shown

TOTAL_SECONDS = 10.0
"""Within which a subscriber has to answer, from the look-up of its name on."""

ANSWER_SECONDS = 2.0
"""How long the rest of an answer is waited for once its status is there: that decides, the rest is for people."""

MOST_READ = 65_536
"""Bytes of an answer that are read so that the connection can be used again; with more it is closed."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_LINE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_FRAMING = re.compile(
    r"host|content-length|content-encoding|transfer-encoding|connection|keep-alive|proxy-.*|te|trailer|upgrade|expect",
    re.IGNORECASE,
)


class WebhookTask(Task):
    """Keeps connections alive between deliveries; TLS is verified, redirects, cookies and proxies are ignored."""

    def __init__(
        self,
        guard: AddressGuard,
        confirmations: Confirmations,
        *,
        total_seconds: float = TOTAL_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = guard
        self._confirmations = confirmations
        self._timeout = aiohttp.ClientTimeout(total=total_seconds)
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        return cls(AddressGuard(conf[notification.GROUP].webhook_allowed_networks), Confirmations(conf))

    def target(self, subscription: Subscription) -> str:
        parts = urlsplit(http_url(subscription))
        port = 443 if parts.scheme == "https" else 80
        return f"{parts.hostname}:{parts.port or port}"

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
            self._guard.check_form(url, field="subscriber")
            headers = _headers(subscription.options.get("post_headers") or {}, extra)
            headers |= _signature_headers(delivery, subscription, body, now)
            async with self._open_session().post(
                # As it is: quoting it anew could change a signature in its query.
                URL(url, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
            ) as response:
                return await _outcome(response, now)
        except (InvalidInput, AddressRefused) as exc:
            return Outcome(False, None, str(exc), reached=False)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            return Outcome(False, None, self._reason(exc), reached=False)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _body(self, delivery: Delivery, subscription: Subscription, now: float) -> bytes:
        if delivery.kind != NOTIFICATION:
            return self._confirmations.document(delivery.kind, subscription, now=now)
        return payload.apply_template(payload.notification(delivery, subscription), subscription.options)

    def _open_session(self) -> aiohttp.ClientSession:
        # Not before the loop runs, which it belongs to.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=pinned.connector(self._guard, tls=self._tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                auto_decompress=False,
                # Of what is not read yet about twice as much is held.
                read_bufsize=MOST_READ // 2,
                trust_env=False,
            )
        return self._session

    def _reason(self, exc: BaseException) -> str:
        """One line for people. Not the text of the error, which may have the URL in it, and that a password."""
        match exc:
            case TimeoutError():
                return f"no answer within {self._timeout.total:g} seconds"
            case aiohttp.ClientConnectorCertificateError():
                why = getattr(exc.certificate_error, "verify_message", "")
                return f"the TLS certificate cannot be verified: {why}".rstrip(": ")
            case aiohttp.ClientConnectorDNSError():
                return "the name cannot be resolved"
            case aiohttp.ClientConnectorSSLError():
                return "no TLS connection can be made"
            case aiohttp.ClientConnectorError():
                return f"no connection can be made: {exc.os_error.strerror or exc.os_error}"
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | OSError():
                return "the connection was closed without an answer"
            case _:
                return "the answer is not valid HTTP"


def http_url(subscription: Subscription) -> str:
    """The URL of a webhook, without what stands before it in ``trust+https``."""
    return re.sub(r"^trust\+", "", subscription.subscriber, count=1, flags=re.IGNORECASE)


def _headers(given: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request: those of the subscriber win over our defaults, ``extra`` over all.

    They were checked when somebody subscribed. InvalidInput here, in the last place where it matters, is for one that
    would change where a request goes or ends.
    """
    for name, value in given.items():
        if _FRAMING.fullmatch(name) or _TOKEN.fullmatch(name) is None or _LINE.fullmatch(value) is None:
            raise InvalidInput("options.post_headers", f"{name[:80]!a} cannot be sent")
    headers = {"content-type": "application/json", "user-agent": "zaqar", "accept-encoding": "identity"}
    for each in (given, extra):
        # Names are compared without their case, so that none is sent twice.
        headers |= {name.lower(): value for name, value in each.items()}
    return headers


def _signature_headers(delivery: Delivery, subscription: Subscription, body: bytes, now: float) -> dict[str, str]:
    """The headers of Standard Webhooks. The id is the same each time that the delivery is sent."""
    webhook_id = f"{delivery.id}_{subscription.id}"
    if delivery.kind != NOTIFICATION:
        # All confirmations of a subscription have number 0; each one that was asked for is another one.
        webhook_id += f"_{int(delivery.created * 1000)}"
    timestamp = int(now)
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp)}
    signature = signatures.sign(subscription.secrets, webhook_id, timestamp, body, now)
    return headers | ({"webhook-signature": signature} if signature else {})


async def _outcome(response: aiohttp.ClientResponse, now: float) -> Outcome:
    status = response.status
    start = await _read(response)
    answer = shown(start[:MOST_OF_AN_ANSWER].decode("utf-8", "replace"))
    retry_after = _seconds(response.headers.get("Retry-After", ""), now) if status in (429, 503) else None
    return Outcome(200 <= status < 300, status, answer, gone=status == 410, retry_after=retry_after)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The answer up to :data:`MOST_READ`; the connection is closed where there may be more."""
    read = bytearray()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while len(read) < MOST_READ and (chunk := await response.content.read(MOST_READ - len(read))):
                read += chunk
    except (aiohttp.ClientError, OSError, TimeoutError):
        # The status stands. What there was of the rest is kept.
        response.close()
        return bytes(read)
    if not response.content.at_eof():
        response.close()
    return bytes(read)


def _seconds(retry_after: str, now: float) -> float | None:
    """Seconds of a ``Retry-After`` (RFC 9110, section 10.2.3), None where it is absent or neither number nor date."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError):
        return None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now)
