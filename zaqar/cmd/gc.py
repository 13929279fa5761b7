# SPDX-License-Identifier: Apache-2.0
"""``zaqar-gc``: removes what is dead from the stores. Nothing depends on it but the space that they take."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from zaqar import app
from zaqar import conf as configuration
from zaqar.clock import Clock, system_clock
from zaqar.cmd import failures
from zaqar.cmd.signals import end_at_once
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.service.reencryption import Reencrypted, reencrypt
from zaqar.storage.base import MessageStore
from zaqar.storage.pools import StoreRef

_log = logging.getLogger(__name__)

BATCH = 1000
"""Records removed in one step: few enough that a post does not wait for it noticeably."""

_PAUSE = 0.01
"""Seconds between two batches, in which others have their turn at the store."""

SHARE_RECORDS = 50_000
SHARE_SECONDS = 5.0
"""What one round spends on one store at most. The rest is for the next round, which follows at once."""

_ROUND_SECONDS = 10.0
"""How long a round waits for its stores. One that is silent for longer is left to its thread, and out of the next."""


def sweep(
    store: MessageStore, *, clock: Clock, pause: Callable[[], None], most: int = SHARE_RECORDS, seconds: float
) -> tuple[int, bool]:
    """Remove dead records, a batch at a time with a pause after each, until the store is clean or the share is used up.

    Returns how many were removed, and whether the store was clean. One that is used all the time is clean for a moment
    at best, so a batch that is not full is the last one.
    """
    end = time.monotonic() + seconds
    removed = 0
    while True:
        batch = store.sweep(now=clock(), limit=BATCH)
        removed += batch
        if batch < BATCH:
            return removed, True
        if removed >= most or time.monotonic() >= end:
            return removed, False
        pause()


_ONLY_STORE = "The configured message store"


class _Share(threading.Thread):
    """The part of a round that is about one store. It is a thread, so that a silent store holds up no other one."""

    def __init__(self, label: str, work: Callable[[], tuple[int, bool]]) -> None:
        # A process that is told to end does not wait for it.
        super().__init__(name=f"sweep of {label}", daemon=True)
        self.label = label
        self._work = work
        self.removed = 0
        self.is_clean = False
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.removed, self.is_clean = self._work()
        except Exception as exc:  # noqa: BLE001, the round raises it
            self.error = exc


class Sweeper:
    """Sweeps the stores side by side in rounds, in each of which every store has the same share."""

    def __init__(
        self,
        *,
        tidy: Callable[[], tuple[int, bool]],
        store_refs: Callable[[], Iterable[StoreRef]],
        clock: Clock,
        pause: Callable[[], None],
        share_seconds: float = SHARE_SECONDS,
        round_seconds: float = _ROUND_SECONDS,
    ) -> None:
        """``tidy`` is what is done to the management store."""
        self._tidy = tidy
        self._store_refs = store_refs
        self._clock = clock
        self._pause = pause
        self._share_seconds = share_seconds
        self._round_seconds = round_seconds
        self._under_way: dict[str, _Share] = {}

    def sweep_round(self) -> bool:
        """One round; whether all stores that answer are clean.

        StoreUnavailable, once the others are done, if a store is away, or has not answered for the whole round.
        """
        end = time.monotonic() + self._round_seconds
        late = set(self._under_way)
        self._begin("The management store", self._tidy)
        away: StoreUnavailable | None = None
        try:
            for store_ref in self._store_refs():
                self._begin(_label_of(store_ref), partial(self._sweep, store_ref))
        except StoreUnavailable as exc:
            # The stores that are there are named by the management store.
            away = exc
        is_clean = True
        removed = 0
        for label, share in list(self._under_way.items()):
            # One that was late in the last round is not waited for in this one.
            share.join(0.0 if label in late else max(0.0, end - time.monotonic()))
            if share.is_alive():
                _log.debug("%s does not answer; its sweep goes on by itself.", label)
                away = away or StoreUnavailable()
                continue
            del self._under_way[label]
            removed += share.removed
            if isinstance(share.error, StoreUnavailable):
                _log.debug("%s is away and was not swept.", label)
                away = share.error
            elif share.error is not None:
                raise share.error
            else:
                is_clean = is_clean and share.is_clean
        _log.debug("removed %d records", removed)
        if away is not None and is_clean:
            raise away
        return is_clean

    def _begin(self, label: str, work: Callable[[], tuple[int, bool]]) -> None:
        if label not in self._under_way:
            self._under_way[label] = share = _Share(label, work)
            share.start()

    def _sweep(self, store_ref: StoreRef) -> tuple[int, bool]:
        return sweep(store_ref.store, clock=self._clock, pause=self._pause, seconds=self._share_seconds)


def _label_of(store_ref: StoreRef) -> str:
    return _ONLY_STORE if store_ref.name is None else f"The store of pool '{store_ref.name}'"


def main(argv: Sequence[str] | None = None) -> int:
    options, rest = _parser().parse_known_args(argv)
    work = partial(_reencrypt, rest) if options.reencrypt else partial(_sweep, rest, every=options.every)
    for number in (signal.SIGTERM, signal.SIGINT):
        # A sweep, and a re-encryption, is many transactions. One that is cut off is rolled back, and made another time.
        # Re-encryption is not complete then.
        signal.signal(number, end_at_once(1 if options.reencrypt else 0))
    return failures.run("zaqar-gc", work)


def _sweep(arguments: Sequence[str], *, every: float | None) -> int:
    conf = configuration.load(arguments)
    configuration.set_up_log(conf)
    parts = app.build(conf)
    try:
        _run(parts, every=every)
    finally:
        parts.close()
    return 0


def _reencrypt(arguments: Sequence[str]) -> int:
    """Encrypt anew what an old key is needed for; 1 if something is left that needs one."""
    conf = configuration.load(arguments)
    configuration.set_up_log(conf)
    parts = app.build(conf)
    try:
        if parts.keys.refusal is not None:
            raise StartupError(f"{parts.keys.refusal}.")
        is_complete = True
        for store_ref in parts.placement.all_stores():
            try:
                result = reencrypt(
                    store_ref.store, keys=parts.keys, clock=system_clock, pause=lambda: time.sleep(_PAUSE)
                )
            except StoreUnavailable:
                print(f"{_label_of(store_ref)} is away; run this again when it is back.", flush=True)
                is_complete = False
            else:
                print("\n".join(_told(_label_of(store_ref), result)), flush=True)
                is_complete = is_complete and result.is_complete
    finally:
        parts.close()
    newest = parts.keys.ids[0]
    print(f"Every encrypted body has the key {newest}." if is_complete else "Keep the old keys, and run this again.")
    return 0 if is_complete else 1


def _told(label: str, result: Reencrypted) -> Iterable[str]:
    yield f"{label}: {result.renewed} bodies were encrypted anew."
    for key, count in sorted(result.waiting.items()):
        yield f"  {count} posts with the key {key} wait for a notifier to make their deliveries."
    for key, count in sorted(result.unreadable.items()):
        yield f"  {count} bodies with the key {key or 'unknown'} cannot be read: it is missing, or they are damaged."
    if result.changed:
        yield f"  {result.changed} bodies were moved or removed meanwhile."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zaqar-gc",
        description="Remove messages and subscriptions that have expired and what is left of deleted queues from the "
        "stores, until none has more than what comes in meanwhile. zaqar-server does this by itself.",
        epilog="--config-file, --config-dir and the options of oslo.log are understood as well.",
    )
    parser.add_argument(
        "--every", type=float, metavar="SECONDS", help="go on, with a pause of this many seconds after each sweep"
    )
    parser.add_argument(
        "--reencrypt",
        action="store_true",
        help="instead, encrypt with the newest key of [transport] what is stored with older ones, and say what is "
        "left; the exit status is 1 if old keys are still needed",
    )
    return parser


def _run(parts: app.Parts, *, every: float | None) -> None:
    sweeper = Sweeper(
        tidy=parts.subscriptions.tidy,
        store_refs=parts.placement.all_stores,
        clock=system_clock,
        pause=lambda: time.sleep(_PAUSE),
    )
    while True:
        try:
            if not sweeper.sweep_round():
                continue
        except StoreUnavailable:
            if every is None:
                raise
            _log.debug("A store is away; the next sweep is in %g s.", every)
        if every is None:
            return
        time.sleep(every)


if __name__ == "__main__":
    sys.exit(main())
