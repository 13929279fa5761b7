# SPDX-License-Identifier: Apache-2.0
"""``zaqar-gc``: removes expired and deleted records from the stores. The service is correct without it.

Clients never see these records. Until they are removed they only take space. ``zaqar-server`` runs this command.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial

from zaqar import app
from zaqar import conf as configuration
from zaqar.clock import Clock, system_clock
from zaqar.cmd import failures
from zaqar.cmd.exporting import exporting
from zaqar.cmd.signals import end_at_once
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.logs import setup as logs
from zaqar.metrics.recorder import SAMPLE_SECONDS
from zaqar.service.reencryption import Reencrypted, reencrypt
from zaqar.storage.base import MessageStore
from zaqar.storage.pools import StoreRef

_log = logging.getLogger(__name__)

BATCH = 1000
"""Records removed in one step. A step with this many is so short that a post does not wait for it noticeably."""

_PAUSE = 0.01
"""Seconds between two batches, in which requests have the store to themselves."""

SHARE_RECORDS = 50_000
SHARE_SECONDS = 5.0
"""Limits of one round for one store. The next round, which follows at once, removes the rest."""

_ROUND_SECONDS = 10.0
"""How long a round waits for its stores. A store that is silent for longer does not hold up the next round."""


def sweep(
    store: MessageStore, *, clock: Clock, pause: Callable[[], None], most: int = SHARE_RECORDS, seconds: float
) -> tuple[int, bool]:
    """Remove records in batches, with pauses, until the store is clean or ``most`` records or ``seconds`` are reached.

    Returns the number of removed records, and whether the store is clean. It counts as clean after a batch that is not
    full, because new records expire all the time.
    """
    end = time.monotonic() + seconds
    removed = 0
    while True:
        batch = store.sweep(now=clock(), limit=BATCH).removed
        removed += batch
        if batch < BATCH:
            return removed, True
        if removed >= most or time.monotonic() >= end:
            return removed, False
        pause()


_ONLY_STORE = "The configured message store"


class _StoreSweep(threading.Thread):
    """The part of a round that sweeps one store. It is a thread, so that a silent store holds up no other one."""

    def __init__(self, label: str, work: Callable[[], tuple[int, bool]]) -> None:
        # A daemon thread, so that a process that is told to end does not wait for a silent store.
        super().__init__(name=f"sweep of {label}", daemon=True)
        self.label = label
        self._work = work
        self.removed = 0
        self.is_clean = False
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.removed, self.is_clean = self._work()
        except Exception as exc:  # noqa: BLE001, sweep_round() raises it
            self.error = exc


class Sweeper:
    """Sweeps all stores at the same time, in rounds. Each round has the same limits for every store."""

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
        """``tidy`` sweeps the management store. It returns the number of removed records and whether all is clean."""
        self._tidy = tidy
        self._store_refs = store_refs
        self._clock = clock
        self._pause = pause
        self._share_seconds = share_seconds
        self._round_seconds = round_seconds
        self._under_way: dict[str, _StoreSweep] = {}

    def sweep_round(self) -> bool:
        """Run one round. Returns whether all stores that answer are clean.

        Raises StoreUnavailable, after the other stores are done, if a store is away or has not answered in this round.
        """
        end = time.monotonic() + self._round_seconds
        late = set(self._under_way)
        self._begin("The management store", self._tidy)
        away: StoreUnavailable | None = None
        try:
            for store_ref in self._store_refs():
                self._begin(_label_of(store_ref), partial(self._sweep, store_ref))
        except StoreUnavailable as exc:
            # The management store, which has the list of the pools, is away. The stores listed so far are swept.
            away = exc
        is_clean = True
        removed = 0
        for label, sweeping in list(self._under_way.items()):
            # Do not wait again for a store that has not answered in the last round. Its thread goes on, and the first
            # round after it has ended collects its result.
            sweeping.join(0.0 if label in late else max(0.0, end - time.monotonic()))
            if sweeping.is_alive():
                _log.debug("%s does not answer; its sweep goes on by itself.", label)
                away = away or StoreUnavailable()
                continue
            del self._under_way[label]
            removed += sweeping.removed
            if isinstance(sweeping.error, StoreUnavailable):
                _log.debug("%s is away and was not swept.", label)
                away = sweeping.error
            elif sweeping.error is not None:
                raise sweeping.error
            else:
                is_clean = is_clean and sweeping.is_clean
        _log.debug("removed %d records", removed)
        if away is not None and is_clean:
            raise away
        return is_clean

    def _begin(self, label: str, work: Callable[[], tuple[int, bool]]) -> None:
        if label not in self._under_way:
            self._under_way[label] = sweeping = _StoreSweep(label, work)
            sweeping.start()

    def _sweep(self, store_ref: StoreRef) -> tuple[int, bool]:
        return sweep(store_ref.store, clock=self._clock, pause=self._pause, seconds=self._share_seconds)


def _label_of(store_ref: StoreRef) -> str:
    return _ONLY_STORE if store_ref.name is None else f"The store of pool '{store_ref.name}'"


def main(argv: Sequence[str] | None = None) -> int:
    options, rest = _parser().parse_known_args(argv)
    work = partial(_reencrypt, rest) if options.reencrypt else partial(_sweep, rest, every=options.every)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Ending at once is safe: a sweep or a re-encryption consists of many transactions. The store rolls back a
        # transaction that is cut off, and the next run repeats it. The status 1 says that re-encryption is incomplete.
        signal.signal(number, end_at_once(1 if options.reencrypt else 0))
    return failures.run("zaqar-gc", work)


def _sweep(arguments: Sequence[str], *, every: float | None) -> int:
    conf = configuration.load(arguments)
    logs.set_up(conf, "sweeper")
    parts = app.build(conf, part="sweeper")
    try:
        with nullcontext() if every is None else exporting(lambda: parts):
            _run(parts, every=every)
    finally:
        parts.close()
    return 0


def _reencrypt(arguments: Sequence[str]) -> int:
    """Encrypt bodies that need an old key with the newest one. Returns the exit status: 1 if an old key is needed."""
    conf = configuration.load(arguments)
    logs.set_up(conf, "sweeper")
    parts = app.build(conf, part="sweeper")
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
                print("\n".join(_lines_of(_label_of(store_ref), result)), flush=True)
                is_complete = is_complete and result.is_complete
    finally:
        parts.close()
    newest = parts.keys.ids[0]
    print(f"Every encrypted body has the key {newest}." if is_complete else "Keep the old keys, and run this again.")
    return 0 if is_complete else 1


def _lines_of(label: str, result: Reencrypted) -> Iterable[str]:
    yield f"{label}: {result.renewed} bodies were encrypted again."
    for key, count in sorted(result.waiting.items()):
        yield f"  {count} posts with the key {key} wait for a notifier to make their deliveries."
    for key, count in sorted(result.unreadable.items()):
        yield f"  {count} bodies with the key {key or 'unknown'} cannot be read: it is missing, or they are damaged."
    if result.changed:
        yield f"  {result.changed} bodies were moved or removed meanwhile."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zaqar-gc",
        description="Remove expired messages, expired subscriptions and the messages of deleted queues from the "
        "stores, until all that have accumulated are gone. zaqar-server does this by itself.",
        epilog="--config-file, --config-dir and the options of oslo.log are understood as well.",
    )
    parser.add_argument(
        "--every", type=float, metavar="SECONDS", help="go on, with a pause of this many seconds after each sweep"
    )
    parser.add_argument(
        "--reencrypt",
        action="store_true",
        help="instead of that, encrypt bodies that older keys of [transport] have encrypted with the newest one, and "
        "print the number of those that are left; the exit status is 1 if old keys are still needed",
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
        _beat(parts)
        try:
            if not sweeper.sweep_round():
                continue
        except StoreUnavailable:
            if every is None:
                raise
            _log.debug("A store is away; the next sweep is in %g s.", every)
        if every is None:
            return
        end = time.monotonic() + every
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, SAMPLE_SECONDS))
            _beat(parts)


def _beat(parts: app.Parts) -> None:
    """Note in the metrics that the sweeper goes on, which ``/livez`` of the exporter shows."""
    if parts.recorder is not None:
        parts.recorder.beat()


if __name__ == "__main__":
    sys.exit(main())
