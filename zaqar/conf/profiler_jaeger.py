# SPDX-License-Identifier: Apache-2.0
"""``[profiler_jaeger]``"""

from oslo_config import cfg

GROUP = "profiler_jaeger"

OPTS = [
    cfg.StrOpt("service_name_prefix", help="For the driver 'jaeger' of osprofiler, which no longer works there."),
    cfg.DictOpt("process_tags", default={}, help="For the driver 'jaeger' of osprofiler, which no longer works there."),
]
