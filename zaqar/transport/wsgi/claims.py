# SPDX-License-Identifier: Apache-2.0
"""The resources ``/v2/queues/{queue_name}/claims`` and one claim below it."""

from functools import partial

import falcon
import msgspec

from zaqar.limits import Limits
from zaqar.policies import Authorizer
from zaqar.schemas.claims import MOST_BYTES
from zaqar.schemas.fields import parse_integer
from zaqar.schemas.messages import Extras
from zaqar.service.claims import Claimed, Claims
from zaqar.transport.wsgi.messages import WireMessage, extras_of, render
from zaqar.transport.wsgi.requests import read_body, read_query
from zaqar.transport.wsgi.waits import ReleasedUnlessWritten, Waits


def _path(base: str, claimed: Claimed) -> str:
    return f"{base}/claims/{claimed.claim.id}"


def _messages(base: str, claimed: Claimed, extras: Extras) -> list[WireMessage]:
    return [render(base, message, claimed.now, extras=extras) for message in claimed.messages]


class ClaimsResource:
    def __init__(self, claims: Claims, authorizer: Authorizer, limits: Limits, waits: Waits) -> None:
        self._claims = claims
        self._authorizer = authorizer
        self._limits = limits
        self._waits = waits

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, "claims:create", req.context.queue_name)
        query, base = read_query(req), req.context.base
        limit, extras = self._limit(query.get("limit")), extras_of(query)
        wait, raw = self._waits.seconds(query), read_body(req, MOST_BYTES)
        claimed = self._claim(req, resp, raw, limit, wait)
        resp.status = 201 if claimed.messages else 204
        if claimed.messages:
            resp.location = _path(base, claimed)
            body = msgspec.json.encode({"messages": _messages(base, claimed, extras)})
            self._answer(req, resp, body, claimed.claim.id if wait else None)

    def _claim(self, req: falcon.Request, resp: falcon.Response, raw: bytes, limit: int, wait: int) -> Claimed:
        claimed = self._waits.serve(req, resp, self._claims.prepare(req.context.queue_name, raw, limit=limit), wait)
        self._claims.count(claimed, waited=wait > 0)
        return claimed

    def _answer(self, req: falcon.Request, resp: falcon.Response, body: bytes, waited_claim: str | None) -> None:
        if waited_claim is None:
            resp.data = body
            return
        # The client may have closed its connection while it waited. Then it does not know of the claim, so the claim
        # has to be released.
        release = partial(self._claims.give_back, req.context.queue_name, waited_claim)
        resp.stream = ReleasedUnlessWritten(body, release=release, is_gone=partial(self._waits.is_client_gone, req))
        resp.content_length = len(body)

    def _limit(self, text: str | None) -> int:
        most = self._limits.max_messages_per_claim_or_pop
        return min(10, most) if text is None else parse_integer(text, 1, most, field="limit")


class ClaimResource:
    def __init__(self, claims: Claims, authorizer: Authorizer) -> None:
        self._claims = claims
        self._authorizer = authorizer

    def on_get(self, req: falcon.Request, resp: falcon.Response, claim_id: str) -> None:
        self._authorizer.check(req.context.caller, "claims:get", req.context.queue_name)
        base, extras = req.context.base, extras_of(read_query(req))
        claimed = self._claims.get(req.context.queue_name, claim_id)
        resp.data = msgspec.json.encode(
            {
                "age": claimed.claim.age(claimed.now),
                "ttl": claimed.claim.ttl,
                "href": _path(base, claimed),
                "messages": _messages(base, claimed, extras),
            }
        )

    def on_patch(self, req: falcon.Request, resp: falcon.Response, claim_id: str) -> None:
        self._authorizer.check(req.context.caller, "claims:update", req.context.queue_name)
        self._claims.renew(req.context.queue_name, claim_id, read_body(req, MOST_BYTES))
        resp.status = 204

    def on_delete(self, req: falcon.Request, resp: falcon.Response, claim_id: str) -> None:
        self._authorizer.check(req.context.caller, "claims:delete", req.context.queue_name)
        self._claims.release(req.context.queue_name, claim_id)
        resp.status = 204
