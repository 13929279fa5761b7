# SPDX-License-Identifier: Apache-2.0
"""The resource ``/v2/queues/{queue_name}/subscriptions`` and all resources below it, and the same for topics."""

from typing import Any

import falcon
import msgspec

from zaqar.limits import Limits
from zaqar.schemas.deliveries import shown as shown_delivery
from zaqar.schemas.fields import parse_integer
from zaqar.schemas.subscriptions import MOST_BYTES, MOST_BYTES_OF_A_SWITCH, shown
from zaqar.service.deliveries import Deliveries
from zaqar.service.subscriptions import Created, Subscriptions
from zaqar.transport.subscription_rules import SubscriptionRules
from zaqar.transport.wsgi.requests import Query, next_link, read_body, read_query


def _parse_limit(query: Query, limits: Limits) -> int:
    most = limits.max_subscriptions_per_page
    return parse_integer(query.get("limit", str(min(10, most))), 1, most, field="limit")


def _links(req: falcon.Request, query: Query, page: list[dict[str, Any]]) -> list[dict[str, str]]:
    if not page:
        return []
    return [next_link(req.context.prefix + req.path, query, marker=page[-1]["id"])]


def _rendered(created: Created) -> dict[str, str]:
    rendered = {"subscription_id": created.subscription_id}
    return rendered if created.secret is None else {**rendered, "secret": created.secret}


class SubscriptionsResource:
    def __init__(self, subscriptions: Subscriptions, rules: SubscriptionRules, limits: Limits) -> None:
        self._subscriptions = subscriptions
        self._rules = rules
        self._limits = limits

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._rules.check_listing(req.context.caller, req.context.queue_name)
        query = read_query(req)
        marker, limit = query.get("marker"), _parse_limit(query, self._limits)
        found, now = self._subscriptions.list_page(req.context.queue_name, marker=marker, limit=limit)
        page = [shown(subscription, now) for subscription in found]
        resp.data = msgspec.json.encode({"subscriptions": page, "links": _links(req, query, page)})

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        raw = read_body(req, MOST_BYTES)
        self._rules.check_creation(req.context.caller, req.context.queue_name, raw)
        created = self._subscriptions.create(req.context.caller, req.context.queue_name, raw)
        resp.status, resp.location = 201, req.context.prefix + req.path
        resp.data = msgspec.json.encode(_rendered(created))


class SubscriptionResource:
    def __init__(self, subscriptions: Subscriptions, rules: SubscriptionRules) -> None:
        self._subscriptions = subscriptions
        self._rules = rules

    def on_get(self, req: falcon.Request, resp: falcon.Response, subscription_id: str) -> None:
        self._rules.check(req.context.caller, "subscription:get", req.context.queue_name, subscription_id)
        subscription, now = self._subscriptions.get(req.context.queue_name, subscription_id)
        resp.data = msgspec.json.encode(shown(subscription, now))

    def on_patch(self, req: falcon.Request, resp: falcon.Response, subscription_id: str) -> None:
        raw = read_body(req, MOST_BYTES)
        self._rules.check_change(req.context.caller, req.context.queue_name, subscription_id, raw)
        self._subscriptions.patch(req.context.caller, req.context.queue_name, subscription_id, raw)
        resp.status, resp.location = 204, req.context.prefix + req.path

    def on_delete(self, req: falcon.Request, resp: falcon.Response, subscription_id: str) -> None:
        self._rules.check(req.context.caller, "subscription:delete", req.context.queue_name, subscription_id)
        self._subscriptions.delete(req.context.queue_name, subscription_id)
        resp.status = 204


class ConfirmResource:
    checks_grants = True

    def __init__(self, subscriptions: Subscriptions, rules: SubscriptionRules) -> None:
        self._subscriptions = subscriptions
        self._rules = rules

    def on_put(self, req: falcon.Request, resp: falcon.Response, subscription_id: str) -> None:
        caller, queue_name, grant = req.context.caller, req.context.queue_name, req.context.grant
        if grant is not None:
            # Check the grant before the body is read: a caller without a grant must learn nothing else.
            self._subscriptions.check_grant(queue_name, subscription_id, grant)
        for rule in ("subscription:confirm", "subscription:confirm_unsigned"):
            self._rules.check(caller, rule, queue_name, subscription_id)
        raw = read_body(req, MOST_BYTES_OF_A_SWITCH)
        self._subscriptions.confirm(queue_name, subscription_id, raw, grant=grant)
        resp.status, resp.location = 204, req.context.prefix + req.path


class SecretResource:
    def __init__(self, subscriptions: Subscriptions, rules: SubscriptionRules) -> None:
        self._subscriptions = subscriptions
        self._rules = rules

    def on_post(self, req: falcon.Request, resp: falcon.Response, subscription_id: str) -> None:
        self._rules.check(req.context.caller, "subscription:rotate_secret", req.context.queue_name, subscription_id)
        raw = read_body(req, MOST_BYTES_OF_A_SWITCH)
        secret = self._subscriptions.rotate_secret(req.context.queue_name, subscription_id, raw)
        resp.data = msgspec.json.encode({"secret": secret})


class DeliveriesResource:
    def __init__(self, deliveries: Deliveries, rules: SubscriptionRules, limits: Limits) -> None:
        self._deliveries = deliveries
        self._rules = rules
        self._limits = limits

    def on_get(self, req: falcon.Request, resp: falcon.Response, subscription_id: str) -> None:
        self._rules.check(req.context.caller, "subscription:deliveries", req.context.queue_name, subscription_id)
        query = read_query(req)
        found = self._deliveries.list_page(
            req.context.queue_name,
            subscription_id,
            state=query.get("state"),
            marker=query.get("marker"),
            limit=_parse_limit(query, self._limits),
        )
        page = [shown_delivery(delivery) for delivery in found.deliveries]
        listing = {"deliveries": page, "counts": dict(found.counts), "links": _links(req, query, page)}
        resp.data = msgspec.json.encode(listing)


class ResendResource:
    """Sends one delivery again."""

    def __init__(self, deliveries: Deliveries, rules: SubscriptionRules) -> None:
        self._deliveries = deliveries
        self._rules = rules

    def on_post(self, req: falcon.Request, resp: falcon.Response, subscription_id: str, delivery_id: str) -> None:
        self._rules.check(req.context.caller, "subscription:resend", req.context.queue_name, subscription_id)
        self._deliveries.resend(req.context.queue_name, subscription_id, delivery_id)
        resp.status = 204


class ResendManyResource:
    def __init__(self, deliveries: Deliveries, rules: SubscriptionRules) -> None:
        self._deliveries = deliveries
        self._rules = rules

    def on_post(self, req: falcon.Request, resp: falcon.Response, subscription_id: str) -> None:
        self._rules.check(req.context.caller, "subscription:resend", req.context.queue_name, subscription_id)
        raw = read_body(req, MOST_BYTES_OF_A_SWITCH)
        sent = self._deliveries.resend_many(req.context.queue_name, subscription_id, raw)
        resp.data = msgspec.json.encode({"resent": sent})
