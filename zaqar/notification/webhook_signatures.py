# SPDX-License-Identifier: Apache-2.0
"""Signatures of webhooks by the Standard Webhooks scheme, version 1 of the symmetric kind.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import secrets as random
from collections.abc import Iterable

PREFIX = "whsec_"

_BYTES = 32


def new_secret() -> str:
    """A secret of 256 random bits in the form that receivers configure: ``whsec_`` and base64."""
    return PREFIX + base64.b64encode(random.token_bytes(_BYTES)).decode()


def sign(secrets: Iterable[tuple[str, float | None]], webhook_id: str, timestamp: int, body: bytes, now: float) -> str:
    """The value of the header ``webhook-signature``: a signature by each secret that is valid now.

    A secret is its text and the end of its validity, None for the one in force. Several signatures stand side by side
    while a replaced secret is still valid, so that a receiver may change over at any time in between.
    """
    signed = b".".join((webhook_id.encode(), str(timestamp).encode(), body))
    return " ".join(_sign(secret, signed) for secret, expires in secrets if expires is None or expires > now)


def _sign(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
