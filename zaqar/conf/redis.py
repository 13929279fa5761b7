# SPDX-License-Identifier: Apache-2.0
"""What both stores on Redis are told."""

from oslo_config import cfg


def connection_opts() -> list[cfg.Opt]:
    return [
        cfg.StrOpt(
            "uri",
            default="redis://127.0.0.1:6379",
            secret=True,
            help="redis://[user:password@]host[:port][,host2...][/path.sock]?master=&socket_timeout=&dbid=; several "
            "hosts with a master are Sentinels.",
        ),
        cfg.IntOpt("max_reconnect_attempts", default=10, min=0, help="Most attempts when the connection is lost."),
        cfg.FloatOpt("reconnect_sleep", default=1.0, min=0, help="Pause between attempts to reconnect, in seconds."),
    ]
