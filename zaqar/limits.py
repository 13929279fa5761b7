# SPDX-License-Identifier: Apache-2.0
"""The limits and defaults of requests: typed, checked and read from the configuration once, at start.

Times are in seconds, sizes in bytes. Reading an option of oslo.config takes microseconds, so requests read this object.
"""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

from zaqar.errors import StartupError

MIN_MESSAGE_TTL = 60
MIN_CLAIM_TTL = 60
MIN_CLAIM_GRACE = 60
MIN_SUBSCRIPTION_TTL = 60

MOST_SECONDS = 2**31 - 1
"""Limit of every time in seconds, except that of subscriptions: about 68 years."""

YEAR_10000 = 253_402_300_800
"""The first second of the year 10000, which a date with four digits cannot express. Subscriptions have to end before.

Clients that want a subscription without an end ask for a TTL close to this limit: Heat for 220,367,260,800 seconds,
Senlin for 2**36. As float seconds such a time is still exact to 0.03 milliseconds.
"""

_MOST_DEFAULT_SUBSCRIPTION_TTL = YEAR_10000 - 32_503_680_000
"""The default TTL counts from the time of each request, so it is limited as if the service ran until the year 3000."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers, lists and switches of ``[transport]`` that requests depend on, under the names of their options."""

    default_message_ttl: int
    default_message_delay: int
    default_claim_ttl: int
    default_claim_grace: int
    default_subscription_ttl: int
    max_queues_per_page: int
    max_messages_per_page: int
    max_subscriptions_per_page: int
    max_messages_per_claim_or_pop: int
    max_flavors_per_page: int
    max_pools_per_page: int
    max_queue_metadata: int
    max_messages_post_size: int
    max_message_ttl: int
    max_message_delay: int
    max_claim_ttl: int
    max_claim_grace: int
    subscriber_types: tuple[str, ...]
    client_id_uuid_safe: str
    min_length_client_id: int
    max_length_client_id: int
    message_delete_with_claim_id: bool
    max_wait: int
    max_waiting_clients: int
    max_waiting_clients_per_project: int
    max_streams: int
    max_streams_per_project: int
    enable_checksum: bool

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Limits:
        """Raises StartupError, naming the option, if two of them contradict each other."""
        names = set(cls.__dataclass_fields__) - {"subscriber_types", "enable_checksum"}
        limits = cls(
            subscriber_types=tuple(scheme.lower() for scheme in conf.transport.subscriber_types),
            enable_checksum=conf.enable_checksum,
            **{name: conf.transport[name] for name in names},
        )
        limits._check()
        return limits

    def _check(self) -> None:
        for name, low, high, bound in (
            ("max_message_ttl", MIN_MESSAGE_TTL, MOST_SECONDS, ""),
            ("max_message_delay", 0, MOST_SECONDS, ""),
            ("max_claim_ttl", MIN_CLAIM_TTL, MOST_SECONDS, ""),
            ("max_claim_grace", MIN_CLAIM_GRACE, MOST_SECONDS, ""),
            ("default_message_ttl", MIN_MESSAGE_TTL, self.max_message_ttl, "max_message_ttl"),
            ("default_message_delay", 0, self.max_message_delay, "max_message_delay"),
            ("default_claim_ttl", MIN_CLAIM_TTL, self.max_claim_ttl, "max_claim_ttl"),
            ("default_claim_grace", MIN_CLAIM_GRACE, self.max_claim_grace, "max_claim_grace"),
            ("default_subscription_ttl", MIN_SUBSCRIPTION_TTL, _MOST_DEFAULT_SUBSCRIPTION_TTL, ""),
            ("min_length_client_id", 1, self.max_length_client_id, "max_length_client_id"),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                most = f"{high} ([transport] {bound})" if bound else str(high)
                raise StartupError(f"[transport] {name}: {value} is not between {low} and {most}.")
