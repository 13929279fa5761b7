# SPDX-License-Identifier: Apache-2.0
"""``[pooling:catalog]``"""

from oslo_config import cfg

GROUP = "pooling:catalog"

OPTS = [
    cfg.BoolOpt(
        "enable_virtual_pool",
        default=False,
        help="Whether the message store of this configuration serves as a pool while none is registered.",
    ),
]
