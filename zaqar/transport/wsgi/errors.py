# SPDX-License-Identifier: Apache-2.0
"""Maps errors to HTTP answers: errors of the service, errors of falcon, and unexpected exceptions."""

import logging
from typing import Any

import falcon
import msgspec

from zaqar.errors import (
    AlreadySubscribed,
    ClientError,
    RateExceeded,
    StoreUnavailable,
    Unauthorized,
    UnsupportedMedia,
)

_log = logging.getLogger(__name__)

_MOST_CHARACTERS = 500
"""Longest description in an answer. A description may quote a long text of the client."""


def install(app: falcon.App[falcon.Request, falcon.Response]) -> None:
    """Install handlers that answer every error with a JSON body ``{"title": ..., "description": ...}``."""
    app.add_error_handler(Exception, _answer_unexpected)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    app.add_error_handler(ClientError, answer_client_error)
    app.add_error_handler(Unauthorized, _answer_unauthorized)
    app.add_error_handler(StoreUnavailable, _answer_store_unavailable)


def _render(resp: falcon.Response, status: int | str, title: str, description: str) -> None:
    resp.status = status
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode({"title": title, "description": description})


def answer_client_error(req: falcon.Request, resp: falcon.Response, error: ClientError, params: dict[str, Any]) -> None:
    """Answer an error of the client. Public, so that a handler of one error can do something else before."""
    if isinstance(error, UnsupportedMedia):
        resp.set_header("Accept-Patch", error.accept_patch)
    elif isinstance(error, AlreadySubscribed):
        resp.location = req.context.prefix + req.path
    elif isinstance(error, RateExceeded):
        resp.set_headers({**error.headers, "Retry-After": str(error.retry_after)})
    _render(resp, error.status, error.title, str(error)[:_MOST_CHARACTERS])


def _answer_unauthorized(
    req: falcon.Request, resp: falcon.Response, error: Unauthorized, params: dict[str, Any]
) -> None:
    # The same body as that of keystonemiddleware, which clients of OpenStack services know.
    resp.status = error.status
    resp.set_header("WWW-Authenticate", error.challenge)
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode({"error": {"code": error.status, "title": error.title, "message": str(error)}})


def _answer_store_unavailable(
    req: falcon.Request, resp: falcon.Response, error: StoreUnavailable, params: dict[str, Any]
) -> None:
    level = logging.DEBUG if error.is_logged else logging.ERROR
    _log.log(level, "%s: a store is not available", req.context.request_id, exc_info=error)
    resp.set_header("Retry-After", str(error.retry_after))
    _render(resp, error.status, error.title, str(error))


def _answer_http_error(
    req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: dict[str, Any]
) -> None:
    if error.headers is not None:
        resp.set_headers(error.headers)
    description = error.description
    if description is None and isinstance(error, falcon.HTTPMethodNotAllowed):
        description = f"{req.method} is not served here; see the Allow header."
    elif description is None and isinstance(error, falcon.HTTPRouteNotFound):
        description = f"There is nothing at '{req.path[:200]}'."
    _render(resp, error.status, error.title or "Error", description or "The request cannot be served.")


def _answer_unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]) -> None:
    # Log the text of the exception, but do not send it: it may have addresses, statements or data of another tenant.
    request_id = getattr(req.context, "request_id", "-")
    _log.error("%s: %s %s failed", request_id, req.method, req.path, exc_info=error)
    _render(resp, 500, "Internal server error", f"Something went wrong; the log has it as {request_id}.")
