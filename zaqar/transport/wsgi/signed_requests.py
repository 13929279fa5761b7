# SPDX-License-Identifier: Apache-2.0
"""Requests that bring a signature instead of an account.

:class:`~zaqar.transport.wsgi.requests.RequestChecks` asks :class:`SignedRequests` before a request is routed and before
anything else about identity is read, so that a refusal looks the same whatever there is at the path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zaqar.clock import Clock
from zaqar.errors import SignatureRefused
from zaqar.signed_urls import Claim, SignedUrls
from zaqar.transport.refused_signatures import RefusedSignatures


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
