# SPDX-License-Identifier: Apache-2.0
"""Checks the policy rules of subscriptions, which can depend on the URI scheme of the subscriber.

Both transports use it. All methods raise Forbidden if the rule does not admit the caller.
"""

from __future__ import annotations

from dataclasses import replace

from zaqar.context import Context
from zaqar.errors import NotFound
from zaqar.limits import Limits
from zaqar.model import QueueName
from zaqar.policies import Authorizer
from zaqar.schemas.subscribers import CONNECTION_SCHEME, scheme_of
from zaqar.schemas.subscriptions import parse_change, parse_creation
from zaqar.service.subscriptions import Subscriptions

_SCHEME = "scheme"


class SubscriptionRules:
    """Calls ``Authorizer.check`` with the ``scheme`` of a subscription, which is looked up only if a rule uses it.

    The look-up reads the subscription before the operation itself reads it. A subscription that does not exist has no
    scheme, so a check such as ``'https':%(scheme)s`` is false for it.
    """

    def __init__(self, authorizer: Authorizer, subscriptions: Subscriptions, limits: Limits) -> None:
        self._authorizer = authorizer
        self._subscriptions = subscriptions
        self._limits = limits

    def check_listing(self, caller: Context, queue_name: QueueName) -> None:
        self._authorizer.check(caller, "subscription:get_all", queue_name)

    def check_creation(self, caller: Context, queue_name: QueueName, raw: bytes) -> None:
        """Check ``subscription:create``. Raises InvalidInput if the body does not show the scheme."""
        scheme = {}
        if self._asks(caller, "subscription:create"):
            wanted = parse_creation(raw, source=queue_name.name, project=queue_name.project, limits=self._limits)
            scheme[_SCHEME] = scheme_of(wanted.subscriber or "")
        self._authorizer.check(caller, "subscription:create", queue_name, **scheme)

    def check_creation_of_connection(self, caller: Context, queue_name: QueueName) -> None:
        """Check ``subscription:create``, with scheme ``websocket``, for a connection that subscribes itself."""
        if self._asks_for_scheme("subscription:create") and caller.signed:
            # The maker of the signature was checked for the schemes of ``subscriber_types``, which do not include this
            # one. So check the rule for a caller without roles.
            caller = replace(caller, signed=False)
        self._authorizer.check(caller, "subscription:create", queue_name, **{_SCHEME: CONNECTION_SCHEME})

    def check(self, caller: Context, rule: str, queue_name: QueueName, id_: str) -> None:
        """Check a rule for a subscription, which need not exist."""
        self._authorizer.check(caller, rule, queue_name, **self._stored(caller, rule, queue_name, id_))

    def check_change(self, caller: Context, queue_name: QueueName, id_: str, raw: bytes) -> None:
        """Check ``subscription:update`` for the present subscriber, and for the new one if the body has one."""
        self.check(caller, "subscription:update", queue_name, id_)
        if self._asks(caller, "subscription:update"):
            wanted = parse_change(raw, source=queue_name.name, limits=self._limits)
            if wanted.subscriber is not None:
                scheme = scheme_of(wanted.subscriber)
                self._authorizer.check(caller, "subscription:update", queue_name, scheme=scheme)

    def _asks(self, caller: Context, rule: str) -> bool:
        return not caller.signed and self._asks_for_scheme(rule)

    def _asks_for_scheme(self, rule: str) -> bool:
        return self._authorizer.asks_for(rule, _SCHEME)

    def _stored(self, caller: Context, rule: str, queue_name: QueueName, id_: str) -> dict[str, str]:
        if self._asks(caller, rule):
            try:
                return {_SCHEME: scheme_of(self._subscriptions.get(queue_name, id_)[0].subscriber)}
            except NotFound:
                pass
        return {}
