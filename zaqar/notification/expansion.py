# SPDX-License-Identifier: Apache-2.0
"""Which deliveries a post comes to: one for each of its messages and each subscription whose filter lets it pass."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from zaqar.errors import InvalidInput
from zaqar.model import Delivery, Posted, Subscription
from zaqar.notification.subscribers import gets_messages
from zaqar.schemas.filters import Filter, compile_filter

_log = logging.getLogger(__name__)

MOST_FILTERS = 1_000
"""Compiled filters that are kept."""


class Expander:
    def __init__(self, *, require_confirmation: bool) -> None:
        self._require_confirmation = require_confirmation
        self._filters: OrderedDict[tuple[str, int], Filter | None] = OrderedDict()

    def deliveries(
        self, posted: Posted, subscriptions: Sequence[Subscription]
    ) -> Iterator[tuple[Delivery, Subscription]]:
        """Free ones, each due when its message is; those of one message after the other."""
        wanting = [
            (subscription, self._filter_of(subscription))
            for subscription in subscriptions
            if gets_messages(subscription, require_confirmation=self._require_confirmation)
        ]
        filtered = any(chosen is not None for _, chosen in wanting)
        for number, draft in enumerate(posted.drafts, posted.first):
            body = json.loads(draft.body) if filtered else None
            for subscription, chosen in wanting:
                if chosen is None or chosen.matches(body):
                    yield (
                        Delivery(
                            posted.queue_uid,
                            subscription.id,
                            number,
                            draft.body,
                            draft.ttl,
                            posted.created,
                            posted.client_id,
                            due=posted.created + draft.delay,
                        ),
                        subscription,
                    )

    def _filter_of(self, subscription: Subscription) -> Filter | None:
        policy = subscription.options.get("filter")
        if policy is None:
            return None
        key = subscription.id, subscription.version
        if key not in self._filters:
            self._filters[key] = _compile(subscription, policy)
            if len(self._filters) > MOST_FILTERS:
                self._filters.popitem(last=False)
        self._filters.move_to_end(key)
        return self._filters[key]


def _compile(subscription: Subscription, policy: object) -> Filter | None:
    try:
        return compile_filter(policy, field="options.filter")
    except InvalidInput as exc:
        # It was checked when it was stored, so it was stored by another version. A message too many is better than one
        # that never comes.
        _log.warning("The filter of subscription %s cannot be used and lets all pass: %s", subscription.id, exc)
        return None
