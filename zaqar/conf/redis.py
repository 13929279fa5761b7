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
            "hosts with a master are Sentinels, with cluster=true nodes of a Redis Cluster; rediss:// is TLS.",
        ),
        cfg.IntOpt(
            "connections",
            default=50,
            min=1,
            help="Connections that each process of the service keeps at most, to each server. A request for which none "
            "is free within 1.5 seconds is answered with 503. One that was not needed for a minute is closed.",
        ),
        cfg.IntOpt(
            "max_reconnect_attempts",
            default=10,
            min=0,
            help="Most attempts to connect in one request. However many, a request is answered within 5 seconds.",
        ),
        cfg.FloatOpt(
            "reconnect_sleep",
            default=1.0,
            min=0,
            help="Pause between attempts to connect, in seconds; none is made that would end after 5 seconds.",
        ),
        cfg.IntOpt(
            "wait_replicas",
            default=0,
            min=0,
            help="Replicas that must have a change before it is acknowledged (WAIT); with fewer the answer is 503, "
            "though the change may be there.",
        ),
        cfg.FloatOpt(
            "wait_timeout",
            default=1.0,
            min=0.001,
            max=4,
            help="Seconds that a change waits for wait_replicas.",
        ),
    ]
