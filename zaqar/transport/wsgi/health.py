# SPDX-License-Identifier: Apache-2.0
"""``/v2/ping`` for load balancers and ``/v2/health`` for people."""

import falcon
import msgspec

from zaqar.policies import Authorizer
from zaqar.service.health import Health


class PingResource:
    def __init__(self, health: Health, authorizer: Authorizer) -> None:
        self._health = health
        self._authorizer = authorizer

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, "ping:get")
        self._health.ping()
        resp.status = 204

    on_head = on_get


class HealthResource:
    of_deployment = True

    def __init__(self, health: Health, authorizer: Authorizer) -> None:
        self._health = health
        self._authorizer = authorizer

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, "health:get")
        resp.data = msgspec.json.encode(self._health.report())
