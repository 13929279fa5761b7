# SPDX-License-Identifier: Apache-2.0
"""Checks the headers of every request, and reads queries and bodies. All resources use it."""

from collections.abc import Collection
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

import falcon

from zaqar.access.extra_specs import ExtraSpecs
from zaqar.access.identity import Identity
from zaqar.access.signed_urls import SignedUrls
from zaqar.clock import system_clock
from zaqar.context import Context, new_request_id
from zaqar.errors import Forbidden, InvalidInput, NotAcceptable, NotFound, SignatureRefused
from zaqar.limits import Limits
from zaqar.logs import context as log_context
from zaqar.model import QUEUE, TOPIC, QueueName
from zaqar.schemas.fields import check_name, parse_boolean
from zaqar.tracing import context as tracing
from zaqar.transport.caller_headers import ClientIds, check_project, roles_of
from zaqar.transport.wsgi.authentication import CALLER
from zaqar.transport.wsgi.proxy_headers import believe_proxy, link_prefix, undo_repeated_prefix
from zaqar.transport.wsgi.signed_requests import SignedRequests, take_signature

EVENT_STREAM = "text/event-stream"
"""The media type of a stream of messages."""

_ANY_ACCEPT = frozenset({"*/*", "application/json"})
_FORM = "application/x-www-form-urlencoded"
_MOST_PARAMETERS = 100
_LISTS = frozenset({"ids", "claim_ids"})

Query = dict[str, str]


