# SPDX-License-Identifier: Apache-2.0
"""What is known of a trust after Keystone was asked: shared by those who make trusts and those who use them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from zaqar.errors import ZaqarError


class TrustGone(ZaqarError):
    """Keystone has no such trust: it was deleted, or it ended. No new token of it will ever be given."""


class TrustRefused(ZaqarError):
    """Keystone has the trust and gives no token of it now; the text says why. That may change."""


class MadeTrust(NamedTuple):
    """A trust that was made: its id, the user who trusts, and when it ends, in seconds since the epoch."""

    id: str
    user_id: str
    expires: float


@dataclass(frozen=True, slots=True)
class TrustToken:
    """A token of a trust.

    ``user_id`` is the user whom the token stands for, and ``trustor`` the one who made the trust: the same user if the
    trust impersonates. ``roles`` are lower-case. ``expires`` is in seconds since the epoch.
    """

    value: str = field(repr=False)
    expires: float
    project: str
    user_id: str
    trustor: str
    roles: frozenset[str]
