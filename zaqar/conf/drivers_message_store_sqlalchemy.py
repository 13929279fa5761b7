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
        "released in another process. The server then commits one post after the other, of all databases, and each "
        "process keeps one more connection while clients wait. Without it such clients wait up to a second longer.",
    ),
]
