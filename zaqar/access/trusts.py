# SPDX-License-Identifier: Apache-2.0
"""Keystone trusts for the API and the notifier.

The API makes and checks trusts in the thread of a request (:class:`RequestTrusts`). The notifier gets tokens of trusts
and deletes trusts in threads (:mod:`zaqar.notification.senders.trust_tokens` and ``trust_removal``), with the
:class:`Trustee` of :func:`open_trustee`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from oslo_config import cfg

from zaqar.access.http_server import HttpServer, count_uwsgi_threads, find_http_server
from zaqar.access.keystone import STRATEGY
from zaqar.access.trust_answers import MadeTrust, TrustGone, TrustRefused, TrustToken
from zaqar.context import Context
from zaqar.errors import Forbidden, InvalidInput, KeystoneUnavailable

PATIENCE_SECONDS = 5.0
"""How long a request waits for its turn to ask Keystone."""

SILENCE_SECONDS = 2.0
"""If a request to Keystone has been running for this time, other requests do not wait for their turn."""


class Trustee(Protocol):
    """The service user; see :class:`zaqar.access.trustee.Trustee`."""

    def create(self, token: str, *, project: str, expires: float) -> MadeTrust: ...
    def token_of(self, trust_id: str) -> TrustToken: ...
    def delete(self, trust_id: str) -> None: ...


def open_trustee(conf: cfg.ConfigOpts) -> Trustee | None:
    """Open the service user of ``[trustee]``; None if Keystone or the group is not in use.

    Raises StartupError if its options cannot be used. Keystone is not asked yet.
    """
    if conf.auth_strategy != STRATEGY:
        return None
    # The imports take a quarter of a second. A service without Keystone does not need them.
    from zaqar.access import trustee

    return trustee.Trustee(conf) if trustee.is_configured(conf) else None


class Bounds(NamedTuple):
    """How many requests of a process may ask Keystone about trusts at a time, and how many more may wait to ask.

    One project may use half of each number, at least one.
    """

    asking: int
    waiting: int

    @classmethod
    def of_server(cls) -> Bounds:
        """The bounds for this process. They leave most threads of the server free even if Keystone does not answer."""
        match find_http_server():
            case HttpServer.GEVENT:
                return cls(8, 32)
            case HttpServer.UWSGI:
                return cls(max(1, count_uwsgi_threads() // 8), 0)
            case HttpServer.GRANIAN:
                return cls(8, 8)
            case HttpServer.OTHER:
                return cls(2, 2)


class RequestTrusts:
    """Makes and checks trusts for callers of the API. Threads may share it.

    A call blocks the thread of its request while Keystone answers. So only a few calls may run in a process, and fewer
    of one project. Some more calls wait for their turn, unless Keystone does not answer. Every further call raises
    KeystoneUnavailable at once.
    """

    def __init__(
        self,
        trustee: Trustee,
        bounds: Bounds,
        *,
        patience: float = PATIENCE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trustee = trustee
        self._bounds = bounds
        self._patience = patience
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._asking: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._begun: dict[object, float] = {}
        """The start time of each running request to Keystone, the oldest first."""

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> RequestTrusts | None:
        """Make it from the configuration; None if trusts are not configured. Raises StartupError."""
        trustee = open_trustee(conf)
        return None if trustee is None else cls(trustee, Bounds.of_server())

    def create(self, context: Context, *, expires: float) -> MadeTrust:
        """Make a trust of the caller to this service, with the roles of the token. It ends at ``expires``.

        ``expires`` is in seconds since the epoch. Raises Forbidden if the caller cannot make a trust, and
        KeystoneUnavailable.
        """
        if context.token is None:
            raise Forbidden("A trust+http subscriber needs a trust, which takes a token; a signed URL has none.")
        with self._slot(context.project):
            return self._trustee.create(context.token, project=context.project, expires=expires)

    def check(self, context: Context, trust_id: str) -> None:
        """Raise InvalidInput unless the trust is the caller's, to this service, for the project and roles of the token.

        The id of a trust is no secret. Without this check a caller could name a trust of another user and act in that
        user's name, or act with roles that the caller's token does not have: the token of an application credential
        may have fewer roles than its user.
        """
        try:
            with self._slot(context.project):
                token = self._trustee.token_of(trust_id)
        except (TrustGone, TrustRefused):
            token = None
        own = token is not None and token.project == context.project and token.roles <= context.roles
        if token is None or not own or not token.trustor == token.user_id == context.user_id:
            # The same answer for an unknown trust, so that a caller cannot find out which trusts exist.
            raise InvalidInput(
                "options.trust_id",
                "must be your own trust to this service, that impersonates, for the project and roles of your token",
            )

    @contextmanager
    def _slot(self, project: str) -> Iterator[None]:
        with self._changed:
            if self._is_full(self._asking, self._bounds.asking, project):
                self._wait(project)
            this = object()
            self._begun[this] = self._monotonic()
            self._asking[project] += 1
        try:
            yield
        finally:
            with self._changed:
                del self._begun[this]
                _decrease(self._asking, project)
                self._changed.notify_all()

    def _wait(self, project: str) -> None:
        """Wait for a free slot. The caller holds the lock; it is released while this call waits."""
        if self._is_full(self._waiting, self._bounds.waiting, project):
            raise KeystoneUnavailable
        end = self._monotonic() + self._patience
        self._waiting[project] += 1
        try:
            while self._is_full(self._asking, self._bounds.asking, project):
                now = self._monotonic()
                # Computed in each round, because Keystone may stop answering while this call waits.
                silent = min(self._begun.values(), default=now) + SILENCE_SECONDS
                if now >= min(end, silent):
                    raise KeystoneUnavailable
                self._changed.wait(min(end, silent) - now)
        finally:
            _decrease(self._waiting, project)

    @staticmethod
    def _is_full(counts: Counter[str], most: int, project: str) -> bool:
        return counts.total() >= most or counts[project] >= max(1, most // 2)


def _decrease(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
