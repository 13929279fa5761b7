# SPDX-License-Identifier: Apache-2.0
"""The resources ``/v2/queues/{queue_name}/messages`` and one message below it, and the same for topics."""

from __future__ import annotations

from functools import partial

import falcon
import msgspec

from zaqar.errors import InvalidInput
from zaqar.limits import Limits
from zaqar.model import Message
from zaqar.policies import Authorizer
from zaqar.quotas.rates import Rates
from zaqar.schemas.fields import parse_boolean, parse_integer
from zaqar.schemas.messages import Extras, WireTrace, split_ids
from zaqar.service.messages import MessagePage, Messages
from zaqar.transport.wsgi.event_streams import EventStreams
from zaqar.transport.wsgi.request_rate import show_rate
from zaqar.transport.wsgi.requests import Query, next_link, read_body, read_query
from zaqar.transport.wsgi.waits import Waits, refuse_wait

_FLAGS = ("echo", "include_claimed", "include_delayed", "hide_delayed", "include_origin", "include_trace")


class WireOrigin(msgspec.Struct):
    queue: str
    message_id: str
    claim_count: int


class WireMessage(msgspec.Struct, omit_defaults=True):
    """A message in a listing. Its body has the bytes that were posted."""

    id: str
    href: str
    ttl: int
    age: int
    body: msgspec.Raw
    checksum: str | None = None
    origin: WireOrigin | None = None
    error: str | None = None
    trace: WireTrace | None = None


class WirePopped(msgspec.Struct, omit_defaults=True):
    """A message that was popped. It is deleted, so it has no href."""

    id: str
    ttl: int
    age: int
    body: msgspec.Raw
    claim_id: str | None
    claim_count: int
    trace: WireTrace | None = None


class WirePage(msgspec.Struct):
    messages: list[WireMessage]
    links: list[dict[str, str]]


def render(base: str, message: Message, now: float, *, extras: Extras) -> WireMessage:
    """The message with its href below ``base``, the path of the queue. If it is claimed, the href has the claim id."""
    origin, id_ = message.origin if extras.origin else None, message.id
    path = f"{base}/messages/{id_}"
    return WireMessage(
        id_,
        path if message.claim_id is None else f"{path}?claim_id={message.claim_id}",
        message.ttl,
        message.age(now),
        msgspec.Raw(message.body),
        message.checksum,
        WireOrigin(origin.queue, origin.message_id, origin.claim_count) if origin else None,
        message.error,
        WireTrace.of(message.trace) if extras.trace and message.trace else None,
    )


def flag(query: Query, name: str) -> bool:
    """A boolean query parameter that is false if it is absent."""
    return name in query and parse_boolean(query[name], field=name)


def extras_of(query: Query) -> Extras:
    """What the client wants to see of each message."""
    return Extras(flag(query, "include_origin"), flag(query, "include_trace"))


