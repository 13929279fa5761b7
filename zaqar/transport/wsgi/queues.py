# SPDX-License-Identifier: Apache-2.0
"""The resources ``/v2/queues``, one queue, its statistics, its purge, its pre-signed URLs, and the same for topics.

Each resource serves one kind, queues or topics. The names of policy rules and of members of answers contain the kind.
"""

from typing import Any

import falcon
import msgspec

from zaqar.errors import UnsupportedMedia
from zaqar.limits import Limits
from zaqar.model import QUEUE
from zaqar.policies import Authorizer
from zaqar.schemas import share
from zaqar.schemas.fields import check_marker, parse_boolean, parse_integer
from zaqar.schemas.queues import JSON_PATCH, make_filter, show_metadata
from zaqar.schemas.stats import shown_stats
from zaqar.service.queues import Queues
from zaqar.service.share import Shares
from zaqar.transport.share_rules import ShareRules
from zaqar.transport.wsgi.requests import Query, next_link, read_body, read_query

_LISTING_PARAMETERS = frozenset({"marker", "limit", "detailed", "name", "with_count"})


class QueuesResource:
    def __init__(self, queues: Queues, authorizer: Authorizer, limits: Limits, *, kind: str = QUEUE) -> None:
        self._queues = queues
        self._authorizer = authorizer
        self._limits = limits
        self._kind = kind

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, f"{self._kind}s:get_all", kind=self._kind)
        query = read_query(req)
        detailed = parse_boolean(query.get("detailed", "false"), field="detailed")
        collection = f"{req.context.prefix}/v2/{self._kind}s"
        resp.data = msgspec.json.encode(self._page(req.context.caller.project, collection, query, detailed))

    def _page(self, project: str, collection: str, query: Query, detailed: bool) -> dict[str, Any]:
        most = self._limits.max_queues_per_page
        page = self._queues.list_page(
            project=project,
            kind=self._kind,
            after=check_marker(query.get("marker", "")),
            limit=parse_integer(query.get("limit", str(min(10, most))), 1, most, field="limit"),
            keep=make_filter(query.get("name"), {k: v for k, v in query.items() if k not in _LISTING_PARAMETERS}),
            with_count=parse_boolean(query.get("with_count", "false"), field="with_count"),
            detailed=detailed,
        )
        listed: list[dict[str, Any]] = [{"name": name, "href": f"{collection}/{name}"} for name in page.names]
        for entry, queue in zip(listed, page.queues, strict=detailed):
            entry["metadata"] = show_metadata(queue.metadata, self._limits, kind=queue.kind)
        listing: dict[str, Any] = {f"{self._kind}s": listed, "links": []}
        if page.following is not None:
            link = next_link(collection, query, marker=page.following, booleans=("detailed", "with_count"))
            listing["links"].append(link)
        if page.count is not None:
            listing["count"] = page.count
        return listing


class QueueResource:
    def __init__(self, queues: Queues, authorizer: Authorizer, limits: Limits, *, kind: str = QUEUE) -> None:
        self._queues = queues
        self._authorizer = authorizer
        self._limits = limits
        self._kind = kind

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, f"{self._kind}s:create", req.context.queue_name)
        created = self._queues.create(req.context.queue_name, read_body(req, self._limits.max_queue_metadata))
        resp.status = 201 if created else 204
        resp.location = req.context.base

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, f"{self._kind}s:get", req.context.queue_name)
        resp.data = msgspec.json.encode(self._queues.get(req.context.queue_name))

    def on_patch(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, f"{self._kind}s:update", req.context.queue_name)
        if (req.content_type or "").partition(";")[0].strip().lower() != JSON_PATCH:
            raise UnsupportedMedia(f"Content-Type: a patch must be '{JSON_PATCH}'", accept_patch=JSON_PATCH)
        raw = read_body(req, self._limits.max_queue_metadata)
        resp.data = msgspec.json.encode(self._queues.patch(req.context.queue_name, raw))

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, f"{self._kind}s:delete", req.context.queue_name)
        self._queues.delete(req.context.queue_name)
        resp.status = 204


class StatsResource:
    def __init__(self, queues: Queues, authorizer: Authorizer, *, kind: str = QUEUE) -> None:
        self._queues = queues
        self._authorizer = authorizer
        self._kind = kind

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, f"{self._kind}s:stats", req.context.queue_name)
        stats, now = self._queues.stats(req.context.queue_name)
        base = f"{req.context.base}/messages"
        resp.data = msgspec.json.encode(shown_stats(stats, now, lambda message: {"href": f"{base}/{message.id}"}))


class PurgeResource:
    def __init__(self, queues: Queues, authorizer: Authorizer, limits: Limits, *, kind: str = QUEUE) -> None:
        self._queues = queues
        self._authorizer = authorizer
        self._limits = limits
        self._kind = kind

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, f"{self._kind}s:purge", req.context.queue_name)
        self._queues.purge(req.context.queue_name, read_body(req, self._limits.max_queue_metadata))
        resp.status = 204


class ShareResource:
    """Makes pre-signed URLs of a queue or topic."""

    def __init__(self, shares: Shares, authorizer: Authorizer, limits: Limits) -> None:
        self._shares = shares
        self._rules = ShareRules(authorizer, limits)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        caller, queue_name = req.context.caller, req.context.queue_name
        self._rules.check(caller, queue_name)
        wanted = share.parse(read_body(req, share.MOST_BYTES), kind=queue_name.kind)
        self._rules.check_granted(caller, queue_name, wanted)
        resp.data = msgspec.json.encode(self._shares.create(queue_name, wanted)._asdict())
