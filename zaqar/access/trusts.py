# SPDX-License-Identifier: Apache-2.0
"""Trusts in Keystone: how the parts of the service come by them.

The API makes and checks them while a request runs (:class:`RequestTrusts`). The notifier gets tokens of them and
deletes them, off its event loop (:mod:`zaqar.notification.trust_tokens` and ``trust_removal``), with the
:class:`Trustee` that :func:`open_trustee` gives it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from oslo_config import cfg

from zaqar.access.keystone import STRATEGY
from zaqar.access.trust_answers import MadeTrust, TrustGone, TrustRefused, TrustToken
from zaqar.context import Context
from zaqar.errors import Forbidden, InvalidInput, KeystoneUnavailable

MOST_AT_A_TIME = 4
MOST_OF_A_PROJECT = 2
"""Requests that wait for Keystone to make or check a trust, in one process. Each holds a thread of the server."""


class Trustee(Protocol):
    """The service user; see :class:`zaqar.access.trustee.Trustee`."""

    def create(self, token: str, *, project: str, expires: float) -> MadeTrust: ...
    def token_of(self, trust_id: str) -> TrustToken: ...
    def delete(self, trust_id: str) -> None: ...


def open_trustee(conf: cfg.ConfigOpts) -> Trustee | None:
    """The service user of ``[trustee]``; None if Keystone or the group is not in use.

    Raises StartupError if its options cannot be used. Keystone is not asked yet.
    """
    if conf.auth_strategy != STRATEGY:
        return None
    # A quarter of a second of imports, which nobody without Keystone has to pay.
    from zaqar.access import trustee

    return trustee.Trustee(conf) if trustee.is_configured(conf) else None


class RequestTrusts:
    """Makes and checks trusts for callers of the API. Safe for threads.

    A call holds the thread of its request for as long as Keystone takes. So few may be under way in a process, and
    fewer of one project; beyond that a call raises KeystoneUnavailable at once.
    """

    def __init__(self, trustee: Trustee) -> None:
        self._trustee = trustee
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> RequestTrusts | None:
        """None if trusts are not configured. Raises StartupError."""
        trustee = open_trustee(conf)
        return None if trustee is None else cls(trustee)

    def create(self, context: Context, *, expires: float) -> MadeTrust:
        """A new trust of the caller's, with the roles of the token, that ends at ``expires`` (seconds, epoch).

        Raises Forbidden if the caller cannot make one, and KeystoneUnavailable.
        """
        if context.token is None:
            raise Forbidden("A trust+http subscriber needs a trust, which takes a token; a signed URL has none.")
        with self._place(context.project):
            return self._trustee.create(context.token, project=context.project, expires=expires)

    def check(self, context: Context, trust_id: str) -> None:
        """Raise InvalidInput unless the trust is from the caller to the service, for the caller's project.

        Anybody may know the id of a trust. If the service used one because a caller names it, the caller could act as
        somebody else who trusts the service.
        """
        try:
            with self._place(context.project):
                token = self._trustee.token_of(trust_id)
        except (TrustGone, TrustRefused):
            token = None
        own = token is not None and token.project == context.project
        if token is None or not own or not token.trustor == token.user_id == context.user_id:
            # The same for an unknown one, so that nobody can find out which trusts there are.
            raise InvalidInput(
                "options.trust_id", "must be a trust of your own, for this project, to this service, that impersonates"
            )

    @contextmanager
    def _place(self, project: str) -> Iterator[None]:
        with self._lock:
            full = self._under_way.total() >= MOST_AT_A_TIME or self._under_way[project] >= MOST_OF_A_PROJECT
            if full:
                raise KeystoneUnavailable
            self._under_way[project] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[project] -= 1
                if not self._under_way[project]:
                    del self._under_way[project]
