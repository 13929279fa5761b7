# SPDX-License-Identifier: Apache-2.0
"""The HTTP application: one table of routes, one list of middleware."""

from collections.abc import Callable
from typing import Any

import falcon

from zaqar.app import Parts
from zaqar.transport.wsgi import errors, openapi
from zaqar.transport.wsgi.claims import ClaimResource, ClaimsResource
from zaqar.transport.wsgi.cors import Cors
from zaqar.transport.wsgi.flavors import FlavorResource, FlavorsResource
from zaqar.transport.wsgi.health import HealthResource, PingResource
from zaqar.transport.wsgi.home import HomeResource, OpenApiResource, VersionsResource
from zaqar.transport.wsgi.messages import MessageResource, MessagesResource
from zaqar.transport.wsgi.pools import PoolResource, PoolsResource
from zaqar.transport.wsgi.queues import PurgeResource, QueueResource, QueuesResource, StatsResource
from zaqar.transport.wsgi.requests import RequestChecks

WsgiApplication = Callable[..., Any]


def routes(parts: Parts) -> dict[str, object]:
    """Path template -> resource."""
    authorizer, limits = parts.authorizer, parts.limits
    admin_mode, pooling = parts.conf.admin_mode, parts.conf.pooling
    table: dict[str, object] = {
        "/": VersionsResource(),
        "/v2/": HomeResource(admin_mode=admin_mode, pooling=pooling),
        "/v2/openapi.json": OpenApiResource(openapi.document(limits, admin_mode=admin_mode, pooling=pooling)),
        "/v2/ping": PingResource(parts.health, authorizer),
        "/v2/queues": QueuesResource(parts.queues, authorizer, limits),
        "/v2/queues/{queue_name}": QueueResource(parts.queues, authorizer, limits),
        "/v2/queues/{queue_name}/stats": StatsResource(parts.queues, authorizer),
        "/v2/queues/{queue_name}/purge": PurgeResource(parts.queues, authorizer, limits),
        "/v2/queues/{queue_name}/messages": MessagesResource(parts.messages, authorizer, limits),
        "/v2/queues/{queue_name}/messages/{message_id}": MessageResource(parts.messages, authorizer),
        "/v2/queues/{queue_name}/claims": ClaimsResource(parts.claims, authorizer, limits),
        "/v2/queues/{queue_name}/claims/{claim_id}": ClaimResource(parts.claims, authorizer),
    }
    if admin_mode:
        table["/v2/health"] = HealthResource(parts.health, authorizer)
    if admin_mode and pooling:
        table |= {
            "/v2/pools": PoolsResource(parts.pools, authorizer, limits),
            "/v2/pools/{pool_name}": PoolResource(parts.pools, authorizer),
            "/v2/flavors": FlavorsResource(parts.flavors, authorizer, limits),
            "/v2/flavors/{flavor_name}": FlavorResource(parts.flavors, authorizer),
        }
    return table


def make_app(parts: Parts) -> WsgiApplication:
    """The WSGI callable over the running parts."""
    middleware: list[Any] = [RequestChecks(parts.limits)]
    if parts.conf.cors.allowed_origin:
        middleware.append(Cors(parts.conf.cors))
    app = falcon.App(middleware=middleware)
    errors.install(app)
    for path, resource in routes(parts).items():
        app.add_route(path, resource)
    return app
