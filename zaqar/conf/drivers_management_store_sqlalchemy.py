# SPDX-License-Identifier: Apache-2.0
"""``[drivers:management_store:sqlalchemy]``"""

from oslo_config import cfg

from zaqar.conf.sqlalchemy import connections_opt, synchronous_opt

GROUP = "drivers:management_store:sqlalchemy"

OPTS = [
    cfg.StrOpt(
        "uri",
        default="sqlite:///:memory:",
        secret=True,
        help="URI of the database: sqlite:///path or postgresql://user:password@host/database. "
        "Left unset it is the file zaqar.db in state_dir; only where a file sets "
        "sqlite:///:memory: is the database really in memory, and then of one process alone.",
    ),
    synchronous_opt(),
    connections_opt(),
]
