# SPDX-License-Identifier: Apache-2.0
"""The identity of a caller with a valid token. Transports make a :class:`~zaqar.context.Context` of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Identity:
    """The user and the scope of a valid token, without the token itself.

    ``project`` is None for a token without a project: an unscoped token, a token for a domain, or a token for the whole
    deployment, for which ``system_scope`` is ``all``. ``roles`` are lower-case. ``expires`` is the end of the token in
    seconds since the epoch.
    """

    project: str | None
    user_id: str | None
    roles: frozenset[str]
    system_scope: str | None
    expires: float


class Answer(NamedTuple):
    """The result of validating a token. ``identity`` is None if the token was refused.

    The result is valid for ``seconds`` for all requests with the token. 0: it is valid for one request only.
    """

    identity: Identity | None
    seconds: float
