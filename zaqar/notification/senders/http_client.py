# SPDX-License-Identifier: Apache-2.0
"""The HTTP client of webhooks: it connects only to addresses that were checked, and keeps connections open."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from zaqar.notification import webhook_targets
from zaqar.notification.senders.http_answers import Answer, Connection, NoAnswer, Status, exchange, rest
from zaqar.notification.webhook_targets import WebhookTargetPolicy

IDLE_SECONDS = 15.0
"""How long an idle connection is kept."""

MOST_IDLE = 200
"""Number of idle connections that are kept. With one more, the one that has been idle for longest is closed."""

Origin = tuple[str, str, int]
"""Scheme, host and port."""


def origin_of(url: str) -> Origin:
    """The origin of a URL, whose form was checked before."""
    parts = urlsplit(url)
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname or "", parts.port or default


class HttpClient:
    """Sends requests to addresses that the target policy allows, and keeps connections for later requests.

    TLS is verified against ``tls``, or else the authorities of the system. The client follows no redirect, keeps no
    cookie and uses no proxy. The caller bounds how many requests are under way. One object belongs to one event loop.
    """

    def __init__(
        self, target_policy: WebhookTargetPolicy, *, total_seconds: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self._target_policy = target_policy
        self._total_seconds = total_seconds
        self._tls = tls or ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        # In the order in which they became idle.
        self._idle: dict[Connection, Origin] = {}

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one request and return its answer, with a final status.

        ``headers`` were checked by the caller, and hold neither ``host`` nor ``content-length``. Raises NoAnswer if no
        final status came within ``total_seconds``, and AddressRefused if the host leads to an address that is not
        allowed.
        """
        origin = origin_of(url)
        try:
            async with asyncio.timeout(self._total_seconds):
                connection, status = await self._ask(origin, _request(url, headers, body))
        except TimeoutError as exc:
            raise NoAnswer(f"no answer within {self._total_seconds:g} seconds") from exc
        try:
            answer, ended = await rest(connection, status)
        except BaseException:
            connection.abort()
            raise
        if ended:
            self._keep(connection, origin)
        else:
            connection.abort()
        return answer

    def close(self) -> None:
        """Close the connections that are kept."""
        for connection in tuple(self._idle):
            self._drop(connection)

    async def _ask(self, origin: Origin, request: bytes) -> tuple[Connection, Status]:
        kept = self._take(origin)
        if kept is not None:
            status = await exchange(kept, request)
            if status is not None:
                return kept, status
            # The receiver has closed the connection, probably before it saw the request (RFC 9112, section 9.3.1). If
            # it did see it, it gets the request twice, with the same webhook-id, as with every retry.
        connection = await self._connect(origin)
        status = await exchange(connection, request)
        if status is None:
            raise NoAnswer("the connection was closed without an answer")
        return connection, status

    async def _connect(self, origin: Origin) -> Connection:
        scheme, host, port = origin
        tls = self._tls if scheme == "https" else None
        try:
            return await webhook_targets.connect(self._target_policy, host, port, Connection, tls=tls)
        except webhook_targets.NameNotFound as exc:
            raise NoAnswer("the name cannot be resolved") from exc
        except ssl.SSLCertVerificationError as exc:
            raise NoAnswer(f"the TLS certificate cannot be verified: {exc.verify_message}".rstrip(": ")) from exc
        except ssl.SSLError as exc:
            raise NoAnswer("no TLS connection can be made") from exc
        except OSError as exc:
            # The text of the error names addresses, which a tenant must not learn.
            why = os.strerror(exc.errno) if exc.errno else "the host cannot be reached"
            raise NoAnswer(f"no connection can be made: {why}") from exc

    # -- connections that are kept -----------------------------------------------------------------------------------

    def _take(self, origin: Origin) -> Connection | None:
        """The connection to this origin that was used last."""
        for connection in reversed(self._idle):
            if self._idle[connection] == origin:
                del self._idle[connection]
                connection.unwatch()
                return connection
        return None

    def _keep(self, connection: Connection, origin: Origin) -> None:
        self._idle[connection] = origin
        connection.watch(lambda: self._drop(connection), seconds=IDLE_SECONDS)
        if len(self._idle) > MOST_IDLE:
            self._drop(next(iter(self._idle)))

    def _drop(self, connection: Connection) -> None:
        del self._idle[connection]
        connection.unwatch()
        connection.close()


def _request(url: str, headers: Mapping[str, str], body: bytes) -> bytes:
    scheme, host, port = origin_of(url)
    parts = urlsplit(url)
    # Path and query stay as they are: quoting them again could change a signature in them.
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    name = f"[{host}]" if ":" in host else host
    if port != (443 if scheme == "https" else 80):
        name += f":{port}"
    lines = [f"POST {target} HTTP/1.1", f"Host: {name}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
