# SPDX-License-Identifier: Apache-2.0
"""``[DEFAULT]``"""

from oslo_config import cfg

GROUP = "DEFAULT"

OPTS = [
    cfg.StrOpt(
        "state_dir",
        sample_default="$XDG_STATE_HOME/zaqar",
        help="Folder of everything the service writes by itself: the embedded database and the lock of the running "
        "server. Unset: $XDG_STATE_HOME/zaqar, or ~/.local/state/zaqar without that variable.",
    ),
    cfg.StrOpt(
        "auth_strategy",
        default="",
        help="How callers are authenticated: 'keystone', or empty to believe the X-Project-ID header.",
    ),
    cfg.BoolOpt("admin_mode", default=False, help="Whether this server also serves health, pools and flavors."),
    cfg.BoolOpt("pooling", default=False, help="Whether queues are spread over pools of message stores."),
    cfg.BoolOpt(
        "unreliable",
        default=False,
        help="Accepted, and without effect: what a store may lose as it is set up is said at start and by /v2/health.",
    ),
    cfg.BoolOpt("enable_checksum", default=False, help="Whether messages are kept and shown with a checksum."),
]
