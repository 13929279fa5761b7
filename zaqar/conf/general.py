# SPDX-License-Identifier: Apache-2.0
"""Options of the service as a whole: ``[DEFAULT]``, ``[drivers]``, ``[healthcheck]``, ``[storage]`` and
``[pooling:catalog]``."""

from collections.abc import Mapping, Sequence

from oslo_config import cfg

_DEFAULT = [
    cfg.StrOpt(
        "state_dir",
        sample_default="$XDG_STATE_HOME/zaqar",
        help="Folder of all files that the service writes by itself: the embedded database and the lock of the running "
        "server. Unset: $XDG_STATE_HOME/zaqar, or ~/.local/state/zaqar without that variable.",
    ),
    cfg.StrOpt(
        "auth_strategy",
        default="",
        help="How callers are authenticated: 'keystone', or empty to trust the X-Project-ID header.",
    ),
    cfg.BoolOpt("admin_mode", default=False, help="Whether this server also serves health, pools and flavors."),
    cfg.BoolOpt("pooling", default=False, help="Whether queues are spread over pools of message stores."),
    cfg.BoolOpt(
        "unreliable",
        default=False,
        help="Accepted, but without effect. The banner of zaqar-server and /v2/health show what a store may lose.",
    ),
    cfg.FloatOpt(
        "drain_delay",
        default=0.0,
        min=0.0,
        help="Seconds between the signal to end and the end of zaqar-server, in which it serves requests as before, "
        "but /readyz answers 503, and under gunicorn each answer closes its connection. Balancers need them to notice "
        "that. 5 suits Kubernetes and nginx. A second signal ends the delay.",
    ),
    cfg.BoolOpt(
        "readiness_includes_store",
        default=False,
        help="Whether /readyz answers 503 while a store does not answer. If all servers share the store, a balancer "
        "then has no server left, and its error takes the place of the 503 of the service.",
    ),
    cfg.BoolOpt("enable_checksum", default=False, help="Whether messages are stored and shown with a checksum."),
]

_DRIVERS = [
    cfg.StrOpt(
        "transport",
        default="wsgi",
        choices=["wsgi", "websocket"],
        help="The one transport that zaqar-server serves: HTTP (wsgi) or WebSocket. If it is not set, it serves both.",
    ),
    cfg.StrOpt(
        "message_store",
        default="sqlalchemy",
        help="Name of the driver that keeps messages and claims, an entry point of 'zaqar.data.storage'.",
    ),
    cfg.StrOpt(
        "management_store",
        default="sqlalchemy",
        help="Name of the driver that keeps queues, an entry point of 'zaqar.control.storage'.",
    ),
]

_POOLING_CATALOG = [
    cfg.BoolOpt(
        "enable_virtual_pool",
        default=False,
        help="Whether the message store of this configuration serves as a pool while none is registered.",
    ),
]

_PIPELINES = ("queue_pipeline", "message_pipeline", "claim_pipeline", "subscription_pipeline", "topic_pipeline")

_STORAGE = [
    cfg.ListOpt(
        name,
        default=["zaqar.notification.notifier"] if name == "message_pipeline" else [],
        help=f"Stages that see each {name.removesuffix('_pipeline')} operation on its way to the store, in this order; "
        "entry points of 'zaqar.storage.stages'.",
    )
    for name in _PIPELINES
]

_HEALTHCHECK = [
    cfg.StrOpt(
        "disable_by_file_path",
        help="While this file exists, /healthcheck and /readyz answer 503, so that a balancer sends no more requests.",
    ),
]

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {
    "DEFAULT": _DEFAULT,
    "drivers": _DRIVERS,
    "healthcheck": _HEALTHCHECK,
    "pooling:catalog": _POOLING_CATALOG,
    "storage": _STORAGE,
}
