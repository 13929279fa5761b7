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
    cfg.BoolOpt(
        "listen",
        default=False,
        help="Wake clients that wait for messages by LISTEN and NOTIFY of PostgreSQL if a message is posted or "
        "released in another process; without it they may notice that up to a second later. Each post and release then "
        "takes one more round trip to the server, and each process one more connection. Not for SQLite.",
    ),
]
