# SPDX-License-Identifier: Apache-2.0
"""Options of the stores: ``[drivers:message_store:*]`` and ``[drivers:management_store:*]``, a group for each driver.

The message store and the management store of one kind of server share most options.
"""

from collections.abc import Mapping, Sequence

from oslo_config import cfg


def _synchronous() -> cfg.Opt:
    return cfg.StrOpt(
        "synchronous",
        default="FULL",
        choices=["NORMAL", "FULL", "EXTRA"],
        help="Failures that an acknowledged write on SQLite survives. NORMAL: a crash of the process. FULL, EXTRA: "
        "also a power cut.",
    )


def _sql_connections() -> cfg.Opt:
    return cfg.IntOpt(
        "connections",
        default=20,
        min=1,
        help="Maximum number of connections of each process to PostgreSQL. If no connection is free within 1.4 "
        "seconds, the request is answered with 503. A connection that was not needed for a minute is closed.",
    )


def _transaction_pooling() -> cfg.Opt:
    return cfg.BoolOpt(
        "transaction_pooling",
        default=False,
        help="Set it if the URI leads to a pooler that may give each transaction another session of PostgreSQL, such "
        "as PgBouncer with pool_mode = transaction. Statements are not prepared then, and the role needs some "
        "settings, which a warning at start names. It excludes listen.",
    )


def _redis_options() -> list[cfg.Opt]:
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
            help="Maximum number of connections of each process to each server. If no connection is free within 1.5 "
            "seconds, the request is answered with 503. A connection that was not needed for a minute is closed.",
        ),
        cfg.IntOpt(
            "max_reconnect_attempts",
            default=10,
            min=0,
            help="Maximum number of attempts to connect in one request. In any case a request is answered within 5 "
            "seconds.",
        ),
        cfg.FloatOpt(
            "reconnect_sleep",
            default=1.0,
            min=0,
            help="Pause between attempts to connect, in seconds. No attempt is made that would end after 5 seconds.",
        ),
        cfg.IntOpt(
            "wait_replicas",
            default=0,
            min=0,
            help="Number of replicas that must have a change before it is acknowledged (WAIT). If fewer have it in "
            "time, the answer is 503, although the change may have been made.",
        ),
        cfg.FloatOpt(
            "wait_timeout",
            default=1.0,
            min=0.001,
            max=4,
            help="Seconds that a change waits for wait_replicas.",
        ),
    ]


def _mongodb_options() -> list[cfg.Opt]:
    return [
        cfg.StrOpt("ssl_keyfile", help="File of the private key of the client certificate."),
        cfg.StrOpt("ssl_certfile", help="File of the client certificate."),
        cfg.StrOpt(
            "ssl_cert_reqs",
            default="CERT_REQUIRED",
            choices=["CERT_NONE", "CERT_OPTIONAL", "CERT_REQUIRED"],
            help="Whether the server has to show a certificate, and whether it is checked.",
        ),
        cfg.StrOpt("ssl_ca_certs", help="File of the CA certificates that verify the certificate of the server."),
        cfg.StrOpt("uri", secret=True, help="Connection URI of the replica set, mongodb://..."),
        cfg.StrOpt("database", default="zaqar", help="Name of the database."),
        cfg.IntOpt(
            "connections",
            default=50,
            min=1,
            help="Maximum number of connections of each process to each member, unless the URI sets maxPoolSize. A "
            "connection that was not needed for a minute is closed, unless the URI sets maxIdleTimeMS.",
        ),
        cfg.IntOpt(
            "max_attempts", default=1000, min=0, help="Maximum number of attempts of a step that conflicts with others."
        ),
        cfg.FloatOpt("max_retry_sleep", default=0.1, min=0, help="Longest pause between these attempts, in seconds."),
        cfg.FloatOpt("max_retry_jitter", default=0.005, min=0, help="Longest random part of such a pause, in seconds."),
        cfg.IntOpt(
            "max_reconnect_attempts",
            default=10,
            min=0,
            help="Maximum number of attempts to reconnect after the connection was lost.",
        ),
        cfg.FloatOpt("reconnect_sleep", default=0.02, min=0, help="Pause between attempts to reconnect, in seconds."),
    ]


_MESSAGES_ON_SQL = [
    cfg.StrOpt(
        "uri",
        default="",
        secret=True,
        help="URI of the database: sqlite:///path or postgresql://user:password@host/database. "
        "Empty: the embedded file zaqar.db in state_dir.",
    ),
    _synchronous(),
    _sql_connections(),
    _transaction_pooling(),
    cfg.BoolOpt(
        "listen",
        default=False,
        help="Wake clients that wait for messages by LISTEN and NOTIFY of PostgreSQL if a message is posted or "
        "released in another process; without it they may notice that up to a second later. Each post and release then "
        "takes one more round trip to the server, and each process one more connection. Not for SQLite.",
    ),
]

_MANAGEMENT_ON_SQL = [
    cfg.StrOpt(
        "uri",
        default="sqlite:///:memory:",
        secret=True,
        help="URI of the database: sqlite:///path or postgresql://user:password@host/database. "
        "Unset: the file zaqar.db in state_dir. The database is in memory, and then of one process only, only if a "
        "configuration file sets sqlite:///:memory: explicitly.",
    ),
    _synchronous(),
    _sql_connections(),
    _transaction_pooling(),
]

_MESSAGES_ON_MONGODB = [
    *_mongodb_options(),
    cfg.IntOpt(
        "partitions",
        default=2,
        min=1,
        help="Accepted, but without effect: MongoDB does not lock a whole database any more, so one is enough. Use "
        "pools to spread queues over several replica sets.",
    ),
    cfg.BoolOpt(
        "change_stream",
        default=False,
        help="Wake clients that wait for messages by a change stream, within milliseconds, if a process on another "
        "host stores a message. Without it they notice the message up to a second later. Each process with waiting "
        "clients opens one, for which the primary reads all writes to the collection of messages.",
    ),
]

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {
    "drivers:message_store:sqlalchemy": _MESSAGES_ON_SQL,
    "drivers:message_store:redis": _redis_options(),
    "drivers:message_store:mongodb": _MESSAGES_ON_MONGODB,
    "drivers:management_store:sqlalchemy": _MANAGEMENT_ON_SQL,
    "drivers:management_store:redis": _redis_options(),
    "drivers:management_store:mongodb": _mongodb_options(),
}
