# SPDX-License-Identifier: Apache-2.0
"""Who a caller is, once a token has been found valid. Transports turn it into a :class:`~zaqar.context.Context`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Identity:
    """The user, and what the user's token is for. It does not hold the token.

    ``project`` is None for a token without a project: an unscoped one, one of a domain, or one of the whole
    deployment, for which ``system_scope`` is ``all``. ``roles`` are lower-case. ``expires`` is the end of the token in
    seconds since the epoch.
    """

    project: str | None
    user_id: str | None
    roles: frozenset[str]
    system_scope: str | None
    expires: float


class Answer(NamedTuple):
    """What was found out about a token: ``identity`` is None if it was refused.

    For ``seconds`` the same is true of the token whatever it is used for; 0 means that it is true of one request only.
    """

    identity: Identity | None
    seconds: float
