# SPDX-License-Identifier: Apache-2.0
"""The access log: one record for a request, if ``[logging] access`` asks for it. Both transports use it."""

from __future__ import annotations

import logging

from oslo_config import cfg

_log = logging.getLogger("zaqar.access")


class AccessLog:
    """Logs requests of one process."""

    def __init__(self, *, logs_all: bool, slow: float) -> None:
        """``slow``: seconds from which on a request is logged although it succeeded; infinity for none."""
        self.slow = 0.0 if logs_all else slow
        """Seconds from which on a request is logged. A request with a status of 500 or more is always logged.

        PERF: the caller compares them, so that a request that is not logged takes no call.
        """

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> AccessLog | None:
        """The access log, or None if no request is logged."""
        what = conf.logging.access
        if what == "off":
            return None
        return cls(logs_all=what == "all", slow=conf.logging.slow if what == "slow" else float("inf"))

    def note(
        self,
        method: str,
        route: str,
        status: int,
        seconds: float,
        *,
        request_id: str = "",
        project: str | None = None,
        queue: str | None = None,
    ) -> None:
        """Log a request. ``route`` is a template or an action, so it holds nothing that a client chose.

        ``seconds`` are without the time in which the request waited for messages. The query, the headers and the body
        of a request are never logged.
        """
        details = {
            "method": method,
            "route": route,
            "status": status,
            "seconds": round(seconds, 6),
            "project": project,
            "queue": queue,
        }
        names = "".join(f" {name}={details[name]}" for name in ("project", "queue") if details[name])
        _log.info(
            "%s %s %d %.6f s%s",
            method,
            route,
            status,
            seconds,
            names,
            extra={"details": details, "request_id": request_id},
        )
