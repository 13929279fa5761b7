# SPDX-License-Identifier: Apache-2.0
"""What every request has to bring along, and how its query and body are read."""

import functools
import os
import re
import uuid
from typing import Any, cast
from urllib.parse import parse_qsl

import falcon

from zaqar.context import Context
from zaqar.errors import InvalidInput, NotAcceptable
from zaqar.limits import Limits
from zaqar.model import QUEUE, Address
from zaqar.schemas.fields import check_name

_ANY_ACCEPT = frozenset({None, "*/*", "application/json"})
_UUID = re.compile(r"[0-9a-f]{32}")
_PROJECT = re.compile(r"[^\x00-\x20\x7f,]{1,256}")
_FORM = "application/x-www-form-urlencoded"
_MOST_PARAMETERS = 100
_LISTS = frozenset({"ids", "claim_ids"})

Query = dict[str, str]


class RequestChecks:
    """The middleware: request id, then headers, names and content type, in one method for each.

    It leaves ``req.context.caller`` (a :class:`~zaqar.context.Context`) and, on paths below a queue,
    ``req.context.address`` for the responders. A resource with ``open_to_all`` needs no Client-ID and no project.
    """

    def __init__(self, limits: Limits) -> None:
        self._strict_client_id = limits.client_id_uuid_safe == "strict"
        self._client_id_length = range(limits.min_length_client_id, limits.max_length_client_id + 1)

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        request_id = f"req-{uuid.UUID(bytes=os.urandom(16), version=4)}"
        req.context.request_id = request_id
        resp.set_header("X-OpenStack-Request-ID", request_id)

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        env = req.env
        if env.get("HTTP_ACCEPT") not in _ANY_ACCEPT and not req.client_accepts_json:
            raise NotAcceptable("Accept: this service answers in 'application/json' only")
        # A browser's preflight has none of the headers below, and is answered with methods only.
        if getattr(resource, "open_to_all", False) or req.method == "OPTIONS":
            return
        project = env.get("HTTP_X_PROJECT_ID") or env.get("HTTP_X_TENANT_ID") or ""
        if _PROJECT.fullmatch(project) is None:
            raise InvalidInput("X-Project-ID", "must be one project id of 1 to 256 characters without space or comma")
        roles = env.get("HTTP_X_ROLES")
        req.context.caller = Context(
            project,
            self._client_id(env.get("HTTP_CLIENT_ID") or ""),
            _parse_roles(roles) if roles else frozenset(),
            env.get("HTTP_X_USER_ID"),
            req.context.request_id,
        )
        name = params.pop("queue_name", None)
        if name is not None:
            check_name(name, field="queue_name")
            req.context.address = Address(project, QUEUE, name)
        if (env.get("CONTENT_TYPE") or "").lower().startswith(_FORM) and _has_body(req):
            raise InvalidInput("Content-Type", f"must not be '{_FORM}'")

    def _client_id(self, text: str) -> str:
        if self._strict_client_id:
            return _parse_uuid(text)
        if len(text) not in self._client_id_length:
            low, high = self._client_id_length.start, self._client_id_length.stop - 1
            raise InvalidInput("Client-ID", f"must have {low} to {high} characters")
        return text


@functools.lru_cache(4096)
def _parse_uuid(text: str) -> str:
    """One spelling for each UUID, so that ``echo`` knows a client by whichever it uses."""
    # Not by uuid.UUID(), which takes what int() takes in base 16, such as "0x" or "_" in the middle.
    digits = text.removeprefix("urn:uuid:").strip("{}").replace("-", "").lower()
    if _UUID.fullmatch(digits) is None:
        raise InvalidInput("Client-ID", "must be a UUID")
    return digits


@functools.lru_cache(1024)
def _parse_roles(text: str) -> frozenset[str]:
    return frozenset(role.strip().lower() for role in text.split(",") if role.strip())


def _has_body(req: falcon.Request) -> bool:
    return bool(req.content_length) or _is_chunked(req)


def _is_chunked(req: falcon.Request) -> bool:
    coding = req.env.get("HTTP_TRANSFER_ENCODING")
    if coding is not None and coding.strip().lower() != "chunked":
        # Servers take "gzip, chunked" as well, but undo the chunks only.
        raise InvalidInput("Transfer-Encoding", "must be 'chunked'")
    return coding is not None


def read_query(req: falcon.Request) -> Query:
    """The query parameters; one that is empty counts as absent, one given twice is refused unless it is a list."""
    text = req.query_string
    if not text:
        return {}
    try:
        if not text.isascii():
            # Bytes that the client did not escape; WSGI hands them over as Latin-1 (PEP 3333).
            text = text.encode("latin-1").decode()
        pairs = parse_qsl(text, errors="strict", max_num_fields=_MOST_PARAMETERS)
    except UnicodeDecodeError as exc:
        raise InvalidInput("query", "is not valid UTF-8") from exc
    except ValueError as exc:
        raise InvalidInput("query", f"has more than {_MOST_PARAMETERS} parameters") from exc
    query = dict(pairs)
    return query if len(query) == len(pairs) else _merge_lists(pairs)


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


def read_body(req: falcon.Request, most: int) -> bytes:
    """The whole body, of at most ``most`` bytes, with a Content-Length or chunked; empty where there is none."""
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
    # The stream of the server itself: falcon's bounded one knows nothing of chunked bodies.
    stream = req.env["wsgi.input"]
    parts = []
    try:
        while size > 0 and (part := cast("bytes", stream.read(size))):
            parts.append(part)
            size -= len(part)
    except Exception as exc:
        # Each WSGI server has exceptions of its own for a body that breaks off or is not framed as HTTP/1.1 asks.
        raise InvalidInput("body", "breaks off or is not framed correctly") from exc
    return parts[0] if len(parts) == 1 else b"".join(parts)
