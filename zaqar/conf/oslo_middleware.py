# SPDX-License-Identifier: Apache-2.0
"""``[oslo_middleware]``, under the name that oslo.middleware gave this option."""

from oslo_config import cfg

GROUP = "oslo_middleware"

OPTS = [
    cfg.BoolOpt(
        "enable_proxy_headers_parsing",
        default=False,
        help="Whether every request comes through a reverse proxy that sets or removes X-Forwarded-Prefix, "
        "X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-For and Forwarded. Links then carry the prefix. Off: these "
        "headers have no effect.",
    ),
]
