# SPDX-License-Identifier: Apache-2.0
"""Requests that have a signature instead of a token.

:class:`~zaqar.transport.wsgi.requests.RequestChecks` calls :class:`SignedRequests` before routing and before it reads
other headers about identity, so that a refusal does not show whether the path exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote_plus, unquote_to_bytes

import falcon

from zaqar.access.signed_urls import Claim, SignedUrls, parse_time
from zaqar.clock import Clock
from zaqar.errors import InvalidInput, SignatureRefused
from zaqar.transport.refused_signatures import RefusedSignatures

MAX_QUERY_SECONDS = 3600
"""Longest time until a signature in a query expires. It is shorter than for headers, because URLs are logged and shown
in more places.
"""

_HEADERS = {
    "signature": "HTTP_URL_SIGNATURE",
    "paths": "HTTP_URL_PATHS",
    "methods": "HTTP_URL_METHODS",
    "expires": "HTTP_URL_EXPIRES",
    "project": "HTTP_X_PROJECT_ID",
}
"""The header that each parameter of the query replaces."""

_STREAM = re.compile(r"/v2/(?:queues|topics)/[^/]+/messages")


def take_signature(req: falcon.Request) -> dict[str, str] | None:
    """Remove a signature and its parameters from the query, and return them; None if the query has no signature.

    So the signature does not get into the access log, which gunicorn writes from the same environment after the answer.
    Raises InvalidInput if one of the values holds U+0000 or is not valid UTF-8.
    """
    env = req.env
    kept, taken, is_given_twice = [], {}, False
    for pair in env["QUERY_STRING"].split("&"):
        name, _, value = pair.partition("=")
        name = unquote_plus(name)
        if name in _HEADERS:
            is_given_twice |= name in taken
            taken[name] = value
        else:
            kept.append(pair)
    if "signature" not in taken:
        return None
    env["QUERY_STRING"] = req.query_string = query = "&".join(kept)
    for name in ("RAW_URI", "REQUEST_URI"):
        if name in env:
            path = env[name].partition("?")[0]
            env[name] = f"{path}?{query}" if query else path
    decoded = {name: _decode(value, field=name) for name, value in taken.items()}
    # A repeated parameter is ambiguous. The empty signature opens nothing, so the request is refused.
    return {"signature": ""} if is_given_twice else decoded


def _decode(value: str, *, field: str) -> str:
    try:
        # WSGI passes bytes that the client did not escape as Latin-1 (PEP 3333).
        text = unquote_to_bytes(value.replace("+", " ").encode("latin-1")).decode()
    except UnicodeDecodeError as exc:
        raise InvalidInput(field, "is not valid UTF-8") from exc
    if "\0" in text:
        raise InvalidInput(field, "must not hold the character U+0000")
    return text


class SignedRequests:
    """Checks the signatures of requests. The caller must pass every refusal, also of a responder, to :meth:`note`."""

    def __init__(self, urls: SignedUrls, *, clock: Clock) -> None:
        self._urls = urls
        self._clock = clock
        self._refused = RefusedSignatures(clock)

    def open(self, env: dict[str, Any], path: str) -> Callable[[Sequence[str]], bool] | None:
        """Check that the signature in the headers opens the request. Raises SignatureRefused.

        ``path`` is the path by which the request is routed. Returns the result of :meth:`SignedUrls.open`: for a
        confirmation a function with which the responder must check the subscription, otherwise None.
        """
        claim = Claim(
            env.get("HTTP_URL_SIGNATURE", ""),
            env.get("HTTP_URL_PATHS", ""),
            env.get("HTTP_URL_METHODS", ""),
            env.get("HTTP_URL_EXPIRES", ""),
            env.get("HTTP_X_PROJECT_ID", ""),
        )
        _check_spelling(env, path)
        return self._urls.open(claim, method=env["REQUEST_METHOD"], path=path, now=self._clock())

    def open_stream(self, env: dict[str, Any], path: str, query: dict[str, str]) -> None:
        """Check that a signature from :func:`take_signature` opens the request. Raises SignatureRefused.

        Then puts its values into the environment as the corresponding headers.
        """
        if "HTTP_URL_SIGNATURE" in env:
            raise SignatureRefused("a signature is in the headers and in the query")
        if _STREAM.fullmatch(path) is None:
            raise SignatureRefused("a signature in a query is for streams only")
        for name, header in _HEADERS.items():
            env[header] = query.get(name, "")
        if self.open(env, path) is not None:
            raise SignatureRefused("nothing is confirmed here")
        end = parse_time(env["HTTP_URL_EXPIRES"])
        if end is None or end > self._clock() + MAX_QUERY_SECONDS:
            raise SignatureRefused("a signature in a query is valid for too long")

    def note(self, refused: SignatureRefused) -> None:
        """Count a refusal, and log the reasons since the last line if that was long enough ago."""
        self._refused.note(refused)


def _check_spelling(env: dict[str, Any], path: str) -> None:
    """Raise SignatureRefused if the client has percent-encoded characters of ``path``, as far as the server shows that.

    gunicorn and uWSGI pass the raw target; granian does not. The target has the mount path before ``path``. A signed
    path has no character that needs to be percent-encoded, so a client that encodes one disguises the path. A server
    without this check is safe as well, because the signature is compared with the path by which the request is routed.
    """
    target: str = env.get("RAW_URI") or env.get("REQUEST_URI") or ""
    if target and not target.partition("?")[0].endswith(path):
        raise SignatureRefused("the path is not spelt as it is signed")
