# SPDX-License-Identifier: Apache-2.0
"""``/v2/queues/{queue_name}/share``, and that of topics: makes pre-signed URLs."""

from __future__ import annotations

import falcon
import msgspec

from zaqar.limits import Limits
from zaqar.policies import Authorizer
from zaqar.policies.share import granted_rules
from zaqar.policies.targets import target_names
from zaqar.schemas.share import MOST_BYTES, Wanted, parse
from zaqar.service.share import Shares
from zaqar.transport.wsgi.requests import read_body


class ShareResource:
    def __init__(self, shares: Shares, authorizer: Authorizer, limits: Limits) -> None:
        self._shares = shares
        self._authorizer = authorizer
        self._schemes = [scheme.lower() for scheme in limits.subscriber_types]

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        address = req.context.address
        self._authorizer.check(req.context.caller, f"{address.kind}s:share", address)
        wanted = parse(read_body(req, MOST_BYTES), kind=address.kind)
        self._check_granted(req, wanted)
        resp.data = msgspec.json.encode(self._shares.create(address, wanted)._asdict())

    def _check_granted(self, req: falcon.Request, wanted: Wanted) -> None:
        # The signed request asks no rule, so the caller has to be allowed all that it may do.
        caller, address = req.context.caller, req.context.address
        for rule in granted_rules(wanted.paths, wanted.methods):
            if "scheme" in target_names(rule) and self._authorizer.asks_for(rule, "scheme"):
                # Nobody knows yet which subscriber it will be about.
                for scheme in self._schemes:
                    self._authorizer.check(caller, rule, address, scheme=scheme)
            else:
                self._authorizer.check(caller, rule, address)
