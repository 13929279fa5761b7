# SPDX-License-Identifier: Apache-2.0
"""Options of what operators watch: ``[metrics]``, ``[tracing]`` and ``[logging]``.

The options of oslo.log, such as ``debug`` and ``log_file``, are in ``[DEFAULT]``.
"""

from collections.abc import Mapping, Sequence

from oslo_config import cfg

_METRICS = [
    cfg.StrOpt(
        "bind",
        default="127.0.0.1:9464",
        help="Address and port at which one process of the host shows the metrics of all of them to Prometheus, "
        "without authentication. If another service has the port, a warning says so, and the service runs without it. "
        "Empty: nothing is counted.",
    ),
    cfg.BoolOpt(
        "queues",
        default=False,
        help="Whether /metrics/queues shows numbers of single queues, with the names of projects and queues.",
    ),
]

_TRACING = [
    cfg.BoolOpt(
        "enabled",
        default=False,
        help="Whether spans of OpenTelemetry are exported. It needs pip install 'zaqar[otel]'. The variables OTEL_*, "
        "such as OTEL_EXPORTER_OTLP_ENDPOINT, say where to. Without it, trace contexts are still kept with messages "
        "and passed on to subscribers.",
    ),
    cfg.FloatOpt(
        "root_ratio",
        default=0.0,
        min=0.0,
        max=1.0,
        help="Fraction of the requests without a trace context for which a trace begins here. Requests with a trace "
        "context are traced if it says so.",
    ),
]

_LOGGING = [
    cfg.StrOpt(
        "format",
        default="text",
        choices=["text", "json"],
        help="How log records are written to standard error: as text for people, or as one JSON object in each line.",
    ),
    cfg.StrOpt(
        "access",
        default="off",
        choices=["off", "errors", "slow", "all"],
        help="Which requests are logged: none, those with a status of 500 or more, those and slow ones, or all.",
    ),
    cfg.FloatOpt("slow", default=1.0, min=0.0, help="Seconds from which on a request counts as slow."),
]

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {"metrics": _METRICS, "tracing": _TRACING, "logging": _LOGGING}
