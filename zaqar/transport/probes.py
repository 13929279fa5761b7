# SPDX-License-Identifier: Apache-2.0
"""The probes of load balancers, Kubernetes and monitors: ``/livez``, ``/readyz`` and ``/healthcheck``.

They need no headers and no token, and answer over HTTP on the ports of both transports. ``/healthz`` is the older name
of ``/livez``. ``/healthcheck`` has the answers of the middleware of the same name in oslo.middleware.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from zaqar.service.readiness import CHECKS, Readiness

LIVE, READY, HEALTHCHECK = "/livez", "/readyz", "/healthcheck"
ALIVE_PATHS = frozenset({LIVE, "/healthz"})
PATHS = ALIVE_PATHS | {READY, HEALTHCHECK}

TEXT, JSON = "text/plain; charset=utf-8", "application/json"
NO_STORE = "no-store"
"""The Cache-Control of every probe."""

_DISABLED = "DISABLED BY FILE"


class ProbeAnswer(NamedTuple):
    status: int
    body: str
    content_type: str = TEXT


class Probes:
    """Answers the probes. Never waits, and asks no store."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def answer(self, path: str, *, query: str = "", accept: str = "", is_head: bool = False) -> ProbeAnswer:
        """Answer a GET, or a HEAD whose body is then left out, of one of PATHS."""
        if path in ALIVE_PATHS:
            # The answer says only that the process can answer. A store that is away is no reason to restart it.
            return ProbeAnswer(200, "ok\n")
        if path == HEALTHCHECK:
            return self._healthcheck(accept, is_head=is_head)
        problems = self._readiness.problems()
        if "verbose" not in query.replace("=", "&").split("&"):
            return ProbeAnswer(503 if problems else 200, "".join(f"{text}\n" for text in problems.values()) or "ok\n")
        lines = [f"[-] {name}: {problems[name]}" if name in problems else f"[+] {name}: ok" for name in CHECKS]
        return ProbeAnswer(503 if problems else 200, "\n".join([*lines, "not ready" if problems else "ready", ""]))

    def _healthcheck(self, accept: str, *, is_head: bool) -> ProbeAnswer:
        is_disabled = self._readiness.is_disabled()
        reason = _DISABLED if is_disabled else "OK"
        status = 503 if is_disabled else 204 if is_head else 200
        if "application/json" in accept:
            return ProbeAnswer(status, json.dumps({"detailed": False, "reasons": [reason]}), JSON)
        return ProbeAnswer(status, reason)
