# SPDX-License-Identifier: Apache-2.0
"""``[profiler]``: what is traced, beside the options of osprofiler itself."""

from oslo_config import cfg

GROUP = "profiler"

OPTS = [
    cfg.BoolOpt("trace_wsgi_transport", default=False, help="Whether requests are traced."),
    cfg.BoolOpt("trace_message_store", default=False, help="Whether operations of the message store are traced."),
    cfg.BoolOpt("trace_management_store", default=False, help="Whether operations of the management store are traced."),
]
