# SPDX-License-Identifier: Apache-2.0
"""Asks the policy rules about subscriptions, whose targets have the scheme of the subscriber."""

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
    """``Authorizer.check`` with ``scheme``, which is looked up only if the rule asks for it.

    The look-up reads the subscription before the operation itself does. A subscription that is not there has no
    scheme, so a check such as ``'https':%(scheme)s`` is false.
    """

    def __init__(self, authorizer: Authorizer, subscriptions: Subscriptions, limits: Limits) -> None:
        self._authorizer = authorizer
        self._subscriptions = subscriptions
        self._limits = limits

    def check_listing(self, caller: Context, address: QueueName) -> None:
        self._authorizer.check(caller, "subscription:get_all", address)

    def check_creation(self, caller: Context, address: QueueName, raw: bytes) -> None:
        """Ask ``subscription:create``. Raises InvalidInput for a body from which the scheme cannot be told."""
        scheme = {}
        if self._asks(caller, "subscription:create"):
            wanted = parse_creation(raw, source=address.name, project=address.project, limits=self._limits)
            scheme[_SCHEME] = scheme_of(wanted.subscriber or "")
        self._authorizer.check(caller, "subscription:create", address, **scheme)

    def check_creation_of_connection(self, caller: Context, address: QueueName) -> None:
        """Check ``subscription:create``, with scheme ``websocket``, for a connection that subscribes itself."""
        if self._asks_for_scheme("subscription:create") and caller.signed:
            # The maker of the signature was checked for the schemes of ``subscriber_types``, which do not include this
            # one. So check the rule for a caller without roles.
            caller = replace(caller, signed=False)
        self._authorizer.check(caller, "subscription:create", address, **{_SCHEME: CONNECTION_SCHEME})

    def check(self, caller: Context, rule: str, address: QueueName, id_: str) -> None:
        """Ask a rule about a subscription that is there, or is not."""
        self._authorizer.check(caller, rule, address, **self._stored(caller, rule, address, id_))

    def check_change(self, caller: Context, address: QueueName, id_: str, raw: bytes) -> None:
        """Ask ``subscription:update`` about the subscription as it is, and as a new subscriber would make it."""
        self.check(caller, "subscription:update", address, id_)
        if self._asks(caller, "subscription:update"):
            wanted = parse_change(raw, source=address.name, limits=self._limits)
            if wanted.subscriber is not None:
                scheme = scheme_of(wanted.subscriber)
                self._authorizer.check(caller, "subscription:update", address, scheme=scheme)

    def _asks(self, caller: Context, rule: str) -> bool:
        return not caller.signed and self._asks_for_scheme(rule)

    def _asks_for_scheme(self, rule: str) -> bool:
        return self._authorizer.asks_for(rule, _SCHEME)

    def _stored(self, caller: Context, rule: str, address: QueueName, id_: str) -> dict[str, str]:
        if self._asks(caller, rule):
            try:
                return {_SCHEME: scheme_of(self._subscriptions.get(address, id_)[0].subscriber)}
            except NotFound:
                pass
        return {}
