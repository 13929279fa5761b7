# SPDX-License-Identifier: Apache-2.0
"""Who asks: one immutable object per request, made by a transport, read by every layer below it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Context:
    """The caller of one request.

    ``project`` is the tenant that scopes every name. ``client_id`` is the normalised Client-ID that ``echo`` compares.
    ``roles`` are lower-case.
    """

    project: str
    client_id: str
    roles: frozenset[str] = frozenset()
    user_id: str | None = None
    request_id: str = ""