class RequestChecks:
    """The middleware that checks each request before its responder.

    It sets these attributes of ``req.context`` for the responders:

    - ``request_id``, ``caller`` (a :class:`~zaqar.context.Context`), and ``queue_name`` on paths below a queue or
      topic;
    - ``prefix``, the path at which the service is mounted, and ``base``, the path of the queue or topic. Links begin
      with them;
    - ``signed``: whether the request has a signature. It is served only if the signature opens it;
    - ``grant``: None unless the signature is that of a confirmation. Only a resource with ``checks_grants`` gets one;
    - ``wants_stream``: whether a GET asks for a stream and not for JSON. Only a resource with ``has_streams`` serves
      streams. The signature for a stream may be in the query.

    A resource with ``open_to_all`` needs no Client-ID and no project. A resource with ``for_browsers`` answers in HTML.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        signed: SignedRequests | None = None,
        believes_proxy: bool = False,
        extra_specs: ExtraSpecs | None = None,
    ) -> None:
        """``believes_proxy``: whether headers that a reverse proxy sets, such as X-Forwarded-Prefix, have an effect."""
        self._signed = signed or SignedRequests(SignedUrls(), clock=system_clock)
        self._believes_proxy = believes_proxy
        self._extra_specs = extra_specs or ExtraSpecs({})
        self._client_ids = ClientIds(limits)

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        request_id = new_request_id()
        req.context.request_id = request_id
        log_context.request_id.set(request_id)
        resp.set_header("X-OpenStack-Request-ID", request_id)
        req.context.prefix, req.context.grant = "", None
        env = req.env
        query = req.query_string
        # Remove a signature from the query of every request, because the access log shows the query. The name of the
        # parameter may be percent-encoded.
        taken = take_signature(req) if "signature=" in query or "%" in query else None
        in_query = _look_for_stream(req, taken) if req.method == "GET" else None
        req.context.signed = signed = in_query is not None or "HTTP_URL_SIGNATURE" in env
        if self._believes_proxy:
            believe_proxy(env)
        if env.get("SCRIPT_NAME"):
            if not req.path.startswith("/"):
                # gunicorn compares only the characters: a service that is mounted at /a also gets /abc, as "bc".
                if signed:
                    raise SignatureRefused("there is no such path")
                raise NotFound("There is nothing at this path.")
            req.context.prefix = link_prefix(req.root_path)
            req.path = undo_repeated_prefix(req.path, req.root_path)
        if in_query is not None:
            self._signed.open_stream(env, req.path, in_query)
        elif signed:
            req.context.grant = self._signed.open(env, req.path)

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        env = req.env
        signed = req.context.signed
        if req.context.grant is not None and not getattr(resource, "checks_grants", False):
            raise SignatureRefused("nothing is confirmed here")
        accept = env.get("HTTP_ACCEPT") or "*/*"
        if accept not in _ANY_ACCEPT and not _accepts_json(accept):
            _refuse_unless_served(req, resource)
        # A browser's preflight has none of the headers below. Its answer has only methods.
        if getattr(resource, "open_to_all", False) or req.method == "OPTIONS":
            return
        caller = env.get(CALLER)
        if caller is None:
            project = env.get("HTTP_X_PROJECT_ID") or env.get("HTTP_X_TENANT_ID") or ""
            if not project and req.method == "GET" and req.context.ignores_signature:
                raise InvalidInput("signature", f"counts in a query only together with 'Accept: {EVENT_STREAM}'")
            check_project(project)
            # A signature opens the operation that it names, and gives the caller no roles and no user id. So ignore the
            # headers that claim them.
            roles = None if signed else env.get("HTTP_X_ROLES")
            client = env.get("HTTP_CLIENT_ID") or ""
            req.context.caller = Context(
                project,
                self._client_ids.parse(client) if client or not _needs_no_client_id(req) else "",
                roles_of(roles) if roles else frozenset(),
                None if signed else env.get("HTTP_X_USER_ID"),
                req.context.request_id,
                signed,
                trace=_trace_of(env) if "HTTP_TRACEPARENT" in env else None,
            )
        else:
            req.context.caller = self._authenticated(req, resource, *caller)
            project = req.context.caller.project
        if "HTTP_EXTRA_SPEC" in env:
            self._extra_specs.check(env["HTTP_EXTRA_SPEC"])
        if "queue_name" in params:
            name = params.pop("queue_name")
            check_name(name, field="queue_name")
            req.context.queue_name = QueueName(project, QUEUE, name)
            req.context.base = f"{req.context.prefix}/v2/queues/{name}"
        elif "topic_name" in params:
            name = params.pop("topic_name")
            check_name(name, field="topic_name")
            req.context.queue_name = QueueName(project, TOPIC, name)
            req.context.base = f"{req.context.prefix}/v2/topics/{name}"
        if (env.get("CONTENT_TYPE") or "").lower().startswith(_FORM) and _has_body(req):
            raise InvalidInput("Content-Type", f"must not be '{_FORM}'")

    def _authenticated(self, req: falcon.Request, resource: object, identity: Identity, token: str) -> Context:
        """The caller with a valid token. The project is that of the token, not that of the header."""
        project = identity.project
        if project is None:
            # Resources of the whole deployment belong to no project, so tokens without a project may use them.
            if identity.system_scope is None or not getattr(resource, "of_deployment", False):
                raise Forbidden("The token has no project. Use one that is scoped to a project.")
            project = ""
        return Context(
            project,
            self._client_ids.parse(req.env.get("HTTP_CLIENT_ID") or ""),
            identity.roles,
            identity.user_id,
            req.context.request_id,
            system_scope=identity.system_scope,
            token=token.strip(),
            trace=_trace_of(req.env) if "HTTP_TRACEPARENT" in req.env else None,
        )


def _trace_of(env: dict[str, Any]) -> str | None:
    return tracing.read(env["HTTP_TRACEPARENT"], env.get("HTTP_TRACESTATE", ""))


def _accepts_json(accept: str) -> bool:
    # Media types are compared without their case (RFC 9110, section 8.3.1).
    try:
        return falcon.mediatypes.quality(falcon.MEDIA_JSON, accept.lower()) > 0.0
    except ValueError:
        return False


def _look_for_stream(req: falcon.Request, taken: dict[str, str] | None) -> dict[str, str] | None:
    """Note whether a GET asks for a stream. If so, return the signature of its query, which counts only then."""
    wants_stream = _prefers_stream(req.env.get("HTTP_ACCEPT") or "")
    req.context.wants_stream = wants_stream
    req.context.is_signed_in_query = wants_stream and taken is not None
    req.context.ignores_signature = taken is not None and not wants_stream
    return taken if wants_stream else None


def _needs_no_client_id(req: falcon.Request) -> bool:
    """Whether the request is for a stream. The EventSource of a browser cannot send headers."""
    return req.method == "GET" and bool(req.context.is_signed_in_query)


def _prefers_stream(accept: str) -> bool:
    if "event-stream" not in accept.lower():
        return False
    quality = falcon.mediatypes.quality
    try:
        return quality(EVENT_STREAM, accept.lower()) > quality(falcon.MEDIA_JSON, accept.lower())
    except ValueError:
        return False


def _refuse_unless_served(req: falcon.Request, resource: object) -> None:
    if getattr(resource, "has_streams", False):
        if req.method == "GET" and req.context.wants_stream:
            return
        raise NotAcceptable(f"Accept: this is served as 'application/json', and to a GET as '{EVENT_STREAM}'")
    if not getattr(resource, "for_browsers", False):
        raise NotAcceptable("Accept: this service answers in 'application/json' only")


def _has_body(req: falcon.Request) -> bool:
    return bool(req.content_length) or _is_chunked(req)


def _is_chunked(req: falcon.Request) -> bool:
    coding = req.env.get("HTTP_TRANSFER_ENCODING")
    if coding is not None and coding.strip().lower() != "chunked":
        # Servers accept "gzip, chunked" as well, but they decode only the chunks.
        raise InvalidInput("Transfer-Encoding", "must be 'chunked'")
    return coding is not None


def read_query(req: falcon.Request) -> Query:
    """The query parameters by name. An empty one counts as absent.

    Raises InvalidInput if a parameter that is not a list is repeated, or if one has U+0000 or is not valid UTF-8.
    """
    text = req.query_string
    if not text:
        return {}
    try:
        if not text.isascii():
            # WSGI passes bytes that the client did not escape as Latin-1 (PEP 3333).
            text = text.encode("latin-1").decode()
        pairs = parse_qsl(text, errors="strict", max_num_fields=_MOST_PARAMETERS)
    except UnicodeDecodeError as exc:
        raise InvalidInput("query", "is not valid UTF-8") from exc
    except ValueError as exc:
        raise InvalidInput("query", f"has more than {_MOST_PARAMETERS} parameters") from exc
    # PERF: one search in the whole query is cheaper than a check of each pair. No valid parameter has U+0000, and not
    # every store accepts it.
    if "%00" in text or "\x00" in text:
        _refuse_nul(pairs)
    query = dict(pairs)
    return query if len(query) == len(pairs) else _merge_lists(pairs)


def _refuse_nul(pairs: list[tuple[str, str]]) -> None:
    for name, value in pairs:
        if "\x00" in name:
            raise InvalidInput("query", "has a parameter whose name holds the character U+0000")
        if "\x00" in value:
            raise InvalidInput(name, "must not hold the character U+0000")


def _merge_lists(pairs: list[tuple[str, str]]) -> Query:
    # python-zaqarclient spells a list as ids=a&ids=b, the API reference as ids=a,b.
    query: Query = {}
    for name, value in pairs:
        if name not in query:
            query[name] = value
        elif name in _LISTS:
            query[name] += f",{value}"
        else:
            raise InvalidInput(name, "is given twice in the query")
    return query


def next_link(path: str, query: Query, *, marker: str, booleans: Collection[str] = ()) -> dict[str, str]:
    """The link to the page after this one: the same query with another marker.

    ``booleans`` are the parameters that are truth values. Links spell them ``true`` or ``false``, however the client
    has spelt them.
    """
    following = {**query, "marker": marker}
    for name in booleans:
        if name in query:
            following[name] = "true" if parse_boolean(query[name], field=name) else "false"
    return {"rel": "next", "href": f"{path}?{urlencode(following)}"}


def read_body(req: falcon.Request, most: int) -> bytes:
    """The whole body, with a Content-Length or chunked; empty if there is none. It may have ``most`` bytes."""
    length = req.content_length
    if length is not None and length > most:
        raise InvalidInput("body", f"has {length} bytes, more than {most}")
    if length is None and not _is_chunked(req):
        return b""
    raw = _read_all(req, most + 1 if length is None else length)
    if length is None and len(raw) > most:
        raise InvalidInput("body", f"has more than {most} bytes")
    if length is not None and len(raw) < length:
        raise InvalidInput("body", f"ends after {len(raw)} of the {length} bytes that Content-Length says")
    return raw


def _read_all(req: falcon.Request, size: int) -> bytes:
    # The stream of the server itself, because falcon's bounded stream does not support chunked bodies.
    stream = req.env["wsgi.input"]
    parts = []
    try:
        while size > 0 and (part := cast("bytes", stream.read(size))):
            parts.append(part)
            size -= len(part)
    except Exception as exc:
        # Each WSGI server has exceptions of its own for a body that breaks off or breaks the rules of HTTP/1.1.
        raise InvalidInput("body", "breaks off or is not framed correctly") from exc
    return parts[0] if len(parts) == 1 else b"".join(parts)
