# SPDX-License-Identifier: Apache-2.0
"""Options of HTTP and WebSocket: ``[transport]``, ``[drivers:transport:*]``, ``[cors]`` and ``[oslo_middleware]``.

``[transport]`` holds the limits and defaults of requests. ``[cors]`` and ``[oslo_middleware]`` have the names that
oslo.middleware gave these options.
"""

from collections.abc import Mapping, Sequence

from oslo_config import cfg

TRANSPORT = [
    cfg.IntOpt("default_message_ttl", default=3600, help="TTL of a message that names none, in seconds."),
    cfg.IntOpt("default_message_delay", default=0, help="Delay of a message that names none, in seconds."),
    cfg.IntOpt("default_claim_ttl", default=300, help="TTL of a claim that names none, in seconds."),
    cfg.IntOpt("default_claim_grace", default=60, help="Grace of a claim that names none, in seconds."),
    cfg.IntOpt("default_subscription_ttl", default=3600, help="TTL of a subscription that names none, in seconds."),
    cfg.IntOpt("max_queues_per_page", default=20, min=1, help="Maximum number of queues in one page."),
    cfg.IntOpt(
        "max_messages_per_page",
        default=20,
        min=1,
        help="Maximum number of messages in one page, and of message ids in one request.",
    ),
    cfg.IntOpt("max_subscriptions_per_page", default=20, min=1, help="Maximum number of subscriptions in one page."),
    cfg.IntOpt(
        "max_messages_per_claim_or_pop", default=20, min=1, help="Maximum number of messages in one claim or one pop."
    ),
    cfg.IntOpt(
        "max_queue_metadata", default=65536, min=1, help="Maximum number of bytes of the metadata of a queue, as JSON."
    ),
    cfg.IntOpt(
        "max_messages_post_size",
        default=262144,
        min=1,
        help="Maximum number of bytes of the body of one request that posts messages.",
    ),
    cfg.IntOpt("max_message_ttl", default=1209600, help="Longest TTL of a message, in seconds."),
    cfg.IntOpt("max_message_delay", default=900, help="Longest delay of a message, in seconds."),
    cfg.IntOpt("max_claim_ttl", default=43200, help="Longest TTL of a claim, in seconds."),
    cfg.IntOpt("max_claim_grace", default=43200, help="Longest grace of a claim, in seconds."),
    cfg.ListOpt(
        "subscriber_types",
        default=["http", "https", "mailto", "trust+http", "trust+https"],
        help="URI schemes that a subscriber may have.",
    ),
    cfg.IntOpt("max_flavors_per_page", default=20, min=1, help="Maximum number of flavors in one page."),
    cfg.IntOpt("max_pools_per_page", default=20, min=1, help="Maximum number of pools in one page."),
    cfg.StrOpt(
        "client_id_uuid_safe",
        default="strict",
        choices=["strict", "off"],
        help="Whether a Client-ID has to be a UUID (strict) or any text of an allowed length (off).",
    ),
    cfg.IntOpt(
        "min_length_client_id",
        default=10,
        help="Minimum number of characters of a Client-ID, if client_id_uuid_safe is off.",
    ),
    cfg.IntOpt(
        "max_length_client_id",
        default=36,
        help="Maximum number of characters of a Client-ID, if client_id_uuid_safe is off.",
    ),
    cfg.IntOpt(
        "max_wait",
        default=20,
        min=0,
        max=20,
        help="Longest time that a request may wait for messages, in seconds. 0: requests cannot wait.",
    ),
    cfg.IntOpt(
        "max_waiting_clients",
        default=2000,
        min=0,
        help="Maximum number of requests that wait for messages in one process. Further ones are answered at once.",
    ),
    cfg.IntOpt(
        "max_waiting_clients_per_project",
        default=500,
        min=0,
        help="Maximum number of requests of one project that wait for messages in one process.",
    ),
    cfg.IntOpt("max_streams", default=5000, min=0, help="Maximum number of streams of messages in one process."),
    cfg.IntOpt(
        "max_streams_per_project",
        default=500,
        min=0,
        help="Maximum number of streams of messages of one project in one process.",
    ),
    cfg.BoolOpt(
        "message_delete_with_claim_id",
        default=False,
        help="Whether a message can be deleted only with the id of the claim that holds it.",
    ),
    cfg.StrOpt(
        "message_encryption_algorithms",
        default="AES256",
        help="How bodies of encrypted queues are encrypted. The only algorithm is AES256, which is AES-256-GCM.",
    ),
    cfg.StrOpt(
        "message_encryption_key",
        secret=True,
        help="The key that encrypts the bodies of encrypted queues: 'base64:' or 'hex:' and 32 random bytes, or any "
        "other text, whose SHA-256 is then the key. 'openssl rand -base64 32' makes one. Without a key, or with the "
        "text AES256, which is the default of earlier releases, no queue can be encrypted.",
    ),
    cfg.ListOpt(
        "message_encryption_old_keys",
        default=[],
        secret=True,
        help="Former keys, in the same forms. They only decrypt bodies that they have encrypted.",
    ),
    cfg.StrOpt(
        "message_encryption_key_file",
        help="A file with one key in each line, in the same forms, the newest first. Its group may read it, but other "
        "users may not. If message_encryption_key is set too, that key is newer than all keys of the file.",
    ),
    cfg.ListOpt(
        "message_encryption_key_ids",
        default=[],
        help="Ids of keys in the key manager that [key_manager] configures (Castellan, such as for Barbican), the "
        "newest first. They are read at start and at SIGHUP, and are older than the keys of the options above.",
    ),
]

_WSGI = [
    cfg.HostAddressOpt("bind", default="127.0.0.1", help="Name or address that zaqar-server listens on."),
    cfg.PortOpt("port", default=8888, help="Port that zaqar-server listens on."),
]

_WEBSOCKET = [
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

_CORS = [
    cfg.ListOpt("allowed_origin", help="Origins, such as https://ui.example, whose pages may use the API; * for all."),
    cfg.BoolOpt("allow_credentials", default=True, help="Whether such pages may send cookies and authentication."),
    cfg.ListOpt(
        "expose_headers", default=["X-OpenStack-Request-ID"], help="Headers of answers that such pages may read."
    ),
    cfg.IntOpt("max_age", default=3600, min=0, help="Seconds for which a browser may keep the answer to a preflight."),
    cfg.ListOpt(
        "allow_methods",
        default=["OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "PATCH"],
        help="Methods that such pages may use, as far as the path serves them.",
    ),
    cfg.ListOpt("allow_headers", default=[], help="Headers that such pages may send. Empty: all that they ask for."),
]

_OSLO_MIDDLEWARE = [
    cfg.BoolOpt(
        "enable_proxy_headers_parsing",
        default=False,
        help="Whether every request comes through a reverse proxy that sets or removes X-Forwarded-Prefix, "
        "X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-For and Forwarded. Links then carry the prefix. Off: these "
        "headers have no effect.",
    ),
]

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {
    "transport": TRANSPORT,
    "drivers:transport:wsgi": _WSGI,
    "drivers:transport:websocket": _WEBSOCKET,
    "cors": _CORS,
    "oslo_middleware": _OSLO_MIDDLEWARE,
}
