# SPDX-License-Identifier: Apache-2.0
"""``[drivers:transport:websocket]``"""

from oslo_config import cfg

GROUP = "drivers:transport:websocket"

OPTS = [
    cfg.HostAddressOpt("bind", default="127.0.0.1", help="Name or address that the WebSocket server listens on."),
    cfg.PortOpt("port", default=9000, help="Port that the WebSocket server listens on."),
    cfg.PortOpt(
        "external-port",
        help="Port of the proxy that clients connect to, if there is one. /v2/asyncapi.json tells it, and with 443 "
        "that clients have to use wss://. Nothing listens on it.",
    ),
    cfg.HostAddressOpt(
        "notification-bind",
        help="Name or address at which notifiers on other hosts reach this process, to have it push notifications to "
        "its connections. It listens there, and tells it to notifiers. By default it is the name of the host, or "
        "127.0.0.1 if the management store is the SQLite file in the state directory, which other hosts do not have.",
    ),
    cfg.PortOpt(
        "notification-port",
        default=0,
        help="Port at notification_bind. 0: a free one, which is another one after each start.",
    ),
    cfg.IntOpt(
        "max_connections",
        default=10_000,
        min=1,
        help="Most connections of one process. One more is refused with HTTP 503. It is lowered if the process may not "
        "have so many open files (ulimit -n).",
    ),
    cfg.IntOpt(
        "max_connections_per_project",
        default=2_000,
        min=1,
        help="Most connections of one project to one process. One more is closed with code 4429.",
    ),
    cfg.IntOpt(
        "requests_per_second",
        default=500,
        min=0,
        help="Most requests that one connection may make in a second. What it sends beyond that is read later, nothing "
        "is refused. 0: no limit.",
    ),
    cfg.IntOpt(
        "threads",
        default=64,
        min=8,
        max=1024,
        help="Requests that one process carries out at a time. One project has at most a quarter of them, one queue at "
        "most an eighth, and stores that do not answer a few. A request that finds no room in 2 seconds gets 503.",
    ),
    cfg.FloatOpt(
        "ping_interval",
        default=20.0,
        min=1.0,
        help="Seconds without a byte from a client after which it is sent a ping.",
    ),
    cfg.FloatOpt(
        "ping_timeout",
        default=20.0,
        min=1.0,
        help="Seconds that a client has to answer a ping. Then the connection is closed with code 1011.",
    ),
    cfg.FloatOpt(
        "idle_timeout",
        default=0.0,
        min=0.0,
        help="Seconds without a request after which a connection that has no subscription is closed with code 4408. "
        "0: never.",
    ),
    cfg.FloatOpt(
        "authentication_timeout",
        default=10.0,
        min=1.0,
        help="Seconds that a client has to authenticate, or to send a signed request, if auth_strategy is set. Then "
        "the connection is closed with code 4401.",
    ),
    cfg.FloatOpt(
        "write_timeout",
        default=10.0,
        min=1.0,
        help="Seconds in which a client has to read 64 KiB of what it is sent, or all of it if that is less. Otherwise "
        "the connection is closed with code 1013.",
    ),
    cfg.IntOpt(
        "max_pending_push_size",
        default=1024 * 1024,
        min=1024,
        help="Most bytes of notifications that wait for one connection. More are sent again later.",
    ),
    cfg.BoolOpt(
        "compression",
        default=False,
        help="Whether clients may compress frames (permessage-deflate). It costs about 40 KiB of memory for each "
        "connection, and CPU.",
    ),
]
