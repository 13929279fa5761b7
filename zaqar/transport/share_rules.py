# SPDX-License-Identifier: Apache-2.0
"""Policy checks for making a pre-signed URL. A URL may open only operations that its maker may carry out."""

from __future__ import annotations

from zaqar.context import Context
from zaqar.limits import Limits
from zaqar.model import QueueName
from zaqar.policies import Authorizer
from zaqar.policies.share import granted_rules
from zaqar.policies.targets import target_names
from zaqar.schemas.share import Wanted


class ShareRules:
    """Checks the rules of ``share`` on queues and topics. Both transports use it."""

    def __init__(self, authorizer: Authorizer, limits: Limits) -> None:
        self._authorizer = authorizer
        self._schemes = limits.subscriber_types

    def check(self, caller: Context, queue_name: QueueName) -> None:
        """Raises Forbidden unless the caller may make pre-signed URLs of the queue or topic."""
        self._authorizer.check(caller, f"{queue_name.kind}s:share", queue_name)

    def check_granted(self, caller: Context, queue_name: QueueName, wanted: Wanted) -> None:
        """Check the rule of each operation that the URL will open, because signed requests are not checked again.

        Raises Forbidden.
        """
        for rule in granted_rules(wanted.paths, wanted.methods):
            if "scheme" in target_names(rule) and self._authorizer.asks_for(rule, "scheme"):
                # The subscriber is not known yet, so check every scheme.
                for scheme in self._schemes:
                    self._authorizer.check(caller, rule, queue_name, scheme=scheme)
            else:
                self._authorizer.check(caller, rule, queue_name)
