# SPDX-License-Identifier: Apache-2.0
"""The resources ``/v2/flavors``, which lists flavors, and one flavor below it."""

from typing import Any

import falcon
import msgspec

from zaqar.limits import Limits
from zaqar.policies import Authorizer
from zaqar.schemas.fields import check_marker
from zaqar.schemas.flavors import shown
from zaqar.schemas.pools import MOST_BYTES
from zaqar.service.flavors import Flavor, Flavors
from zaqar.transport.wsgi.messages import flag
from zaqar.transport.wsgi.pools import page, parse_limit
from zaqar.transport.wsgi.requests import read_body, read_query


def _path(req: falcon.Request) -> str:
    return f"{req.context.prefix}/v2/flavors"


def _render(flavor: Flavor, collection: str, *, detailed: bool = True) -> dict[str, Any]:
    return shown(flavor.name, collection, flavor.pool_list, flavor.capabilities if detailed else None)


class FlavorsResource:
    of_deployment = True

    def __init__(self, flavors: Flavors, authorizer: Authorizer, limits: Limits) -> None:
        self._flavors = flavors
        self._authorizer = authorizer
        self._limits = limits

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, "flavors:get_all")
        query = read_query(req)
        detailed, limit = flag(query, "detailed"), parse_limit(query, self._limits.max_flavors_per_page)
        flavors = self._flavors.list_page(after=check_marker(query.get("marker", "")), limit=limit)
        path = _path(req)
        resp.data = page(path, "flavors", [_render(flavor, path, detailed=detailed) for flavor in flavors], query)


class FlavorResource:
    of_deployment = True

    def __init__(self, flavors: Flavors, authorizer: Authorizer) -> None:
        self._flavors = flavors
        self._authorizer = authorizer

    def on_put(self, req: falcon.Request, resp: falcon.Response, flavor_name: str) -> None:
        self._authorizer.check(req.context.caller, "flavors:create", flavor_name=flavor_name)
        self._flavors.put(flavor_name, read_body(req, MOST_BYTES))
        resp.status, resp.location = 201, f"{_path(req)}/{flavor_name}"

    def on_get(self, req: falcon.Request, resp: falcon.Response, flavor_name: str) -> None:
        self._authorizer.check(req.context.caller, "flavors:get", flavor_name=flavor_name)
        flag(read_query(req), "detailed")
        resp.data = msgspec.json.encode(_render(self._flavors.get(flavor_name), _path(req)))

    def on_patch(self, req: falcon.Request, resp: falcon.Response, flavor_name: str) -> None:
        self._authorizer.check(req.context.caller, "flavors:update", flavor_name=flavor_name)
        flavor = self._flavors.patch(flavor_name, read_body(req, MOST_BYTES))
        resp.data = msgspec.json.encode(_render(flavor, _path(req)))

    def on_delete(self, req: falcon.Request, resp: falcon.Response, flavor_name: str) -> None:
        self._authorizer.check(req.context.caller, "flavors:delete", flavor_name=flavor_name)
        self._flavors.delete(flavor_name)
        resp.status = 204
