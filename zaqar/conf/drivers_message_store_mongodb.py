# SPDX-License-Identifier: Apache-2.0
"""``[drivers:message_store:mongodb]``"""

from oslo_config import cfg

from zaqar.conf.mongodb import connection_opts

GROUP = "drivers:message_store:mongodb"

OPTS = [
    *connection_opts(),
    cfg.IntOpt(
        "partitions",
        default=2,
        min=1,
        help="Accepted, and without effect: there is no lock of a whole database to get around, so one is enough. "
        "Use pools to spread queues over several replica sets.",
    ),
    cfg.BoolOpt(
        "change_stream",
        default=False,
        help="Learn of messages that processes on other hosts store from a change stream, within milliseconds. Without "
        "it, clients that wait learn of them up to a second later. Each process that has waiting clients opens one, "
        "for which the primary reads everything that is written to the collection of messages.",
    ),
]
