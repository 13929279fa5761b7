# SPDX-License-Identifier: Apache-2.0
"""``/v2/queues/{queue_name}/share``, and that of topics: makes pre-signed URLs."""

from __future__ import annotations

import falcon
import msgspec

from zaqar.limits import Limits
from zaqar.policies import Authorizer
from zaqar.schemas.share import MOST_BYTES, parse
from zaqar.service.share import Shares
from zaqar.transport.share_rules import ShareRules
from zaqar.transport.wsgi.requests import read_body


class ShareResource:
    def __init__(self, shares: Shares, authorizer: Authorizer, limits: Limits) -> None:
        self._shares = shares
        self._rules = ShareRules(authorizer, limits)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        caller, address = req.context.caller, req.context.address
        self._rules.check(caller, address)
        wanted = parse(read_body(req, MOST_BYTES), kind=address.kind)
        self._rules.check_granted(caller, address, wanted)
        resp.data = msgspec.json.encode(self._shares.create(address, wanted)._asdict())
