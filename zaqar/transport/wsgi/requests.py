# SPDX-License-Identifier: Apache-2.0
"""What every request has to bring along, and how its query and body are read."""

import functools
import os
import re
import uuid
from typing import Any, cast
from urllib.parse import parse_qsl

import falcon

from zaqar import signed_urls
from zaqar.clock import Clock, system_clock
from zaqar.context import Context
from zaqar.errors import InvalidInput, NotAcceptable, NotFound
from zaqar.limits import Limits
from zaqar.model import QUEUE, TOPIC, Address
from zaqar.schemas.fields import check_name

_ANY_ACCEPT = frozenset({None, "*/*", "application/json"})
_UUID = re.compile(r"[0-9a-f]{32}")
_PROJECT = re.compile(r"[^\x00-\x20\x7f,]{1,256}")
_FORM = "application/x-www-form-urlencoded"
_MOST_PARAMETERS = 100
_LONGEST_UUID = len("urn:uuid:{00000000-0000-0000-0000-000000000000}")
_LONGEST_REMEMBERED = 256
"""Characters of a header up to which its meaning is remembered: no caller chooses how much memory that takes."""
_LISTS = frozenset({"ids", "claim_ids"})

Query = dict[str, str]


class RequestChecks:
    """The middleware: request id, then headers, names and content type, in one method for each.

    It leaves ``req.context.caller`` (a :class:`~zaqar.context.Context`) and, on paths below a queue or topic,
    ``req.context.address`` for the responders. A resource with ``open_to_all`` needs no Client-ID and no project; one
    ``for_browsers`` answers in HTML. A request with a signature is served only where the signature opens it.
    """

    def __init__(self, limits: Limits, *, secret_key: str | None = None, clock: Clock = system_clock) -> None:
        self._secret_key = secret_key
        self._clock = clock
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
        if "HTTP_URL_SIGNATURE" in env:
            self._check_signature(req)
        if env.get("HTTP_ACCEPT") not in _ANY_ACCEPT and not req.client_accepts_json:
            _refuse_unless_for_browsers(resource)
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
            _roles_of(roles) if roles else frozenset(),
            env.get("HTTP_X_USER_ID"),
            req.context.request_id,
        )
        if "queue_name" in params:
            name = params.pop("queue_name")
            check_name(name, field="queue_name")
            req.context.address = Address(project, QUEUE, name)
        elif "topic_name" in params:
            name = params.pop("topic_name")
            check_name(name, field="topic_name")
            req.context.address = Address(project, TOPIC, name)
        if (env.get("CONTENT_TYPE") or "").lower().startswith(_FORM) and _has_body(req):
            raise InvalidInput("Content-Type", f"must not be '{_FORM}'")

    def _check_signature(self, req: falcon.Request) -> None:
        """NotFound, whatever is wrong, unless the headers are a grant of the service that opens the request."""
        env = req.env
        paths, methods = (env.get(f"HTTP_URL_{name}", "").split(",") for name in ("PATHS", "METHODS"))
        signed = signed_urls.verify(
            self._secret_key or "",
            env["HTTP_URL_SIGNATURE"],
            project=env.get("HTTP_X_PROJECT_ID", ""),
            paths=paths,
            methods=methods,
            expires=env.get("HTTP_URL_EXPIRES", ""),
            now=self._clock(),
        )
        if not signed or not signed_urls.covers(paths, methods, path=req.path, method=req.method):
            raise NotFound("The signature does not open this.")

    def _client_id(self, text: str) -> str:
        if self._strict_client_id:
            return _parse_uuid(text)
        if len(text) not in self._client_id_length:
            low, high = self._client_id_length.start, self._client_id_length.stop - 1
            raise InvalidInput("Client-ID", f"must have {low} to {high} characters")
        return text


def _refuse_unless_for_browsers(resource: object) -> None:
    if not getattr(resource, "for_browsers", False):
        raise NotAcceptable("Accept: this service answers in 'application/json' only")


@functools.lru_cache(4096)
def _parse_uuid(text: str) -> str:
    """One spelling for each UUID, so that ``echo`` knows a client by whichever it uses."""
    # Not by uuid.UUID(), which takes what int() takes in base 16, such as "0x" or "_" in the middle.
    digits = text.removeprefix("urn:uuid:").strip("{}").replace("-", "").lower()
    # A text that is longer than any spelling has braces and hyphens without number. It must not be remembered.
    if len(text) > _LONGEST_UUID or _UUID.fullmatch(digits) is None:
        raise InvalidInput("Client-ID", "must be a UUID")
    return digits


def _roles_of(text: str) -> frozenset[str]:
    return _parse_roles(text) if len(text) <= _LONGEST_REMEMBERED else _parse_roles.__wrapped__(text)


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
