# SPDX-License-Identifier: Apache-2.0
"""Options of the service as a whole: ``[DEFAULT]``, ``[drivers]``, ``[storage]`` and ``[pooling:catalog]``."""

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
        default=0,
        min=0,
        max=600,
        help="Seconds for which zaqar-server goes on serving after SIGTERM, so that load balancers can stop sending to "
        "it. Meanwhile each answer closes its connection (HTTP under gunicorn). Afterwards running requests are "
        "finished and the ports are closed. A second SIGTERM ends the delay.",
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

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {
    "DEFAULT": _DEFAULT,
    "drivers": _DRIVERS,
    "pooling:catalog": _POOLING_CATALOG,
    "storage": _STORAGE,
}
