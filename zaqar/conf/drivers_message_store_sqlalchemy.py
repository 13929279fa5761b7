# SPDX-License-Identifier: Apache-2.0
"""``[drivers:message_store:sqlalchemy]``"""

from oslo_config import cfg

from zaqar.conf.sqlalchemy import connections_opt, synchronous_opt

GROUP = "drivers:message_store:sqlalchemy"

OPTS = [
    cfg.StrOpt(
        "uri",
        default="",
        secret=True,
        help="URI of the database: sqlite:///path or postgresql://user:password@host/database. "
        "Empty: the embedded file zaqar.db in state_dir.",
    ),
    synchronous_opt(),
    connections_opt(),
]
