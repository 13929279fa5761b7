# SPDX-License-Identifier: Apache-2.0
"""The caller of a request: one immutable object per request, made by a transport and read by every layer below it."""

import os
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Context:
    """The caller of one request.

    ``project`` is the tenant that scopes every name. ``client_id`` is the normalised Client-ID that ``echo`` compares.
    ``roles`` are lower-case. ``signed`` is true if a pre-signed URL admitted the request; then there is no user and
    there are no roles.
    ``system_scope`` is ``all`` for a token that Keystone made for the whole deployment. ``token`` is the caller's
    Keystone token, for calls to Keystone in the caller's name while the request runs. It must not be stored or logged.
    ``trace`` is the trace context that came with the request, as :mod:`zaqar.tracing.context` writes it.
    """

    project: str
    client_id: str
    roles: frozenset[str] = frozenset()
    user_id: str | None = None
    request_id: str = ""
    signed: bool = False
    system_scope: str | None = None
    token: str | None = field(default=None, repr=False, compare=False)
    trace: str | None = None


def new_request_id() -> str:
    """Make an id for one request in the form of OpenStack services: ``req-`` and a random UUID."""
    # PERF: uuid.UUID() would take longer than all other steps of making the id.
    digits = os.urandom(16).hex()
    return f"req-{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


current: ContextVar[Context | None] = ContextVar("zaqar_caller", default=None)
"""The caller of the request that this thread, greenlet or task serves.

A transport sets it only if a stage has a hook that gets the caller. Most operations do not depend on the caller, so
they have no parameter for it.
"""


def caller_in(project: str) -> Context:
    """Return the caller of the current request if it belongs to the project, else a caller without a Client-ID."""
    caller = current.get()
    return caller if caller is not None and caller.project == project else Context(project, "")
