# SPDX-License-Identifier: Apache-2.0
"""Options of traces by osprofiler: ``[profiler]``, ``[profiler_jaeger]`` and ``[profiler_otlp]``.

Most options are those of osprofiler; ours say what is traced.
"""

from collections.abc import Mapping, Sequence

from oslo_config import cfg

_DRIVER = "For the driver of osprofiler that 'connection_string' names."

_PROFILER = [
    cfg.BoolOpt(
        "enabled",
        default=False,
        deprecated_name="profiler_enabled",
        help="Whether requests that carry a signed trace header are traced. It needs the package osprofiler "
        "(pip install 'zaqar[profiler]') and 'trace_wsgi_transport'.",
    ),
    cfg.BoolOpt("trace_wsgi_transport", default=False, help="Whether requests are traced."),
    cfg.BoolOpt("trace_message_store", default=False, help="Without effect: only requests are traced."),
    cfg.BoolOpt("trace_management_store", default=False, help="Without effect: only requests are traced."),
    cfg.BoolOpt("trace_sqlalchemy", default=False, help="Without effect: only requests are traced."),
    cfg.BoolOpt("trace_requests", default=False, help="Without effect: only requests are traced."),
    cfg.StrOpt(
        "hmac_keys",
        default="SECRET_KEY",
        secret=True,
        help="Keys, separated by commas; a trace header counts only if one of them signed it. Set it: the default "
        "is no secret.",
    ),
    cfg.StrOpt(
        "connection_string",
        default="messaging://",
        secret=True,
        help="Where traces go, such as 'redis://127.0.0.1:6379'; its scheme names a driver of osprofiler.",
    ),
    cfg.StrOpt("es_doc_type", default="notification", help=_DRIVER),
    cfg.StrOpt("es_scroll_time", default="2m", help=_DRIVER),
    cfg.IntOpt("es_scroll_size", default=10000, help=_DRIVER),
    cfg.FloatOpt("socket_timeout", default=0.1, help=_DRIVER),
    cfg.StrOpt("sentinel_service_name", default="mymaster", help=_DRIVER),
    cfg.BoolOpt("filter_error_trace", default=False, help=_DRIVER),
]

_JAEGER = [
    cfg.StrOpt("service_name_prefix", help="For the driver 'jaeger' of osprofiler, which no longer works there."),
    cfg.DictOpt("process_tags", default={}, help="For the driver 'jaeger' of osprofiler, which no longer works there."),
]

_OTLP = [cfg.StrOpt("service_name_prefix", help="Before the name of the service in traces of the driver 'otlp'.")]

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {
    "profiler": _PROFILER,
    "profiler_jaeger": _JAEGER,
    "profiler_otlp": _OTLP,
}
