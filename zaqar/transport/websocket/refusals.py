# SPDX-License-Identifier: Apache-2.0
"""Responses to requests that open no WebSocket connection. Each has the reason as JSON, in the form of the HTTP API."""

from __future__ import annotations

import json
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import HeaderLineTooLong, RequestLineTooLong, TooManyHeaders
from websockets.http11 import Request, Response

from zaqar.transport.probes import PATHS as PROBE_PATHS

_NO_HANDSHAKE = "This port speaks WebSocket only: a GET request with Upgrade, and without a body."


def refuse(status: HTTPStatus, description: str) -> Response:
    """A response with this status and sentence."""
    response = Response(status, status.phrase, Headers(), json.dumps(_problem(status, description)).encode())
    _describe_body(response)
    return response


def refuse_malformed(error: Exception) -> Response:
    """The response to bytes that are not a request. ``error`` is the exception of the library."""
    if isinstance(error, RequestLineTooLong):
        return refuse(HTTPStatus.REQUEST_URI_TOO_LONG, "The path is too long.")
    if isinstance(error, HeaderLineTooLong | TooManyHeaders):
        return refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too large.")
    return refuse(HTTPStatus.BAD_REQUEST, _NO_HANDSHAKE)


def explain(connection: ServerConnection, request: Request, response: Response) -> Response | None:
    """Give every refusal of the library a body in the same form. The answers of probes stay as they are."""
    if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS or request.path.partition("?")[0] in PROBE_PATHS:
        return None
    body = response.body or b""
    if not body.startswith(b"{"):
        # The first line of the library's own text is a sentence.
        sentence = body.decode(errors="replace").partition("\n")[0]
        response.body = json.dumps(_problem(HTTPStatus(response.status_code), sentence)).encode()
    _describe_body(response)
    return response


def _problem(status: HTTPStatus, description: str) -> dict[str, str]:
    return {"title": status.phrase.capitalize(), "description": description}


def _describe_body(response: Response) -> None:
    for name in ("Content-Type", "Content-Length"):
        if name in response.headers:
            del response.headers[name]
    response.headers["Content-Type"] = "application/json"
    response.headers["Content-Length"] = str(len(response.body))
    if "Connection" not in response.headers:
        response.headers["Connection"] = "close"
