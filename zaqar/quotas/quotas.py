# SPDX-License-Identifier: Apache-2.0
"""The limits of one process, in one object. ``zaqar.app`` makes it; the service and the transports ask it.

Its fields are None for limits that are not set, so that a request that no limit applies to takes no step more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zaqar.clock import Clock
from zaqar.metrics.recorder import Recorder
from zaqar.quotas.amounts import AmountChecks, AmountSource, ConfiguredAmounts
from zaqar.quotas.rates import Rates
from zaqar.quotas.settings import Amounts, QuotaSettings
from zaqar.quotas.unified_limits import UnifiedLimits
from zaqar.quotas.usage import UsageChecks
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement


@dataclass(slots=True)
class Quotas:
    """All limits of ``[quota]``. Without arguments, there are none."""

    source: AmountSource = field(default_factory=lambda: ConfiguredAmounts(Amounts()))
    """The limits of amounts of each project."""
    rates: Rates | None = None
    request_rates: Rates | None = None
    """``rates`` if the rate of requests is limited, else None."""
    post_rates: Rates | None = None
    """``rates`` if a rate of posts is limited, else None."""
    amounts: AmountChecks | None = None
    usage: UsageChecks | None = None

    @classmethod
    def make(
        cls,
        settings: QuotaSettings,
        *,
        management: ManagementStore,
        placement: Placement,
        clock: Clock,
        recorder: Recorder | None,
    ) -> Quotas:
        """Make the limits of a process that serves clients."""
        configured = settings.amounts
        source = UnifiedLimits(configured) if settings.from_keystone else ConfiguredAmounts(configured)
        rates = Rates(settings, recorder)
        counts = settings.from_keystone or configured.queue_messages is not None or configured.stored_bytes is not None
        return cls(
            source=source,
            rates=rates,
            request_rates=None if rates.of_requests is None else rates,
            post_rates=rates if rates.of_posts else None,
            amounts=AmountChecks(management, source, recorder),
            usage=UsageChecks(management, placement, source, clock, recorder) if counts else None,
        )

    def close(self) -> None:
        """End the thread that asks Keystone, if there is one."""
        if isinstance(self.source, UnifiedLimits):
            self.source.close()
