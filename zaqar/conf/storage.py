# SPDX-License-Identifier: Apache-2.0
"""``[storage]``"""

from oslo_config import cfg

GROUP = "storage"

_PIPELINES = ("queue_pipeline", "message_pipeline", "claim_pipeline", "subscription_pipeline", "topic_pipeline")

OPTS = [
    cfg.ListOpt(
        name,
        default=["zaqar.notification.notifier"] if name == "message_pipeline" else [],
        help=f"Stages that see each {name.removesuffix('_pipeline')} operation on its way to the store, in this order; "
        "entry points of 'zaqar.storage.stages'.",
    )
    for name in _PIPELINES
]
