# SPDX-License-Identifier: Apache-2.0
"""Encryption anew: every stored body that is sealed with an old key is sealed with the newest one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from zaqar.clock import Clock
from zaqar.encryption.messages import MessageKeys, Unreadable, key_id_of
from zaqar.storage.base import POST, MessageStore, SealedBody

BATCH = 100
"""Records that are looked at in one step: a few, as each may be as large as a post may be."""

MOST_WALKS = 10
"""Where consumers keep moving old messages, the walks end, and the result says that something was moved."""


@dataclass(slots=True)
class Reencrypted:
    """What became of the bodies of one store.

    ``unreadable`` and ``waiting`` count by the id of the key: bodies that could not be opened, and posts whose
    deliveries the notifier has yet to make. Without either, no stored body needs an old key any more.
    """

    renewed: int = 0
    changed: int = 0
    """Those that somebody moved or removed during the last walk."""
    unreadable: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)

    @property
    def is_complete(self) -> bool:
        return not (self.changed or self.unreadable or self.waiting)


def reencrypt(store: MessageStore, *, keys: MessageKeys, clock: Clock, pause: Callable[[], None]) -> Reencrypted:
    """Walk over the store, a batch at a time with a pause after each, until a walk finds nothing to encrypt anew.

    One walk may miss what moves meanwhile: a dead letter to its queue, a post that becomes deliveries. As the service
    uses the newest key by now, each walk leaves less. ``keys`` must be able to seal. It can be stopped at any time and
    run again: what is done is passed over. Raises StoreUnavailable.
    """
    renewed = 0
    for _ in range(MOST_WALKS):
        result = _walk(store, keys, clock, pause)
        renewed += result.renewed
        if not (result.renewed or result.changed):
            break
    else:
        # Only a walk that finds nothing shows that nothing is left.
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
