# SPDX-License-Identifier: Apache-2.0
"""``[drivers:transport:websocket]``"""

from oslo_config import cfg

GROUP = "drivers:transport:websocket"

OPTS = [
    cfg.HostAddressOpt("bind", default="127.0.0.1", help="Name or address that the WebSocket server listens on."),
    cfg.PortOpt("port", default=9000, help="Port that the WebSocket server listens on."),
    cfg.PortOpt(
        "external-port",
        help="Port of the proxy that clients connect to, if there is one. /v2/asyncapi.json names it, with wss:// if it"
        " is 443. The option has no other effect.",
    ),
    cfg.HostAddressOpt(
        "notification-bind",
        help="Name or address on which the WebSocket server takes notifications from notifiers on other hosts. "
        "Notifiers must be able to reach it. By default it is the name of the host, or 127.0.0.1 if the management"
        " store is the SQLite file in the state directory, which other hosts do not have. The link is "
        "authenticated, not encrypted.",
    ),
    cfg.PortOpt(
        "notification-port",
        default=0,
        help="Port for notification_bind. 0 takes a free port, which changes with each start.",
    ),
    cfg.IntOpt(
        "max_connections",
        default=10_000,
        min=1,
        help="Maximum number of connections of one process. Further ones are refused with HTTP 503. The process accepts"
        " fewer if it may not have so many open files (ulimit -n).",
    ),
    cfg.IntOpt(
        "max_connections_per_project",
        default=2_000,
        min=1,
        help="Maximum number of connections of one project to one process. Further ones are closed with code 4429.",
    ),
    cfg.IntOpt(
        "requests_per_second",
        default=500,
        min=0,
        help="Maximum number of requests of one connection in a second. Further requests are read later; none is "
        "refused. 0: no limit.",
    ),
    cfg.IntOpt(
        "threads",
        default=64,
        min=8,
        max=1024,
        help="Number of requests that one process carries out at a time. One project may have a quarter of them, one "
        "queue an eighth, and a store that does not answer a sixteenth. A request that waits for more than 2 "
        "seconds gets 503.",
    ),
    cfg.FloatOpt(
        "ping_interval",
        default=20.0,
        min=1.0,
        help="Seconds without a byte from a client after which the server sends it a ping.",
    ),
    cfg.FloatOpt(
        "ping_timeout",
        default=20.0,
        min=1.0,
        help="Seconds that a client has to answer a ping. After that the connection is closed with code 1011.",
    ),
    cfg.FloatOpt(
        "idle_timeout",
        default=0.0,
        min=0.0,
        help="Seconds without a request after which a connection that has no subscription is closed with code 4408. 0: "
        "never.",
    ),
    cfg.FloatOpt(
        "authentication_timeout",
        default=10.0,
        min=1.0,
        help="Seconds that a client has to authenticate, or to send a signed request, if auth_strategy is set. After "
        "that the connection is closed with code 4401.",
    ),
    cfg.FloatOpt(
        "write_timeout",
        default=10.0,
        min=1.0,
        help="Seconds in which a client must read 64 KiB of the data sent to it, or all of it if it is less. Otherwise "
        "the connection is closed with code 1013.",
    ),
    cfg.IntOpt(
        "max_pending_push_size",
        default=1024 * 1024,
        min=1024,
        help="Maximum number of bytes of notifications that wait in memory for one connection. Further ones wait in the"
        " store.",
    ),
    cfg.IntOpt(
        "max_buffered_size",
        default=384 * 1024 * 1024,
        min=24 * 1024 * 1024,
        help="Maximum number of bytes that all connections together hold. A third each is for large frames that have "
        "arrived in part, for large requests that are carried out, and for replies that clients have not read. One "
        "project may hold a quarter of each third. Further frames and requests wait; none is refused.",
    ),
    cfg.BoolOpt(
        "compression",
        default=False,
        help="Whether clients may compress frames (permessage-deflate). It takes about 40 KiB of memory for each "
        "connection, and CPU.",
    ),
]
