# SPDX-License-Identifier: Apache-2.0
"""What both stores on SQL databases are told."""

from oslo_config import cfg


def synchronous_opt() -> cfg.Opt:
    return cfg.StrOpt(
        "synchronous",
        default="FULL",
        choices=["NORMAL", "FULL", "EXTRA"],
        help="What an acknowledged write on SQLite survives: NORMAL a process crash, FULL and EXTRA a power cut.",
    )


def connections_opt() -> cfg.Opt:
    return cfg.IntOpt(
        "connections",
        default=20,
        min=1,
        help="Connections to PostgreSQL that each process of the service keeps at most. A request for which none is "
        "free within 1.4 seconds is answered with 503. One that was not needed for a minute is closed.",
    )
