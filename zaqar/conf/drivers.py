# SPDX-License-Identifier: Apache-2.0
"""``[drivers]``"""

from oslo_config import cfg

GROUP = "drivers"

OPTS = [
    cfg.StrOpt(
        "transport",
        default="wsgi",
        choices=["wsgi", "websocket"],
        help="The one transport that zaqar-server serves: HTTP (wsgi) or WebSocket. If it is not set, it serves both.",
    ),
    cfg.StrOpt(
        "message_store",
        default="sqlalchemy",
        help="Name of the driver that keeps messages and claims, an entry point of 'zaqar.data.storage'.",
    ),
    cfg.StrOpt(
        "management_store",
        default="sqlalchemy",
        help="Name of the driver that keeps queues, an entry point of 'zaqar.control.storage'.",
    ),
]
