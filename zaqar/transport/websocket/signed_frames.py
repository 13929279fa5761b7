# SPDX-License-Identifier: Apache-2.0
"""Frames that bring a signature instead of an account. A signature opens the one action it came with."""

from __future__ import annotations

from zaqar.clock import Clock
from zaqar.errors import Forbidden, InvalidInput, SignatureRefused
from zaqar.service.subscriptions import Grant
from zaqar.signed_urls import Claim, SignedUrls
from zaqar.transport.refused_signatures import RefusedSignatures
from zaqar.transport.websocket.headers import Headers

CONFIRMATION = "subscription_confirm"
"""The only action that asks what a confirmation is bound to."""


class SignedFrames:
    """Opens frames by their signature. Safe for threads; one for a process, so that the log does not grow by more."""

    def __init__(self, urls: SignedUrls, *, clock: Clock) -> None:
        self._urls = urls
        self._clock = clock
        self._refused = RefusedSignatures(clock)

    def open(self, headers: Headers, *, action: str, method: str, path: str) -> Grant | None:
        """Return if the headers open the action, which has this method and path over HTTP.

        The result is that of :meth:`SignedUrls.open`. Raises SignatureRefused, which :meth:`refuse` takes, if they do
        not.
        """
        grant = self._urls.open(_claim_of(headers), method=method, path=path, now=self._clock())
        if grant is not None and action != CONFIRMATION:
            raise SignatureRefused("nothing is confirmed here")
        return grant

    def refuse(self, refused: SignatureRefused) -> Forbidden:
        """Count a refusal, by whomever, and return what the client is told: the same whatever is wrong."""
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
