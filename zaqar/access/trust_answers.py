# SPDX-License-Identifier: Apache-2.0
"""The answers of Keystone about trusts: shared by the API, which makes trusts, and the notifier, which uses them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from zaqar.errors import ZaqarError


class TrustGone(ZaqarError):
    """Keystone has no such trust: it was deleted or has expired. There will never be a new token of it."""


class TrustRefused(ZaqarError):
    """Keystone has the trust but gives no token of it now. The text says why. A retry may succeed."""


class MadeTrust(NamedTuple):
    """A new trust: its id, the user who made it (the trustor), and its end in seconds since the epoch."""

    id: str
    user_id: str
    expires: float


@dataclass(frozen=True, slots=True)
class TrustToken:
    """A token of a trust.

    ``user_id`` is the user of the token, and ``trustor`` the user who made the trust: the same user if the trust
    impersonates. ``roles`` are lower-case. ``expires`` is in seconds since the epoch.
    """

    value: str = field(repr=False)
    expires: float
    project: str
    user_id: str
    trustor: str
    roles: frozenset[str]
