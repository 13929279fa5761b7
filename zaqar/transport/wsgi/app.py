# SPDX-License-Identifier: Apache-2.0
"""The HTTP application: one table of routes, one list of middleware. :mod:`zaqar.wsgi` calls :func:`make_app`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import falcon

from zaqar import context
from zaqar.access.http_server import HttpServer, find_http_server
from zaqar.app import Parts
from zaqar.errors import SignatureRefused
from zaqar.logs.access import AccessLog
from zaqar.model import QUEUE, TOPIC
from zaqar.schemas.fields import JsonSchema
from zaqar.service.share import Shares
from zaqar.transport.probes import PATHS as PROBE_PATHS
from zaqar.transport.probes import Probes
from zaqar.transport.subscription_rules import SubscriptionRules
from zaqar.transport.websocket import asyncapi, close_codes
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.wsgi import errors, openapi, profiler
from zaqar.transport.wsgi.authentication import Authentication
from zaqar.transport.wsgi.claims import ClaimResource, ClaimsResource
from zaqar.transport.wsgi.client_watch import ClientWatch
from zaqar.transport.wsgi.confirmation_page import ConfirmationPage
from zaqar.transport.wsgi.cors import Cors
from zaqar.transport.wsgi.event_streams import EventStreams
from zaqar.transport.wsgi.flavors import FlavorResource, FlavorsResource
from zaqar.transport.wsgi.messages import MessageResource, MessagesResource
from zaqar.transport.wsgi.pools import PoolResource, PoolsResource
from zaqar.transport.wsgi.probes import ProbeResource
from zaqar.transport.wsgi.queues import PurgeResource, QueueResource, QueuesResource, ShareResource, StatsResource
from zaqar.transport.wsgi.request_observer import RequestObserver
from zaqar.transport.wsgi.request_rate import RequestRate
from zaqar.transport.wsgi.requests import RequestChecks
from zaqar.transport.wsgi.service import (
    AsyncApiResource,
    HealthResource,
    HomeResource,
    LimitsResource,
    OpenApiResource,
    PingResource,
    VersionsResource,
)
from zaqar.transport.wsgi.signed_requests import SignedRequests
from zaqar.transport.wsgi.subscriptions import (
    ConfirmResource,
    DeliveriesResource,
    ResendManyResource,
    ResendResource,
    SecretResource,
    SubscriptionResource,
    SubscriptionsResource,
)
from zaqar.transport.wsgi.waits import Waits, WaitSlots

WsgiApplication = Callable[..., Any]


def routes(parts: Parts, slots: WaitSlots | None = None) -> dict[str, object]:
    """Path template -> resource, for all paths that the OpenAPI document describes."""
    authorizer, limits = parts.authorizer, parts.limits
    watch = ClientWatch()
    waits = Waits(parts.hub, limits, slots or WaitSlots(), watch)
    # A server without gevent needs a thread for each open request, so it serves no streams.
    streams = EventStreams(parts, watch, is_served=find_http_server() is HttpServer.GEVENT)
    admin_mode, pooling = parts.conf.admin_mode, parts.conf.pooling
    describe = partial(openapi.document, limits, admin_mode=admin_mode, pooling=pooling)
    table: dict[str, object] = {
        "/": VersionsResource(),
        "/v2/": HomeResource(admin_mode=admin_mode, pooling=pooling),
        "/v2/openapi.json": OpenApiResource(describe),
        "/v2/asyncapi.json": AsyncApiResource(lambda: _websocket_api(parts, describe()["components"]["schemas"])),
        "/v2/ping": PingResource(parts.health, authorizer),
        "/v2/limits": LimitsResource(parts.project_limits, authorizer),
        **_below(parts, streams, waits, "/v2/queues", "{queue_name}", QUEUE),
        "/v2/queues/{queue_name}/claims": ClaimsResource(parts.claims, authorizer, limits, waits),
        "/v2/queues/{queue_name}/claims/{claim_id}": ClaimResource(parts.claims, authorizer),
        **_below(parts, streams, waits, "/v2/topics", "{topic_name}", TOPIC),
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


def _websocket_api(parts: Parts, schemas: Mapping[str, JsonSchema]) -> dict[str, Any]:
    served = asyncapi.Served.from_conf(parts.conf)
    return asyncapi.document(
        ACTIONS, limits=parts.limits, schemas=schemas, served=served, close_codes=close_codes.MEANINGS
    )


def _below(
    parts: Parts, streams: EventStreams, waits: Waits, collection: str, name: str, kind: str
) -> dict[str, object]:
    """The routes below ``collection``, which is the path of all queues or of all topics."""
    authorizer, limits = parts.authorizer, parts.limits
    shares = Shares(parts.signed_urls, clock=parts.clock, max_expiry=parts.conf.signed_url.max_expiry)
    rules = SubscriptionRules(authorizer, parts.subscriptions, limits)
    single = f"{collection}/{name}"
    subscription = f"{single}/subscriptions/{{subscription_id}}"
    return {
        collection: QueuesResource(parts.queues, authorizer, limits, kind=kind),
        single: QueueResource(parts.queues, authorizer, limits, kind=kind),
        f"{single}/stats": StatsResource(parts.queues, authorizer, kind=kind),
        f"{single}/purge": PurgeResource(parts.queues, authorizer, limits, kind=kind),
        f"{single}/share": ShareResource(shares, authorizer, limits),
        f"{single}/messages": MessagesResource(
            parts.messages, authorizer, limits, streams, waits, parts.quotas.post_rates
        ),
        f"{single}/messages/{{message_id}}": MessageResource(parts.messages, authorizer),
        f"{single}/subscriptions": SubscriptionsResource(parts.subscriptions, rules, limits),
        subscription: SubscriptionResource(parts.subscriptions, rules),
        f"{subscription}/confirm": ConfirmResource(parts.subscriptions, rules),
        f"{subscription}/rotate_secret": SecretResource(parts.subscriptions, rules),
        f"{subscription}/deliveries": DeliveriesResource(parts.deliveries, rules, limits),
        f"{subscription}/deliveries/{{delivery_id}}/resend": ResendResource(parts.deliveries, rules),
        f"{subscription}/resend": ResendManyResource(parts.deliveries, rules),
    }


def probes(parts: Parts) -> dict[str, object]:
    """Path -> resource, for load balancers and monitors. They are no part of the API."""
    answers = Probes(parts.readiness)
    return {path: ProbeResource(answers, path) for path in PROBE_PATHS}


def pages(parts: Parts) -> dict[str, object]:
    """Path -> resource, for the pages that people open in a browser."""
    return {"/confirm": ConfirmationPage(parts.subscriptions, signed_urls=parts.signed_urls, clock=parts.clock)}


def make_app(parts: Parts, slots: WaitSlots | None = None) -> WsgiApplication:
    """Make the WSGI callable. ``slots`` limit how many requests may wait at a time; None stands for no limit."""
    signed = SignedRequests(parts.signed_urls, clock=parts.clock)
    believes_proxy = parts.conf.oslo_middleware.enable_proxy_headers_parsing
    checks = RequestChecks(parts.limits, signed=signed, believes_proxy=believes_proxy, extra_specs=parts.extra_specs)
    access_log = AccessLog.from_conf(parts.conf)
    is_observed = parts.recorder is not None or access_log is not None
    middleware: list[Any] = [RequestObserver(parts.recorder, access_log)] if is_observed else []
    middleware.append(checks)
    if parts.tokens is not None:
        parts.tokens.start()
        middleware.append(Authentication(parts.tokens, answers_preflights=bool(parts.conf.cors.allowed_origin)))
    if parts.quotas.request_rates is not None:
        middleware.append(RequestRate(parts.quotas.request_rates))
    if parts.pipelines.want_caller:
        middleware.append(_CallerContext())
    if parts.conf.cors.allowed_origin:
        middleware.append(Cors(parts.conf.cors))
    app = falcon.App(middleware=middleware)
    errors.install(app)

    def answer_refused(
        req: falcon.Request, resp: falcon.Response, error: SignatureRefused, params: dict[str, Any]
    ) -> None:
        signed.note(error)
        errors.answer_client_error(req, resp, error, params)

    app.add_error_handler(SignatureRefused, answer_refused)
    for path, resource in (routes(parts, slots) | pages(parts) | probes(parts)).items():
        app.add_route(path, resource)
    return profiler.wrap(app, parts.conf)


class _CallerContext:
    """Shows the caller to stages, in ``zaqar.context.current``. Installed only if a stage has a hook that uses it."""

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        # Set it for each request, because a thread of the server serves many callers one after another.
        context.current.set(getattr(req.context, "caller", None))

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        # The caller may have a token, which must not be kept after the request.
        context.current.set(None)
