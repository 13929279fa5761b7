# SPDX-License-Identifier: Apache-2.0
"""``[drivers:message_store:mongodb]``"""

from oslo_config import cfg

from zaqar.conf.mongodb import connection_opts

GROUP = "drivers:message_store:mongodb"

OPTS = [
    *connection_opts(),
    cfg.IntOpt("partitions", default=2, min=1, help="Number of databases that messages are spread over."),
]
