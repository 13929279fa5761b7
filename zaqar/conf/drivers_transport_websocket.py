# SPDX-License-Identifier: Apache-2.0
"""``[drivers:transport:websocket]``"""

from oslo_config import cfg

GROUP = "drivers:transport:websocket"

OPTS = [
    cfg.HostAddressOpt("bind", default="127.0.0.1", help="Name or address that the WebSocket server listens on."),
    cfg.PortOpt("port", default=9000, help="Port that the WebSocket server listens on."),
    cfg.PortOpt("external-port", help="Port that clients reach it at, where that is another one."),
    cfg.HostAddressOpt("notification-bind", help="Name or address that takes notifications for open connections."),
    cfg.PortOpt("notification-port", default=0, help="Port that takes notifications; 0 picks a free one."),
]
