# SPDX-License-Identifier: Apache-2.0
"""Re-encryption: replaces every stored body that is encrypted with an old key. ``zaqar-gc`` calls it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from zaqar.clock import Clock
from zaqar.encryption.messages import MessageKeys, Unreadable, key_id_of
from zaqar.storage.base import POST, MessageStore, SealedBody

BATCH = 100
"""Records of one step. They are few, because each may have the size of the largest post."""

MOST_WALKS = 10
"""If consumers keep moving old messages, the walks end after this number, and the result is not complete."""


@dataclass(slots=True)
class Reencrypted:
    """The result for one store.

    ``renewed`` counts the bodies that were encrypted with the newest key. ``unreadable`` and ``waiting`` count by key
    id: bodies that could not be decrypted, and posts that a notifier has yet to expand into deliveries. If both and
    ``changed`` are empty, no stored body needs an old key any more.
    """

    renewed: int = 0
    changed: int = 0
    """Bodies that other clients moved or removed during the last walk."""
    unreadable: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)

    @property
    def is_complete(self) -> bool:
        """Whether no stored body needs an old key any more."""
        return not (self.changed or self.unreadable or self.waiting)


def reencrypt(store: MessageStore, *, keys: MessageKeys, clock: Clock, pause: Callable[[], None]) -> Reencrypted:
    """Walk over the store, a batch at a time with a pause after each, until a walk finds nothing to re-encrypt.

    One walk may miss a body that moves meanwhile, such as a dead letter or a post that becomes deliveries. The service
    must encrypt with the newest key already, so each walk finds fewer bodies. ``keys`` must have a key. The function
    can be stopped at any time and run again, because a body with the newest key is skipped. Raises StoreUnavailable.
    """
    renewed = 0
    for _ in range(MOST_WALKS):
        result = _walk(store, keys, clock, pause)
        renewed += result.renewed
        if not (result.renewed or result.changed):
            break
    else:
        # The last walk still found bodies, so more may be left.
        result.changed = max(1, result.changed)
    result.renewed = renewed
    return result


def _walk(store: MessageStore, keys: MessageKeys, clock: Clock, pause: Callable[[], None]) -> Reencrypted:
    result = Reencrypted()
    after = None
    while True:
        found, after = store.sealed_bodies.find(without=keys.up_to_date, after=after, limit=BATCH)
        _renew(store, found, keys, clock(), result)
        if after is None:
            return result
        pause()


def _renew(store: MessageStore, found: list[SealedBody], keys: MessageKeys, now: float, result: Reencrypted) -> None:
    replacements = []
    for each in found:
        if each.kind == POST:
            result.waiting[key_id_of(each.body)] += 1
            continue
        try:
            replacements.append((each, keys.reseal(each.body, now=now)))
        except Unreadable as exc:
            result.unreadable[exc.key_id] += 1
    if replacements:
        replaced = store.sealed_bodies.replace(replacements=replacements)
        result.renewed += replaced
        result.changed += len(replacements) - replaced
