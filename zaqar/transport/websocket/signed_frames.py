# SPDX-License-Identifier: Apache-2.0
"""Checks the signature of frames that carry one instead of a token. It opens the action of that frame only."""

from __future__ import annotations

from zaqar.access.signed_urls import Claim, SignedUrls, parse_time
from zaqar.clock import Clock
from zaqar.errors import Forbidden, InvalidInput, SignatureRefused
from zaqar.service.subscriptions import Grant
from zaqar.transport.refused_signatures import RefusedSignatures
from zaqar.transport.websocket.headers import Headers

CONFIRMATION = "subscription_confirm"
"""The only action that the signature of a confirmation opens."""


class SignedFrames:
    """Checks signatures of frames. Any thread may use it. A process has one, which limits the log lines of refusals."""

    def __init__(self, urls: SignedUrls, *, clock: Clock) -> None:
        self._urls = urls
        self._clock = clock
        self._refused = RefusedSignatures(clock)

    def open(self, headers: Headers, *, action: str, method: str, path: str) -> Grant | None:
        """Check that the headers open the action, which has this method and path over HTTP.

        Returns the result of :meth:`SignedUrls.open`. Raises SignatureRefused if they do not open it; pass that to
        :meth:`refuse`.
        """
        grant = self._urls.open(_claim_of(headers), method=method, path=path, now=self._clock())
        if grant is not None and action != CONFIRMATION:
            raise SignatureRefused("nothing is confirmed here")
        return grant

    @staticmethod
    def expires(headers: Headers) -> float | None:
        """The time at which the signature of a frame that it has opened expires, in seconds since the epoch."""
        return parse_time(headers.text("URL-Expires") or "")

    def refuse(self, refused: SignatureRefused) -> Forbidden:
        """Count a refusal for the log, and return the error for the client, which is the same for every reason."""
        self._refused.note(refused)
        return Forbidden(str(refused))


def _claim_of(headers: Headers) -> Claim:
    try:
        return Claim(
            headers.text("URL-Signature") or "",
            headers.listed("URL-Paths"),
            headers.listed("URL-Methods"),
            headers.text("URL-Expires") or "",
            headers.text("X-Project-ID") or "",
        )
    except InvalidInput as exc:
        raise SignatureRefused("a header is of a wrong type") from exc
