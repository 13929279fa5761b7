# SPDX-License-Identifier: Apache-2.0
"""The limits of ``[notification]``, typed, as they are read once at start. ``zaqar.app`` makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from oslo_config import cfg


@dataclass(frozen=True, slots=True)
class Bounds:
    """``most``, ``most_per_project`` and ``most_per_target`` are numbers of attempts at a time.

    ``retention``: seconds that a settled delivery is kept. ``confirmation_pause``: seconds between two confirmations
    of one subscription, and to one target. ``largest_post``: bytes of the largest request that posts messages.
    """

    most: int = 200
    most_per_project: int = 100
    most_per_target: int = 10
    retention: float = 259_200.0
    require_confirmation: bool = False
    confirmation_pause: float = 60.0
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
            confirmation_pause=float(options.confirmation_pause),
            largest_post=conf.transport.max_messages_post_size,
        )
