# SPDX-License-Identifier: Apache-2.0
"""Options of traces by osprofiler: ``[profiler]``, ``[profiler_jaeger]`` and ``[profiler_otlp]``.

osprofiler defines most of these options. The ``trace_...`` options are our own.
"""

from collections.abc import Mapping, Sequence

from oslo_config import cfg

_DRIVER = "An option of the osprofiler driver that 'connection_string' names."

_PROFILER = [
    cfg.BoolOpt(
        "enabled",
        default=False,
        deprecated_name="profiler_enabled",
        help="Whether requests with a signed trace header are traced. This needs the package osprofiler "
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
        help="Keys, separated by commas. A trace header has an effect only if it is signed with one of them. Change "
        "the default, which everybody knows.",
    ),
    cfg.StrOpt(
        "connection_string",
        default="messaging://",
        secret=True,
        help="URL to which traces are sent, such as 'redis://127.0.0.1:6379'. Its scheme names an osprofiler driver.",
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

_OTLP = [cfg.StrOpt("service_name_prefix", help="Prefix of the service's name in traces of the driver 'otlp'.")]

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {
    "profiler": _PROFILER,
    "profiler_jaeger": _JAEGER,
    "profiler_otlp": _OTLP,
}
