# SPDX-License-Identifier: Apache-2.0
"""What ``[notification]`` says about dispatching, typed and read once at start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from oslo_config import cfg


@dataclass(frozen=True, slots=True)
class Bounds:
    """``retention`` is the seconds that a settled delivery is kept; the ``most_`` are numbers of attempts at a time.

    ``largest_post``: bytes of the largest request that posts messages.
    """

    most: int = 200
    most_per_project: int = 100
    most_per_target: int = 10
    retention: float = 259_200.0
    require_confirmation: bool = False
    largest_post: int = 262_144

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        options = conf.notification
        return cls(
            most=options.max_concurrent_deliveries,
            most_per_project=options.max_concurrent_deliveries_per_project,
            most_per_target=options.max_notifier_workers,
            retention=float(options.delivery_retention),
            require_confirmation=options.require_confirmation,
            largest_post=conf.transport.max_messages_post_size,
        )
