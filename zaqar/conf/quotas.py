# SPDX-License-Identifier: Apache-2.0
"""Options of limits for tenants: ``[quota]``, and ``[oslo_limit]`` for limits that Keystone has.

oslo.limit defines the options of ``[oslo_limit]``. It registers them if ``[quota] driver`` is ``keystone``. Those that
a deployment usually needs are listed here for the sample and the documentation.
"""

from collections.abc import Mapping, Sequence

from oslo_config import cfg

_EACH_WORKER = "Each worker admits its share, see processes. 0: no limit."

_QUOTA = [
    cfg.StrOpt(
        "driver",
        default="config",
        choices=["config", "keystone"],
        help="Where the limits of queues, subscriptions, queue_messages and stored_bytes come from: from the options "
        "below, or from the unified limits of Keystone, which may differ between projects. For the second, oslo.limit "
        "has to be installed (pip install 'zaqar[keystone]'), [oslo_limit] has to be set, and Keystone should have "
        "registered limits with the names zaqar_queues, zaqar_subscriptions, zaqar_queue_messages and "
        "zaqar_stored_mib. Options below apply while Keystone has not answered, and to names that are not registered.",
    ),
    cfg.FloatOpt(
        "request_rate",
        default=0.0,
        min=0.0,
        help=f"Requests of a project in a second, over HTTP and WebSocket. Further ones get 429. {_EACH_WORKER}",
    ),
    cfg.FloatOpt(
        "post_rate",
        default=0.0,
        min=0.0,
        help=f"Messages that a project posts in a second. Further posts get 429. {_EACH_WORKER}",
    ),
    cfg.FloatOpt(
        "post_bytes_rate",
        default=0.0,
        min=0.0,
        help=f"Bytes of the bodies of requests in which a project posts, in a second. Further posts get 429. "
        f"{_EACH_WORKER}",
    ),
    cfg.FloatOpt(
        "queue_post_rate",
        default=0.0,
        min=0.0,
        help=f"Messages that are posted to one queue or topic in a second. Further posts get 429. {_EACH_WORKER}",
    ),
    cfg.FloatOpt(
        "queue_post_bytes_rate",
        default=0.0,
        min=0.0,
        help="Bytes of the bodies of requests that post to one queue or topic, in a second. Further posts get 429. "
        f"{_EACH_WORKER}",
    ),
    cfg.FloatOpt(
        "burst",
        default=5.0,
        min=1.0,
        help="Part of a rate that may be used at once after a pause, in seconds: a project with 100 requests a second "
        "may send 500 at once if this is 5.",
    ),
    cfg.IntOpt(
        "processes",
        default=0,
        min=0,
        help="Number by which the rates are divided, because each worker counts for itself: that of the workers on all "
        "hosts. 0: the number of workers of this server; a WebSocket process then does not divide the rates.",
    ),
    cfg.IntOpt(
        "queues",
        default=10_000,
        min=0,
        help="Queues of a project, and in the same way topics. The creation of more is refused with 403. 0: no limit.",
    ),
    cfg.IntOpt(
        "subscriptions",
        default=10_000,
        min=0,
        help="Subscriptions of a project. The creation of more is refused with 403. 0: no limit.",
    ),
    cfg.IntOpt(
        "queue_subscriptions",
        default=100,
        min=0,
        help="Subscriptions of one queue or topic, without those of WebSocket connections. The creation of more is "
        "refused with 403. 0: no limit.",
    ),
    cfg.IntOpt(
        "queue_messages",
        default=0,
        min=0,
        help="Messages in one queue or topic, claimed and delayed ones too. Posts to a full queue are refused with "
        "403. Each worker counts every ten seconds, or every second if more than 80 % are used, and adds its own posts "
        "in between. 0: no limit.",
    ),
    cfg.IntOpt(
        "stored_bytes",
        default=0,
        min=0,
        help="Bytes of the bodies of all messages that a project stores. Further posts are refused with 403. Counted "
        "like queue_messages. 0: no limit.",
    ),
]

OSLO_LIMIT_GROUP = "oslo_limit"

_OSLO_LIMIT = [
    cfg.StrOpt(
        "endpoint_id", help="The id of this service's endpoint in Keystone. Registered limits belong to an endpoint."
    ),
    cfg.StrOpt("auth_type", help="How the service user authenticates, usually 'password'."),
    cfg.StrOpt("auth_url", help="The URL of Keystone."),
    cfg.StrOpt("username", help="The name of the service user. It needs the role reader of the system."),
    cfg.StrOpt("password", secret=True, help="The password of the service user."),
    cfg.StrOpt("user_domain_name", help="The domain of the service user, by its name."),
    cfg.StrOpt("system_scope", help="'all', for a token of the system."),
    cfg.StrOpt("cafile", help="File of the CA certificates that verify the certificate of Keystone."),
    cfg.IntOpt("timeout", default=5, help="Seconds that each request to Keystone may take."),
]

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {"quota": _QUOTA}

GROUPS_OF_LIBRARIES: Mapping[str, Sequence[cfg.Opt]] = {OSLO_LIMIT_GROUP: _OSLO_LIMIT}
"""Options that a library registers when the service uses it."""
