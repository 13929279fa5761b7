# SPDX-License-Identifier: Apache-2.0
"""Who asks: one immutable object per request, made by a transport, read by every layer below it."""

import os
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Context:
    """The caller of one request.

    ``project`` is the tenant that scopes every name. ``client_id`` is the normalised Client-ID that ``echo`` compares.
    ``roles`` are lower-case. ``signed``: a signature admitted the request, so there is no user and there are no roles.
    ``system_scope`` is ``all`` for a token that Keystone made for the whole deployment. ``token`` is the caller's
    Keystone token, for calls to Keystone in the caller's name while the request runs; nobody may store or log it.
    """

    project: str
    client_id: str
    roles: frozenset[str] = frozenset()
    user_id: str | None = None
    request_id: str = ""
    signed: bool = False
    system_scope: str | None = None
    token: str | None = field(default=None, repr=False, compare=False)


def new_request_id() -> str:
    """An id for one request, as services of OpenStack have them: ``req-`` and a random UUID."""
    # PERF: not by uuid.UUID(), which takes longer than all else that is done for the id.
    digits = os.urandom(16).hex()
    return f"req-{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


current: ContextVar[Context | None] = ContextVar("zaqar_caller", default=None)
"""The caller of the request that this thread, greenlet or task serves.

A transport sets it only if a stage is there to be told: operations that do not depend on who asks do not pass it on.
"""


def caller_in(project: str) -> Context:
    """The caller of the current request if it belongs to the project, else a nameless one."""
    caller = current.get()
    return caller if caller is not None and caller.project == project else Context(project, "")
