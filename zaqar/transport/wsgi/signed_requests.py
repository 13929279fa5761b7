# SPDX-License-Identifier: Apache-2.0
"""Requests that bring a signature instead of an account.

:class:`~zaqar.transport.wsgi.requests.RequestChecks` asks :class:`SignedRequests` before a request is routed and before
anything else about identity is read, so that a refusal looks the same whatever there is at the path.
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
"""How far ahead the end of a signature in a query may be. A URL is shown and written down in more places than a header.
"""

_HEADERS = {
    "signature": "HTTP_URL_SIGNATURE",
    "paths": "HTTP_URL_PATHS",
    "methods": "HTTP_URL_METHODS",
    "expires": "HTTP_URL_EXPIRES",
    "project": "HTTP_X_PROJECT_ID",
}
"""The header whose place each parameter takes."""

_STREAM = re.compile(r"/v2/(?:queues|topics)/[^/]+/messages")


def take_signature(req: falcon.Request) -> dict[str, str] | None:
    """Remove a signature and what belongs to it from the query; return that, or None if the query has no signature.

    What is removed is in no log: gunicorn writes its access log from the same environment, after the answer. Raises
    InvalidInput if one of the values holds U+0000 or is not valid UTF-8.
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
    # A signature that is not there opens nothing.
    return {"signature": ""} if is_given_twice else decoded


def _decode(value: str, *, field: str) -> str:
    try:
        # WSGI hands over bytes that the client did not escape as Latin-1 (PEP 3333).
        text = unquote_to_bytes(value.replace("+", " ").encode("latin-1")).decode()
    except UnicodeDecodeError as exc:
        raise InvalidInput(field, "is not valid UTF-8") from exc
    if "\0" in text:
        raise InvalidInput(field, "must not hold the character U+0000")
    return text


class SignedRequests:
    """Opens requests by their signature. Every refusal, here or in a responder, is to be passed to :meth:`note`."""

    def __init__(self, urls: SignedUrls, *, clock: Clock) -> None:
        self._urls = urls
        self._clock = clock
        self._refused = RefusedSignatures(clock)

    def open(self, env: dict[str, Any], path: str) -> Callable[[Sequence[str]], bool] | None:
        """Return if the headers open the request; raise SignatureRefused if they do not.

        ``path`` is what the request is routed by. The result is that of :meth:`SignedUrls.open`: for a confirmation, a
        function that the responder must ask.
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
        """Return if a query that :func:`take_signature` has taken opens the request; raise SignatureRefused if not.

        From then on its values count as the headers do, and are in their place.
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
    """SignatureRefused unless the client has sent the characters of ``path``, if the server tells.

    gunicorn and uWSGI do; granian does not. What comes before ``path`` is where the service is mounted. A signed path
    has no character that needs to be percent-encoded, so a path with an encoded one was made to look like another.
    Nothing more is opened without this check, because the signature is compared with what the request is routed by.
    """
    target: str = env.get("RAW_URI") or env.get("REQUEST_URI") or ""
    if target and not target.partition("?")[0].endswith(path):
        raise SignatureRefused("the path is not spelt as it is signed")
