# SPDX-License-Identifier: Apache-2.0
"""The resources ``/v2/pools``, which lists pools, and one pool below it."""

from typing import Any

import falcon
import msgspec

from zaqar.limits import Limits
from zaqar.policies import Authorizer
from zaqar.schemas.fields import check_marker, parse_integer
from zaqar.schemas.pools import MOST_BYTES, shown
from zaqar.service.pools import Pools
from zaqar.transport.wsgi.messages import flag
from zaqar.transport.wsgi.requests import Query, next_link, read_body, read_query


def page(path: str, member: str, listed: list[dict[str, Any]], query: Query) -> bytes:
    """A page of pools or flavors, in order of their names. It has a link to the next page unless it is empty."""
    links = [next_link(path, query, marker=listed[-1]["name"], booleans=("detailed",))] if listed else []
    return msgspec.json.encode({member: listed, "links": links})


def _path(req: falcon.Request) -> str:
    return f"{req.context.prefix}/v2/pools"


def parse_limit(query: Query, most: int) -> int:
    return parse_integer(query.get("limit", str(min(10, most))), 1, most, field="limit")


class PoolsResource:
    of_deployment = True

    def __init__(self, pools: Pools, authorizer: Authorizer, limits: Limits) -> None:
        self._pools = pools
        self._authorizer = authorizer
        self._limits = limits

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, "pools:get_all")
        query = read_query(req)
        detailed, limit = flag(query, "detailed"), parse_limit(query, self._limits.max_pools_per_page)
        pools = self._pools.list_page(after=check_marker(query.get("marker", "")), limit=limit)
        path = _path(req)
        resp.data = page(path, "pools", [shown(pool, path, detailed=detailed) for pool in pools], query)


class PoolResource:
    of_deployment = True

    def __init__(self, pools: Pools, authorizer: Authorizer) -> None:
        self._pools = pools
        self._authorizer = authorizer

    def on_put(self, req: falcon.Request, resp: falcon.Response, pool_name: str) -> None:
        self._authorizer.check(req.context.caller, "pools:create", pool_name=pool_name)
        self._pools.put(pool_name, read_body(req, MOST_BYTES))
        resp.status, resp.location = 201, f"{_path(req)}/{pool_name}"

    def on_get(self, req: falcon.Request, resp: falcon.Response, pool_name: str) -> None:
        self._authorizer.check(req.context.caller, "pools:get", pool_name=pool_name)
        detailed = flag(read_query(req), "detailed")
        pool = self._pools.get(pool_name)
        resp.data = msgspec.json.encode(shown(pool, _path(req), detailed=detailed))

    def on_patch(self, req: falcon.Request, resp: falcon.Response, pool_name: str) -> None:
        self._authorizer.check(req.context.caller, "pools:update", pool_name=pool_name)
        pool = self._pools.patch(pool_name, read_body(req, MOST_BYTES))
        resp.data = msgspec.json.encode(shown(pool, _path(req), detailed=False))

    def on_delete(self, req: falcon.Request, resp: falcon.Response, pool_name: str) -> None:
        self._authorizer.check(req.context.caller, "pools:delete", pool_name=pool_name)
        self._pools.delete(pool_name)
        resp.status = 204
