# SPDX-License-Identifier: Apache-2.0
"""The options of ``[quota]``: typed, checked and read from the configuration once. ``zaqar.app`` makes the object."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much one project may have. None stands for no limit.

    ``queue_subscriptions`` and ``queue_messages`` are for each queue and topic.
    """

    queues: int | None = None
    subscriptions: int | None = None
    queue_subscriptions: int | None = None
    queue_messages: int | None = None
    stored_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class QuotaSettings:
    """The values of ``[quota]``. Rates are units in a second, 0 for no limit; ``burst`` is in seconds.

    ``processes`` is the number of processes among which each rate is divided.
    """

    from_keystone: bool
    request_rate: float
    post_rate: float
    post_bytes_rate: float
    queue_post_rate: float
    queue_post_bytes_rate: float
    burst: float
    processes: int
    amounts: Amounts
    """The limits of the configuration. With ``from_keystone`` they apply if Keystone has no others."""

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts, *, workers: int = 1) -> QuotaSettings:
        """``workers`` is the number of workers of this server, which divide the rates unless the option says more."""
        quota = conf.quota
        return cls(
            from_keystone=quota.driver == "keystone",
            request_rate=quota.request_rate,
            post_rate=quota.post_rate,
            post_bytes_rate=quota.post_bytes_rate,
            queue_post_rate=quota.queue_post_rate,
            queue_post_bytes_rate=quota.queue_post_bytes_rate,
            burst=quota.burst,
            processes=quota.processes or workers,
            amounts=Amounts(**{name: quota[name] or None for name in Amounts.__dataclass_fields__}),
        )
