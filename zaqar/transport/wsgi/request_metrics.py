# SPDX-License-Identifier: Apache-2.0
"""Counts and times the requests of HTTP. Installed only if metrics are on."""

from __future__ import annotations

from time import perf_counter

import falcon

from zaqar.metrics.families import HTTP_DURATION, HTTP_REQUESTS, IN_PROGRESS, OTHER
from zaqar.metrics.recorder import Recorder
from zaqar.transport.probes import PATHS

PROBE = "probe"
"""The label of all probes."""

_METHODS = frozenset(falcon.HTTP_METHODS)


class RequestMetrics:
    """The first middleware, so that its time has all others in it.

    ``req.context.waited`` are the seconds that a request has waited for messages. They do not count as its duration.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        req.context.began, req.context.waited = perf_counter(), 0.0
        self._recorder.add(IN_PROGRESS)

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        recorder, context = self._recorder, req.context
        route, method = req.uri_template or OTHER, req.method
        if route in PATHS:
            route = PROBE
        if method not in _METHODS:
            method = OTHER
        recorder.add(IN_PROGRESS, (), -1.0)
        recorder.add(HTTP_REQUESTS, (method, route, str(resp.status_code)))
        # A stream begins now; its time is not a duration of the request.
        recorder.observe(HTTP_DURATION, (method, route), perf_counter() - context.began - context.waited)
