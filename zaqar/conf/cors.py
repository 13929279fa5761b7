# SPDX-License-Identifier: Apache-2.0
"""``[cors]``, under the names that oslo.middleware gave these options."""

from oslo_config import cfg

GROUP = "cors"

OPTS = [
    cfg.ListOpt("allowed_origin", help="Origins, such as https://ui.example, whose pages may use the API; * for all."),
    cfg.BoolOpt("allow_credentials", default=True, help="Whether such pages may send cookies and authentication."),
    cfg.ListOpt(
        "expose_headers", default=["X-OpenStack-Request-ID"], help="Headers of answers that such pages may read."
    ),
    cfg.IntOpt("max_age", default=3600, min=0, help="Seconds for which a browser may keep the answer to a preflight."),
    cfg.ListOpt(
        "allow_methods",
        default=["OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "PATCH"],
        help="Methods that such pages may use, as far as the path serves them.",
    ),
    cfg.ListOpt("allow_headers", default=[], help="Headers that such pages may send. Empty: those they ask for."),
]
