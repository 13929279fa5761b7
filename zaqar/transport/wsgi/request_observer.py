# SPDX-License-Identifier: Apache-2.0
"""Counts, times and logs the requests of HTTP. Installed only if metrics or the access log are on."""

from __future__ import annotations

from time import perf_counter

import falcon

from zaqar.logs.access import AccessLog
from zaqar.metrics.families import HTTP_DURATION, HTTP_REQUESTS, IN_PROGRESS, OTHER
from zaqar.metrics.recorder import Recorder
from zaqar.transport.probes import PATHS

PROBE = "probe"
"""The label of all probes. They are not logged."""

_METHODS = frozenset(falcon.HTTP_METHODS)


class RequestObserver:
    """The first middleware, so that its time has all others in it.

    ``req.context.waited`` are the seconds that a request has waited for messages. They do not count as its duration.
    """

    def __init__(self, recorder: Recorder | None, access_log: AccessLog | None) -> None:
        self._recorder = recorder
        self._access_log = access_log

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        req.context.began, req.context.waited = perf_counter(), 0.0
        if self._recorder is not None:
            self._recorder.add(IN_PROGRESS)

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        context = req.context
        # A stream begins now; its time is not a duration of the request.
        seconds = perf_counter() - context.began - context.waited
        route, method, recorder = req.uri_template or OTHER, req.method, self._recorder
        if route in PATHS:
            route = PROBE
        if method not in _METHODS:
            method = OTHER
        if recorder is not None:
            recorder.add(IN_PROGRESS, (), -1.0)
            recorder.add(HTTP_REQUESTS, (method, route, str(resp.status_code)))
            recorder.observe(HTTP_DURATION, (method, route), seconds)
        if self._access_log is not None and route != PROBE:
            _log(self._access_log, req, resp, method, route, seconds)


def _log(
    access_log: AccessLog, req: falcon.Request, resp: falcon.Response, method: str, route: str, seconds: float
) -> None:
    caller, queue = getattr(req.context, "caller", None), getattr(req.context, "address", None)
    access_log.note(
        method,
        route,
        resp.status_code,
        seconds,
        request_id=getattr(req.context, "request_id", ""),
        project=None if caller is None else caller.project,
        queue=None if queue is None else queue.name,
    )
