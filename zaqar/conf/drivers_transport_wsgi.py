# SPDX-License-Identifier: Apache-2.0
"""``[drivers:transport:wsgi]``"""

from oslo_config import cfg

GROUP = "drivers:transport:wsgi"

OPTS = [
    cfg.HostAddressOpt("bind", default="127.0.0.1", help="Name or address that zaqar-server listens on."),
    cfg.PortOpt("port", default=8888, help="Port that zaqar-server listens on."),
]
