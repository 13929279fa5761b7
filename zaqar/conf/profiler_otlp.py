# SPDX-License-Identifier: Apache-2.0
"""``[profiler_otlp]``"""

from oslo_config import cfg

GROUP = "profiler_otlp"

OPTS = [cfg.StrOpt("service_name_prefix", help="Before the name of the service in traces of the driver 'otlp'.")]