class MessagesResource:
    has_streams = True

    def __init__(
        self,
        messages: Messages,
        authorizer: Authorizer,
        limits: Limits,
        streams: EventStreams,
        waits: Waits,
        post_rates: Rates | None = None,
    ) -> None:
        """``post_rates`` are None if no rate of posts is limited."""
        self._messages = messages
        self._post_rates = post_rates
        self._streams = streams
        self._authorizer = authorizer
        self._limits = limits
        self._waits = waits

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, "messages:create", req.context.queue_name)
        raw = read_body(req, self._limits.max_messages_post_size)
        ids = self._messages.post(req.context.caller, req.context.queue_name, raw)
        if self._post_rates is not None and (headers := self._post_rates.post_headers(req.context.queue_name)):
            show_rate(resp, headers)
        base = req.context.base + "/messages"
        # No more ids than one request may ask for: clients refuse a header with thousands of them.
        resp.status, resp.location = 201, f"{base}?ids={','.join(ids[: self._limits.max_messages_per_page])}"
        resp.data = msgspec.json.encode({"resources": [*map(f"{base}/".__add__, ids)]})

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, "messages:get_all", req.context.queue_name)
        query = read_query(req)
        if req.context.wants_stream:
            extras = extras_of(query)
            self._streams.answer(req, resp, query, partial(render, req.context.base, extras=extras))
        else:
            resp.data = self._list(req, resp, query)

    def _list(self, req: falcon.Request, resp: falcon.Response, query: Query) -> bytes:
        queue_name, base, extras = req.context.queue_name, req.context.base, extras_of(query)
        refuse_wait(query, "ids")
        found = (
            self._messages.get_many(queue_name, split_ids(query["ids"]))
            if "ids" in query
            else self._page(req, resp, query)
        )
        messages = [render(base, message, found.now, extras=extras) for message in found.messages]
        return msgspec.json.encode(
            {"messages": messages} if "ids" in query else WirePage(messages, _links(base, query, found))
        )

    def _page(self, req: falcon.Request, resp: falcon.Response, query: Query) -> MessagePage:
        most, wait = self._limits.max_messages_per_page, self._waits.seconds(query)
        include_delayed, hide_delayed = flag(query, "include_delayed"), flag(query, "hide_delayed")
        awaited = self._messages.prepare_list(
            req.context.caller,
            req.context.queue_name,
            marker=query.get("marker"),
            limit=parse_integer(query["limit"], 1, most, field="limit") if "limit" in query else min(10, most),
            echo=flag(query, "echo"),
            include_claimed=flag(query, "include_claimed"),
            include_delayed=include_delayed and not hide_delayed,
        )
        return self._waits.serve(req, resp, awaited, wait)

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        query, queue_name = read_query(req), req.context.queue_name
        self._authorizer.check(req.context.caller, "messages:delete_all", req.context.queue_name)
        if ("ids" in query) == ("pop" in query):
            raise InvalidInput("ids", "give either 'ids' or 'pop' in the query")
        refuse_wait(query, "ids")
        if "ids" in query:
            claims = split_ids(query["claim_ids"]) if "claim_ids" in query else None
            self._messages.delete_many(queue_name, split_ids(query["ids"]), claim_ids=claims)
            resp.status = 204
        else:
            resp.data = msgspec.json.encode({"messages": self._popped(req, resp, query)})

    def _popped(self, req: falcon.Request, resp: falcon.Response, query: Query) -> list[WirePopped]:
        limit = parse_integer(query["pop"], 1, self._limits.max_messages_per_claim_or_pop, field="pop")
        wait, with_trace = self._waits.seconds(query), flag(query, "include_trace")
        taken = self._waits.serve(req, resp, self._messages.prepare_pop(req.context.queue_name, limit=limit), wait)
        return [
            WirePopped(
                m.id,
                m.ttl,
                m.age(taken.now),
                msgspec.Raw(m.body),
                m.claim_id,
                m.claim_count,
                WireTrace.of(m.trace) if with_trace and m.trace else None,
            )
            for m in taken.messages
        ]


def _links(base: str, query: Query, page: MessagePage) -> list[dict[str, str]]:
    if not page.messages:
        return []
    following = query
    if not page.delays and not flag(query, "include_delayed"):
        # Clients expect include_delayed in this link. But a client that has not asked for delayed messages must not see
        # one before its delay is over, so hide_delayed revokes it.
        following = {**query, "include_delayed": "true", "hide_delayed": "true"}
    return [next_link(base + "/messages", following, marker=page.messages[-1].id, booleans=_FLAGS)]


class MessageResource:
    def __init__(self, messages: Messages, authorizer: Authorizer) -> None:
        self._messages = messages
        self._authorizer = authorizer

    def on_get(self, req: falcon.Request, resp: falcon.Response, message_id: str) -> None:
        self._authorizer.check(req.context.caller, "messages:get", req.context.queue_name)
        query = read_query(req)
        found = self._messages.get(req.context.queue_name, message_id)
        extras = extras_of(query)
        message = render(req.context.base, found.messages[0], found.now, extras=extras)
        resp.data = msgspec.json.encode(message)

    def on_delete(self, req: falcon.Request, resp: falcon.Response, message_id: str) -> None:
        self._authorizer.check(req.context.caller, "messages:delete", req.context.queue_name)
        query = read_query(req)
        # The home document of the API reference calls the parameter "claim", so both names count.
        claim_id = query.get("claim_id", query.get("claim"))
        self._messages.delete(req.context.queue_name, message_id, claim_id=claim_id)
        resp.status = 204
