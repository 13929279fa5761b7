# SPDX-License-Identifier: Apache-2.0
"""Counts, times and logs the requests of HTTP. Installed only if metrics or the access log are on."""

from __future__ import annotations

import platform
from bisect import bisect_left
from importlib.metadata import version
from time import perf_counter

import falcon

from zaqar.access.http_server import HttpServer, find_http_server
from zaqar.logs.access import AccessLog
from zaqar.metrics.families import BUILD_INFO, HTTP_DURATION, HTTP_REQUESTS, IN_PROGRESS, OTHER, REQUEST_BUCKETS
from zaqar.metrics.recorder import Recorder
from zaqar.transport.probes import PATHS

PROBE = "probe"
"""The label of all probes. They are not logged."""

_LOADED_BY_WORKERS = frozenset({HttpServer.GEVENT, HttpServer.GRANIAN})
"""Servers that load the application in each worker. gunicorn with ``preload_app`` counts as another server then."""

_METHODS = frozenset(falcon.HTTP_METHODS)


class RequestObserver:
    """The first middleware, so that its time has all others in it.

    ``req.context.waited`` are the seconds that a request has waited for messages. They do not count as its duration.
    """

    def __init__(self, recorder: Recorder | None, access_log: AccessLog | None) -> None:
        self._recorder = recorder
        self._access_log = access_log
        self._begun = self._ended = 0
        self._series: dict[tuple[str, str | None, int | str], tuple[int, int]] = {}
        """The cells of HTTP_REQUESTS and HTTP_DURATION by method, template of the path, and status."""
        self._cells: object = None
        """The cells of the recorder in which these series are."""
        if recorder is not None:
            recorder.add_source(self._sample)
            _report_version(recorder)

    def _sample(self, recorder: Recorder) -> None:
        recorder.set(IN_PROGRESS, (), self._begun - self._ended)

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        req.context.began, req.context.waited = perf_counter(), 0.0
        # Nothing comes between the read and the write; see Recorder.add().
        self._begun += 1

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        context, recorder, access_log = req.context, self._recorder, self._access_log
        # A stream begins now; its time is not a duration of the request.
        seconds = perf_counter() - context.began - context.waited
        self._ended += 1
        if recorder is not None:
            # PERF: the same as recorder.add() and recorder.observe(), without calls and labels for each request.
            if self._cells is not recorder.cells:
                self._series.clear()
            key = (req.method, req.uri_template, resp.status)
            counter, first = self._series.get(key) or self._begin(recorder, key, resp.status_code)
            if first:
                recorder.cells[counter] += 1.0
                recorder.cells[first + bisect_left(REQUEST_BUCKETS, seconds)] += 1.0
                recorder.cells[first + _SUM] += seconds
        if access_log is not None and (seconds >= access_log.slow or resp.status_code >= 500):
            _log(access_log, req, resp, seconds)

    def _begin(self, recorder: Recorder, key: tuple[str, str | None, int | str], status: int) -> tuple[int, int]:
        method, route = _labels_of(key[0], key[1])
        counter = recorder.series(HTTP_REQUESTS, (method, route, str(status)))
        found = counter, recorder.series(HTTP_DURATION, (method, route))
        if method == key[0]:
            # A client may send any method, so others are not remembered.
            self._cells, self._series[key] = recorder.cells, found
        return found


_SUM = len(REQUEST_BUCKETS) + 1


def _labels_of(method: str, template: str | None) -> tuple[str, str]:
    route = PROBE if template in PATHS else template or OTHER
    return method if method in _METHODS else OTHER, route


def _report_version(recorder: Recorder) -> None:
    server = find_http_server()
    labels = (version("zaqar"), platform.python_version(), server.name.lower())
    recorder.add_source(lambda counting: counting.set(BUILD_INFO, labels, 1.0))
    if server in _LOADED_BY_WORKERS:
        # An idle worker is shown, too. A process that forks its workers later has nothing to count.
        recorder.sample()


def _log(access_log: AccessLog, req: falcon.Request, resp: falcon.Response, seconds: float) -> None:
    method, route = _labels_of(req.method, req.uri_template)
    if route == PROBE:
        return
    caller, queue = getattr(req.context, "caller", None), getattr(req.context, "queue_name", None)
    access_log.note(
        method,
        route,
        resp.status_code,
        seconds,
        request_id=getattr(req.context, "request_id", ""),
        project=None if caller is None else caller.project,
        queue=None if queue is None else queue.name,
    )
